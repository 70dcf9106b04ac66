"""Asks Stripe for an object that is in doubt, outside any transaction; the answer becomes a row of the inbox.

The recorder fetches for rows that wait (`fetch`); whoever else has asked for an object hands it to `receive_fetched`.
"""

from typing import Any, Protocol, assert_never
from uuid import UUID

import msgspec
import structlog

from payments.database.connections import Connection, Pool, statements, transaction
from payments.database.queries import load_queries
from payments.domain.adoption import is_ours
from payments.domain.facts import payment_id_of
from payments.domain.identifiers import new_id
from payments.domain.signals import Kind
from payments.inbox.rows import receive
from payments.inbox.waiting import bury, claim_leased, disown, put_off, put_off_by_age, reconsider, supersede
from payments.stripe_gateway.outcomes import (
    Answered,
    Declined,
    KeyInUse,
    KeyMisused,
    Outcome,
    RateLimited,
    Refused,
    StripeObject,
    Unauthorized,
    Unknown,
)

# After no answer: soon, for the payment waits; an outage is met with at most one try a minute for each row.
PAUSE_S_MIN = 1.0
PAUSE_S_MAX = 60.0
# Too fast, or our key is refused: the call was not made, and the next one will hardly fare better at once.
RATE_PAUSE_S_MIN = 3.0
KEY_PAUSE_S_MIN = 30.0
# Rows that wait for their PaymentIntent come after it: by then it is weighed, usually.
RECONSIDER_S = 0.5

_QUERIES = load_queries("inbox")
log = structlog.get_logger()


class Gateway(Protocol):
    """The calls made here; payments.stripe_gateway.gateway.StripeGateway has them. None raises for what Stripe does."""

    async def retrieve_payment_intent(self, intent_id: str) -> Outcome:
        """Stripe's PaymentIntent as it is now, its charge expanded."""

    async def retrieve_refund(self, refund_id: str) -> Outcome:
        """Stripe's refund as it is now."""

    async def retrieve_dispute(self, dispute_id: str) -> Outcome:
        """Stripe's dispute as it is now."""


class FetchWanted(msgspec.Struct, frozen=True):
    """An object to ask Stripe for, and the rows that wait for it.

    `payment_id` is None while nobody knows whose it is. `intent_id`: its PaymentIntent is asked for as well.
    `replaces`: what comes is weighed instead of the rows; else the rows are weighed after it.
    """

    kind: Kind
    object_id: str
    payment_id: UUID | None
    inbox_ids: list[int]
    intent_id: str | None = None
    replaces: bool = True


async def ask(gateway: Gateway, kind: Kind, object_id: str) -> Outcome:
    """Stripe's object as it is now; raises nothing."""
    match kind:
        case Kind.PAYMENT_INTENT:
            return await gateway.retrieve_payment_intent(object_id)
        case Kind.REFUND:
            return await gateway.retrieve_refund(object_id)
        case Kind.DISPUTE:
            return await gateway.retrieve_dispute(object_id)
        case _:
            assert_never(kind)


async def last_history_id(pool: Pool, payment_id: UUID | None) -> int:
    """How far a payment's history goes; read it before asking: what is weighed from then on may be newer."""
    if payment_id is None:
        return 0
    async with statements(pool) as conn:
        row: Any = await (await conn.execute(_QUERIES["last_history_id"], {"payment_id": payment_id})).fetchone()
    return int(row[0])


def is_word(outcome: Outcome) -> bool:
    """Whether Stripe has shown the object, or said that there is none."""
    return isinstance(outcome, Answered) or (isinstance(outcome, Refused) and outcome.http_status == 404)


async def receive_fetched(  # noqa: PLR0913, PLR0917 - what a row is made of
    conn: Connection,
    kind: Kind,
    object_id: str,
    payment_id: UUID | None,
    outcome: Outcome,
    after_history_id: int,
    intent: StripeObject | None = None,
) -> None:
    """Puts a fetched object into the inbox; joins the caller's transaction. `intent`: its PaymentIntent, for a refund.

    An object out of a list is given as an `Answered` of its own, with the request id of the list. Raises ValueError for
    an outcome that is no word of Stripe's (`is_word`).
    """
    match outcome:
        case Answered():
            found = {"outcome": "answered", "object": outcome.object, "afterHistoryId": after_history_id}
        case Refused(http_status=404):
            found = {"outcome": "refused", "error": outcome.error, "objectId": object_id}
        case _:
            raise ValueError(f"{type(outcome).__name__} tells nothing of the {kind.label}")
    more = {"paymentIntent": intent} if intent is not None else {}
    payload = msgspec.json.encode(
        {
            "operation": kind.operation,
            "httpStatus": outcome.http_status,
            "requestId": outcome.request_id,
            **found,
            **more,
        }
    )
    # Stripe's request ids are unique; other servers may repeat theirs or give none, and no answer may get lost.
    for message_id in (f"{object_id}/{outcome.request_id}", f"{object_id}/{outcome.request_id}/{new_id()}"):
        if await receive(conn, "reconciler", message_id, kind.message_type, payment_id, payload):
            return


