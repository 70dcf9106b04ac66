"""One transaction of the recorder: read rows, lock their payments, decide, and write all that follows."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

import structlog

from payments.database.connections import Connection
from payments.database.queries import load_queries
from payments.domain.adoption import LostPayment, read_lost_payment
from payments.domain.facts import UnreadableObject
from payments.domain.signals import (
    DisputeSeen,
    Elsewhere,
    Heard,
    IntentSeen,
    RefundRefused,
    RefundSeen,
    UnreadableSignal,
)
from payments.inbox.aftermath import Weighed
from payments.inbox.books import Locked, adopt_payment, lock_payments, read_refunds_and_disputes
from payments.inbox.reading import InboxRow, Message, read_row
from payments.inbox.verdicts import Clerk
from payments.inbox.waiting import bury, put_off
from payments.settings import Settings

# Until the payment that came before it in its cart is weighed, and has ended.
DEFER_S = 0.2

_QUERIES = load_queries("inbox")
log = structlog.get_logger()


async def weigh(conn: Connection, rows: Sequence[InboxRow], settings: Settings, fetch_lease_s: float) -> Weighed:
    """Weighs claimed rows in their order; joins the caller's transaction, which holds their locks.

    A row that nobody can read becomes a dead letter at once. A row in doubt is put off for `fetch_lease_s`; meanwhile
    whoever called fetches the object. Any exception is the whole batch's: nothing may be committed then.
    """
    messages = [message for row in rows if (message := await _read_or_bury(conn, row, settings))]
    payment_ids = await _find_payments(conn, messages)
    books = await lock_payments(conn, set(payment_ids.values()))
    lost = _find_lost(messages, books)
    deferred = _one_of_each_cart(lost)
    adopted = await _adopt(conn, lost, books)
    touched = {
        payment_ids[message.row.inbox_id]
        for message in messages
        if message.row.inbox_id in payment_ids and isinstance(message.signal, RefundSeen | RefundRefused | DisputeSeen)
    }
    await read_refunds_and_disputes(conn, {payment_id: books[payment_id] for payment_id in touched & set(books)})
    moments: Any = await (await conn.execute(_QUERIES["database_time"])).fetchone()
    clerk = Clerk(conn, moments[0], settings, fetch_lease_s)
    async with conn.pipeline():
        for payment_id, message in adopted.items():
            await clerk.note_adoption(message.row, books[payment_id], lost[payment_id][0])
        for message in messages:
            owner = payment_ids.get(message.row.inbox_id)
            book = books.get(owner) if owner else None
            if owner in deferred:
                await put_off(conn, message.row.inbox_id, DEFER_S, "its cart's earlier payment comes first", burnt=0)
            elif book is None and owner in lost:
                await bury(conn, message.row, owner, "this payment is lost, and its cart has another by now")
            else:
                await clerk.weigh(message, book)
        await clerk.write_rest()
    clerk.result.row_count = len(rows)
    return clerk.result


async def _read_or_bury(conn: Connection, row: InboxRow, settings: Settings) -> Message | None:
    try:
        return read_row(row, settings)
    except (UnreadableSignal, UnreadableObject) as error:
        await bury(conn, row, row.payment_id, str(error))
        return None


async def _find_payments(conn: Connection, messages: Sequence[Message]) -> dict[int, UUID]:
    """Each row's payment: by our metadata, else by the PaymentIntent that a payment of ours is known to have."""
    ours = [message for message in messages if not isinstance(message.signal, Elsewhere)]
    found = {message.row.inbox_id: message.payment_id for message in ours if message.payment_id is not None}
    asked = {message.intent_id for message in ours if message.payment_id is None and message.intent_id is not None}
    if asked:
        cursor = await conn.execute(_QUERIES["find_payments"], {"intent_ids": sorted(asked)})
        pairs: list[Any] = await cursor.fetchall()
        by_intent: dict[str, UUID] = dict(pairs)
        for message in ours:
            if message.payment_id is None and message.intent_id in by_intent:
                found[message.row.inbox_id] = by_intent[message.intent_id]
    return found


def _find_lost(messages: Sequence[Message], books: dict[UUID, Locked]) -> dict[UUID, tuple[LostPayment, Message]]:
    """Payments that nobody here knows, though Stripe has just shown their PaymentIntents."""
    lost: dict[UUID, tuple[LostPayment, Message]] = {}
    for message in messages:
        signal, payment_id = message.signal, message.payment_id
        is_shown = isinstance(signal, IntentSeen) and signal.heard is Heard.FETCHED
        if payment_id is None or payment_id in books or not is_shown:
            continue
        payment = read_lost_payment(message.row.payload.get("object"), payment_id)
        if payment is not None:
            lost.setdefault(payment_id, (payment, message))
    return lost


def _one_of_each_cart(lost: dict[UUID, tuple[LostPayment, Message]]) -> set[UUID]:
    """Takes out all but the earliest of each cart: that must have ended before there can be another."""
    carts: set[UUID] = set()
    deferred: set[UUID] = set()
    for payment_id in sorted(lost):
        cart_id = lost[payment_id][0].cart_id
        if cart_id in carts:
            deferred.add(payment_id)
        carts.add(cart_id)
    for payment_id in deferred:
        del lost[payment_id]
    return deferred


async def _adopt(
    conn: Connection, lost: dict[UUID, tuple[LostPayment, Message]], books: dict[UUID, Locked]
) -> dict[UUID, Message]:
    """Inserts lost payments, in the order of their ids and after all other locks, and adds them to the books."""
    adopted: dict[UUID, Message] = {}
    for payment_id in sorted(lost):
        payment, message = lost[payment_id]
        if await adopt_payment(conn, payment):
            adopted[payment_id] = message
    # Also those that another recorder has adopted a moment ago.
    books.update(await lock_payments(conn, set(lost)))
    return adopted
