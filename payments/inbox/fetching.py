"""Asks Stripe for a PaymentIntent that is in doubt, outside any transaction; the answer becomes a row of the inbox."""

from typing import Any, Protocol, assert_never

import msgspec
import structlog

from payments.database.connections import Pool, transaction
from payments.database.queries import load_queries
from payments.domain.identifiers import new_id
from payments.domain.signals import RETRIEVE
from payments.inbox.rows import receive
from payments.inbox.waiting import bury, claim_leased, put_off, put_off_by_age, supersede
from payments.inbox.weighing import FetchWanted
from payments.stripe_gateway.outcomes import (
    Answered,
    Declined,
    KeyInUse,
    KeyMisused,
    Outcome,
    RateLimited,
    Refused,
    Unauthorized,
    Unknown,
)

MESSAGE_TYPE = "fetched.payment_intent"
# After no answer: soon, for the payment waits; an outage is met with at most one try a minute for each row.
PAUSE_S_MIN = 1.0
PAUSE_S_MAX = 60.0
# Too fast, or our key is refused: the call was not made, and the next one will hardly fare better at once.
RATE_PAUSE_S_MIN = 3.0
KEY_PAUSE_S_MIN = 30.0

_QUERIES = load_queries("inbox")
log = structlog.get_logger()


class Gateway(Protocol):
    """The one call that the recorder makes; payments.stripe_gateway.gateway.StripeGateway has it."""

    async def retrieve_payment_intent(self, intent_id: str) -> Outcome:
        """Stripe's PaymentIntent as it is now; never raises for what Stripe or the network does."""


async def fetch(pool: Pool, gateway: Gateway, wanted: FetchWanted) -> bool:
    """Fetches one PaymentIntent for the rows that wait for it; True when a new row came of it.

    Without an answer the rows stay, put off. Raises what the database raises; the rows' lease then runs out.
    """
    async with pool.connection() as conn:
        # Before the call: whatever is weighed from now on may be newer than what comes back.
        cursor = await conn.execute(_QUERIES["last_history_id"], {"payment_id": wanted.payment_id})
        row: Any = await cursor.fetchone()
    outcome = await gateway.retrieve_payment_intent(wanted.intent_id)
    log.info("intent.fetched", payment_id=str(wanted.payment_id), outcome=type(outcome).__name__)
    match outcome:
        case Answered():
            found = {"outcome": "answered", "object": outcome.object, "httpStatus": outcome.http_status}
            await _record(pool, wanted, outcome.request_id, {**found, "afterHistoryId": row[0]})
            return True
        case Refused(http_status=404):
            found = {"outcome": "refused", "error": outcome.error, "httpStatus": outcome.http_status}
            await _record(pool, wanted, outcome.request_id, {**found, "intentId": wanted.intent_id})
            return True
        case RateLimited():
            await _put_off(pool, wanted, RATE_PAUSE_S_MIN, "Stripe says: too fast")
        case Unauthorized():
            log.error("intent.fetch_refused", http_status=outcome.http_status)
            await _put_off(pool, wanted, KEY_PAUSE_S_MIN, "Stripe refuses our API key")
        case Unknown():
            await _put_off(pool, wanted, PAUSE_S_MIN, f"no answer from Stripe: {outcome.why}")
        case KeyInUse():
            await _put_off(pool, wanted, PAUSE_S_MIN, "Stripe is busy with it")
        case Refused() | Declined() | KeyMisused():
            await _bury(pool, wanted, f"Stripe refused to show {wanted.intent_id}: {type(outcome).__name__}")
        case _:
            assert_never(outcome)
    return False


async def _record(pool: Pool, wanted: FetchWanted, request_id: str | None, found: dict[str, Any]) -> None:
    payload = msgspec.json.encode({"operation": RETRIEVE, "requestId": request_id, **found})
    async with transaction(pool) as conn:
        if not await supersede(conn, wanted.inbox_ids, wanted.payment_id):
            return  # our lease ran out, and somebody else was quicker
        # Stripe's request ids are unique; other servers may repeat theirs or give none, and no answer may get lost.
        for message_id in (f"{wanted.intent_id}/{request_id}", f"{wanted.intent_id}/{request_id}/{new_id()}"):
            if await receive(conn, "reconciler", message_id, MESSAGE_TYPE, wanted.payment_id, payload):
                return


async def _put_off(pool: Pool, wanted: FetchWanted, pause_s_min: float, why: str) -> None:
    """The rows wait as long again as they have waited, within bounds; no attempt of theirs is used up by it."""
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