async def fetch(pool: Pool, gateway: Gateway, wanted: FetchWanted) -> bool:
    """Fetches one object for the rows that wait for it; True when a new row came of it.

    Without an answer the rows stay, put off. Raises what the database raises; the rows' lease then runs out.
    """
    after = await last_history_id(pool, wanted.payment_id)
    intent: Outcome | None = None
    if wanted.intent_id is not None:
        intent = await ask(gateway, Kind.PAYMENT_INTENT, wanted.intent_id)
        if not is_word(intent):
            await _wait(pool, wanted, intent)
            return False
    outcome = await ask(gateway, wanted.kind, wanted.object_id)
    log.info(
        "object.fetched",
        kind=wanted.kind.value,
        object_id=wanted.object_id,
        payment_id=str(wanted.payment_id) if wanted.payment_id else None,
        outcome=type(outcome).__name__,
    )
    if not is_word(outcome):
        await _wait(pool, wanted, outcome)
        return False
    if wanted.replaces:
        return await _replace(pool, wanted, outcome, after, intent)
    return await _give_owner(pool, wanted, outcome, after)


async def _replace(pool: Pool, wanted: FetchWanted, outcome: Outcome, after: int, intent: Outcome | None) -> bool:
    """What was fetched is weighed instead of the rows."""
    async with transaction(pool) as conn:
        if not await supersede(conn, wanted.inbox_ids, wanted.payment_id):
            return False  # our lease ran out, and somebody else was quicker
        inside = None
        if intent is not None and wanted.intent_id is not None:
            await receive_fetched(conn, Kind.PAYMENT_INTENT, wanted.intent_id, wanted.payment_id, intent, after)
            inside = intent.object if isinstance(intent, Answered) else None
        await receive_fetched(conn, wanted.kind, wanted.object_id, wanted.payment_id, outcome, after, inside)
    return True


async def _give_owner(pool: Pool, wanted: FetchWanted, outcome: Outcome, after: int) -> bool:
    """The rows' PaymentIntent says whose they are: ours, and they are weighed after it, or somebody else's."""
    if not isinstance(outcome, Answered) or not is_ours(outcome.object):
        async with transaction(pool) as conn:
            await disown(conn, wanted.inbox_ids)
        return False
    owner = payment_id_of(outcome.object)
    async with transaction(pool) as conn:
        if not await reconsider(conn, wanted.inbox_ids, owner, RECONSIDER_S):
            return False
        await receive_fetched(conn, wanted.kind, wanted.object_id, owner, outcome, after)
    return True


async def _wait(pool: Pool, wanted: FetchWanted, outcome: Outcome) -> None:
    """No word from Stripe: the rows wait as long again as they have waited; no attempt of theirs is used up by it."""
    match outcome:
        case RateLimited():
            await _put_off(pool, wanted, RATE_PAUSE_S_MIN, "Stripe says: too fast")
        case Unauthorized():
            log.error("object.fetch_refused", http_status=outcome.http_status)
            await _put_off(pool, wanted, KEY_PAUSE_S_MIN, "Stripe refuses our API key")
        case Unknown():
            await _put_off(pool, wanted, PAUSE_S_MIN, f"no answer from Stripe: {outcome.why}")
        case KeyInUse():
            await _put_off(pool, wanted, PAUSE_S_MIN, "Stripe is busy with it")
        case Answered() | Refused() | Declined() | KeyMisused():
            await _bury(pool, wanted, f"Stripe refused to show {wanted.object_id}: {type(outcome).__name__}")
        case _:
            assert_never(outcome)


async def _put_off(pool: Pool, wanted: FetchWanted, pause_s_min: float, why: str) -> None:
    async with transaction(pool) as conn:
        for row in await claim_leased(conn, wanted.inbox_ids):
            await put_off_by_age(conn, row.inbox_id, pause_s_min, PAUSE_S_MAX, why)


async def _bury(pool: Pool, wanted: FetchWanted, why: str) -> None:
    async with transaction(pool) as conn:
        for row in await claim_leased(conn, wanted.inbox_ids):
            await bury(conn, row, wanted.payment_id, why)


async def hand_back(pool: Pool, wanted: FetchWanted, pause_s: float) -> None:
    """Shortens the lease of rows whose fetch was given up: any recorder may take them then."""
    async with transaction(pool) as conn:
        for row in await claim_leased(conn, wanted.inbox_ids):
            await put_off(conn, row.inbox_id, pause_s, "handed back", burnt=0)
