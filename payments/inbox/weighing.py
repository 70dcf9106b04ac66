"""One transaction of the recorder: read rows, lock their payments, decide, and write all that follows."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, assert_never
from uuid import UUID

import msgspec
import structlog

from payments.database.connections import Connection
from payments.database.queries import load_queries
from payments.domain.decisions import Apply, Conflict, Fetch, Ignore, LateMoney, Park, decide_payment
from payments.domain.facts import UnreadableObject
from payments.domain.signals import Elsewhere, Signal, UnreadableSignal
from payments.domain.states import UNSETTLED, PaymentStatus
from payments.inbox.books import Locked, change_payment, event_of, lock_payments
from payments.inbox.reading import InboxRow, Message, read_row, stripe_request_id
from payments.inbox.waiting import Finished, bury, finish, put_off
from payments.outbox.rows import append
from payments.settings import Settings

# Weighed in this very transaction: newer than any fetch that is weighed after it.
_JUST_NOW = 2**63 - 1

_QUERIES = load_queries("inbox")
log = structlog.get_logger()


class FetchWanted(msgspec.Struct, frozen=True):
    """A PaymentIntent to ask Stripe for, and the rows that wait for it."""

    payment_id: UUID
    intent_id: str
    inbox_ids: list[int]


class Weighed(msgspec.Struct):
    """What has to happen once the transaction is committed."""

    row_count: int = 0
    has_published: bool = False
    settled: set[UUID] = msgspec.field(default_factory=set)
    fetches: dict[tuple[UUID, str], FetchWanted] = msgspec.field(default_factory=dict)


async def weigh(conn: Connection, rows: Sequence[InboxRow], settings: Settings, fetch_lease_s: float) -> Weighed:
    """Weighs claimed rows in their order; joins the caller's transaction, which holds their locks.

    A row that nobody can read becomes a dead letter at once. A row in doubt is put off for `fetch_lease_s`; meanwhile
    whoever called fetches the object. Any exception is the whole batch's: nothing may be committed then.
    """
    messages = [message for row in rows if (message := await _read_or_bury(conn, row, settings))]
    payment_ids = await _find_payments(conn, messages)
    books = await lock_payments(conn, set(payment_ids.values()))
    moments: Any = await (await conn.execute(_QUERIES["database_time"])).fetchone()
    weighing = _Weighing(conn, moments[0], settings, fetch_lease_s)
    async with conn.pipeline():
        for message in messages:
            payment_id = payment_ids.get(message.row.inbox_id)
            await weighing.weigh(message, books.get(payment_id) if payment_id else None)
        await weighing.write_rest()
    weighing.result.row_count = len(rows)
    return weighing.result


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


class _Weighing:
    """The transaction under way: where it writes, its one time, and what it comes to."""

    def __init__(self, conn: Connection, at: datetime, settings: Settings, fetch_lease_s: float) -> None:
        self._conn = conn
        self._at = at
        self._settings = settings
        self._fetch_lease_s = fetch_lease_s
        self._history: list[dict[str, object]] = []
        self._finished: list[Finished] = []
        self.result = Weighed()

    async def write_rest(self) -> None:
        """What can be written for all rows at once: history, and the rows' ends."""
        if self._history:
            await self._conn.execute(_QUERIES["add_history"], {"rows": msgspec.json.encode(self._history).decode()})
        if self._finished:
            await finish(self._conn, self._finished)

    async def weigh(self, message: Message, book: Locked | None) -> None:
        row, signal = message.row, message.signal
        if isinstance(signal, Elsewhere):
            log.warning("inbox.quarantined", inbox_id=row.inbox_id, message_id=row.message_id, why=signal.why)
            self._finished.append(Finished(row.inbox_id, "quarantined"))
        elif book is None:
            # Another user of the account, or a payment that a restored backup lost: the reconciler adopts those.
            self._finished.append(Finished(row.inbox_id, "foreign"))
        else:
            await self._decide(row, signal, book)

    async def _decide(self, row: InboxRow, signal: Signal, book: Locked) -> None:
        before = book.payment
        decision = decide_payment(before, signal, livemode=self._settings.stripe_livemode)
        log.info(
            "signal.weighed",
            payment_id=str(before.payment_id),
            signal=row.message_type,
            message_id=row.message_id,
            decision=type(decision).__name__,
            why=decision.why,
        )
        match decision:
            case Apply():
                await self._apply(row, book, decision)
            case Ignore():
                self._keep(row, book, "ignored", decision.why)
            case LateMoney():
                # Compensation begins here, with an outcome of its own; until it exists, an operator must look.
                log.error("payment.late_money", payment_id=str(before.payment_id), intent_id=decision.intent_id)
                self._keep(row, book, "ignored", decision.why)
            case Conflict():
                log.error("payment.conflicted", payment_id=str(before.payment_id), why=decision.why)
                book.payment = msgspec.structs.replace(before, status=PaymentStatus.CONFLICTED, next_action=None)
                await change_payment(self._conn, book)
                self._note(row, before.status, book, "conflicted", decision.why)
                self.result.settled.add(before.payment_id)
            case Park():
                log.error("payment.parked", payment_id=str(before.payment_id), why=decision.why)
                self._note(row, before.status, book, "ignored", decision.why, closes=False)
                await bury(self._conn, row, before.payment_id, decision.why)
            case Fetch():
                await put_off(self._conn, row.inbox_id, self._fetch_lease_s, f"asking Stripe: {decision.why}", burnt=0)
                wanted = FetchWanted(before.payment_id, decision.intent_id, [])
                self.result.fetches.setdefault((before.payment_id, decision.intent_id), wanted).inbox_ids.append(
                    row.inbox_id
                )
            case _:
                assert_never(decision)

    async def _apply(self, row: InboxRow, book: Locked, decision: Apply) -> None:
        before, book.payment = book.payment, decision.after
        if decision.event is not None:
            book.last_sequence += 1
        await change_payment(self._conn, book)
        if decision.event is not None:
            event = event_of(book.payment, decision.event, self._at)
            await append(self._conn, before.payment_id, book.last_sequence, event, self._at)
            self.result.has_published = True
        if book.payment.status is not before.status and book.payment.status not in UNSETTLED:
            self.result.settled.add(before.payment_id)
        self._note(row, before.status, book, "applied", decision.why)

    def _keep(self, row: InboxRow, book: Locked, decided: str, why: str) -> None:
        self._note(row, book.payment.status, book, decided, why)

    def _note(  # noqa: PLR0913 - the columns of a history row
        self,
        row: InboxRow,
        from_status: PaymentStatus,
        book: Locked,
        decided: str,
        why: str,
        *,
        closes: bool = True,
    ) -> None:
        """Remembers the history row, and closes the inbox row with the same word unless told otherwise."""
        values = {
            "payment_id": book.payment.payment_id,
            "signal": row.message_type,
            "source": row.source,
            "from_status": from_status.value,
            "to_status": book.payment.status.value,
            "decision": decided,
            "why": why,
            "stripe_request_id": stripe_request_id(row),
        }
        self._history.append(values)
        book.payment = msgspec.structs.replace(book.payment, last_history_id=_JUST_NOW)
        if closes:
            self._finished.append(Finished(row.inbox_id, decided, book.payment.payment_id))
