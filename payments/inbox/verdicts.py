"""Carries out what was decided: payment, refund, dispute, history, outbox and commands, in the caller's transaction."""

from datetime import datetime
from typing import assert_never

import msgspec
import structlog

from payments.database.connections import Connection
from payments.database.queries import load_queries
from payments.domain.adoption import LostPayment
from payments.domain.decisions import (
    Apply,
    Cancel,
    Compensate,
    Conflict,
    Fetch,
    Following,
    GiveBack,
    Ignore,
    Park,
    Wait,
)
from payments.domain.disputes import DisputeChange, decide_dispute, is_disputed
from payments.domain.identifiers import new_id
from payments.domain.intents import decide_payment
from payments.domain.payment import Payment
from payments.domain.refunds import COMPENSATION, Refund, RefundChange, RefundStatus, decide_refund
from payments.domain.signals import DisputeSeen, Elsewhere, Kind, Mentioned, RefundRefused, RefundSeen, Signal
from payments.domain.states import ENDED_WITHOUT_MONEY, UNSETTLED, EventType, PaymentStatus
from payments.inbox.aftermath import Weighed
from payments.inbox.books import Locked, add_dispute, add_refund, change_dispute, change_payment, change_refund
from payments.inbox.commands import send_cancel
from payments.inbox.fetching import PAUSE_S_MAX, PAUSE_S_MIN, FetchWanted
from payments.inbox.news import adopted_event, dispute_event, payment_event, refund_event
from payments.inbox.reading import InboxRow, Message, stripe_request_id
from payments.inbox.waiting import Finished, bury, finish, put_off, put_off_by_age
from payments.outbox.events import Event
from payments.outbox.rows import append
from payments.settings import Settings

# Weighed in this very transaction: newer than any fetch that is weighed after it.
_JUST_NOW = 2**63 - 1
# A refund that fits nowhere waits for one of ours to end, which may take Stripe days; then a person must look.
WAIT_S_MAX = 72 * 3600
# So often a row's payment is looked for at Stripe; who cannot be adopted then needs a person.
OWNER_LOOKS_MAX = 5

Decided = Apply | RefundChange | DisputeChange | Ignore | Compensate | Conflict | Park | Wait | Fetch

_QUERIES = load_queries("inbox")
log = structlog.get_logger()


class Clerk:
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

    async def note_adoption(self, row: InboxRow, book: Locked, lost: LostPayment) -> None:
        """The beginning of a payment that we had lost: its first event, and its first line of history."""
        event = adopted_event(lost, self._at)
        await append(self._conn, book.payment.payment_id, 1, event, self._at)
        self.result.has_published = True
        log.warning("payment.adopted", payment_id=str(book.payment.payment_id))
        self._note(row, None, book, "applied", "adopted: Stripe has it, and we did not", closes=False)
        book.payment = msgspec.structs.replace(book.payment, last_history_id=0)

    async def weigh(self, message: Message, book: Locked | None) -> None:
        """Decides on one row, and does it."""
        row, signal = message.row, message.signal
        if isinstance(signal, Elsewhere):
            log.warning("inbox.quarantined", inbox_id=row.inbox_id, message_id=row.message_id, why=signal.why)
            self._finished.append(Finished(row.inbox_id, "quarantined"))
        elif book is None:
            await self._find_owner(message, signal)
        else:
            decision = self._decide(signal, book)
            level = log.debug if isinstance(decision, Ignore) else log.info
            level(
                "signal.weighed",
                payment_id=str(book.payment.payment_id),
                signal=row.message_type,
                message_id=row.message_id,
                decision=type(decision).__name__,
                why=decision.why,
            )
            await self._carry_out(row, book, decision)

    async def _find_owner(self, message: Message, signal: Signal) -> None:
        """Nobody's payment that we know: another user of the account, or a payment that a restored backup lost."""
        row, intent_id = message.row, message.intent_id
        is_fetched_intent = row.message_type == Kind.PAYMENT_INTENT.message_type
        # Refunds and disputes of others' making bear no metadata of ours, whether they are shown or only named.
        is_named = isinstance(signal, Mentioned) and signal.kind is not Kind.PAYMENT_INTENT
        is_ours = message.payment_id is not None or is_named or isinstance(signal, RefundSeen | DisputeSeen)
        if intent_id is None or is_fetched_intent or not is_ours:
            self._finished.append(Finished(row.inbox_id, "foreign"))
        elif row.attempts >= OWNER_LOOKS_MAX:
            await bury(self._conn, row, message.payment_id, "its payment is not here, and could not be adopted")
        else:
            why = f"asking Stripe whose {intent_id} is"
            await put_off(self._conn, row.inbox_id, self._fetch_lease_s, why, burnt=0)
            wanted = FetchWanted(Kind.PAYMENT_INTENT, intent_id, None, [row.inbox_id], replaces=False)
            self.result.want(wanted)

    def _decide(self, signal: Signal, book: Locked) -> Decided:
        match signal:
            case RefundSeen():
                refund = book.find_refund(signal.refund_id, signal.facts.id)
                return decide_refund(book.payment, refund, signal, new_id())
            case RefundRefused():
                return decide_refund(book.payment, book.find_refund(signal.refund_id, None), signal, new_id())
            case DisputeSeen():
                return decide_dispute(book.payment, book.disputes.get(signal.facts.id), signal, new_id(), self._at)
            case _:
                return decide_payment(book.payment, signal, livemode=self._settings.stripe_livemode)

    async def _carry_out(self, row: InboxRow, book: Locked, decision: Decided) -> None:
        before = book.payment
        match decision:
            case Apply():
                await self._apply(row, book, decision)
            case RefundChange():
                await self._change_refund(row, book, decision)
            case DisputeChange():
                await self._change_dispute(row, book, decision)
            case Ignore():
                self._note(row, before.status, book, "ignored", decision.why)
            case Compensate():
                await self._compensate(row, book, decision)
            case Conflict():
                await self._conflict(row, book, decision)
            case Park():
                await self._park(row, book, decision)
            case Wait():
                await self._wait(row, book, decision)
            case Fetch():
                await put_off(self._conn, row.inbox_id, self._fetch_lease_s, f"asking Stripe: {decision.why}", burnt=0)
                self.result.want(
                    FetchWanted(
                        decision.kind, decision.object_id, before.payment_id, [row.inbox_id], decision.intent_id
                    )
                )
            case _:
                assert_never(decision)

    async def _conflict(self, row: InboxRow, book: Locked, decision: Conflict) -> None:
        before = book.payment
        if await self._is_settled(before, decision.why):
            self._note(row, before.status, book, "ignored", f"an operator has settled that: {decision.why}")
            return
        if before.status in ENDED_WITHOUT_MONEY and await self._has_rival(before):
            await self._park(row, book, Park(decision.why))
            return
        log.error("payment.conflicted", payment_id=str(before.payment_id), why=decision.why)
        book.payment = msgspec.structs.replace(before, status=PaymentStatus.CONFLICTED, next_action=None)
        await change_payment(self._conn, book)
        self._note(row, before.status, book, "conflicted", decision.why)
        self.result.settled.add(before.payment_id)

    async def _park(self, row: InboxRow, book: Locked, decision: Park) -> None:
        payment_id = book.payment.payment_id
        log.error("payment.parked", payment_id=str(payment_id), why=decision.why)
        self._note(row, book.payment.status, book, "ignored", decision.why, closes=False)
        await bury(self._conn, row, payment_id, decision.why)

    async def _is_settled(self, payment: Payment, why: str) -> bool:
        """Whether the payment was in conflict for the same reason before, and an operator has let it go on."""
        values = {"payment_id": payment.payment_id, "why": why}
        return await (await self._conn.execute(_QUERIES["find_conflict"], values)).fetchone() is not None

    async def _has_rival(self, payment: Payment) -> bool:
        """Whether its cart has another live payment: there can be only one, and one in conflict would be live, too."""
        cursor = await self._conn.execute(_QUERIES["find_rival"], {"payment_id": payment.payment_id})
        return await cursor.fetchone() is not None

    async def _wait(self, row: InboxRow, book: Locked, decision: Wait) -> None:
        if row.age_s > WAIT_S_MAX:
            await bury(self._conn, row, book.payment.payment_id, decision.why)
        else:
            await put_off_by_age(self._conn, row.inbox_id, PAUSE_S_MIN, PAUSE_S_MAX, decision.why)

    async def _apply(self, row: InboxRow, book: Locked, decision: Apply) -> None:
        before, book.payment = book.payment, decision.after
        event = payment_event(book.payment, decision.event, self._at) if decision.event is not None else None
        if event is not None:
            book.last_sequence += 1
        if before != book.payment:
            await change_payment(self._conn, book)
        if event is not None:
            await self._publish(book, event)
        if decision.then is not None:
            await self._follow(book, decision.then)
        if book.payment.status is not before.status and book.payment.status not in UNSETTLED:
            self.result.settled.add(before.payment_id)
        self._note(row, before.status, book, "applied", decision.why)

    async def _compensate(self, row: InboxRow, book: Locked, decision: Compensate) -> None:
        before, book.payment = book.payment, decision.after
        log.warning("payment.compensated", payment_id=str(before.payment_id), why=decision.why)
        if before != book.payment:
            await change_payment(self._conn, book)
        await self._follow(book, decision.then)
        self._note(row, before.status, book, "compensated", decision.why)

    async def _follow(self, book: Locked, then: Following) -> None:
        match then:
            case Cancel():
                self.result.queues.add(await send_cancel(self._conn, book.payment, then, self._at))
            case GiveBack():
                refund = Refund(
                    refund_id=new_id(),
                    payment_id=book.payment.payment_id,
                    amount=then.amount,
                    currency=book.payment.currency,
                    reason=COMPENSATION,
                )
                await add_refund(self._conn, refund)
                book.keep_refund(refund)
                await self._tell(book, refund_event(book.payment, refund, EventType.REFUND_REQUESTED, self._at))
            case _:
                assert_never(then)

    async def _change_refund(self, row: InboxRow, book: Locked, decision: RefundChange) -> None:
        refund = decision.after
        await (add_refund if decision.is_new else change_refund)(self._conn, refund)
        book.keep_refund(refund)
        if decision.is_new and not refund.external:  # as for a payment that is adopted: it begins with its wish
            await self._tell(book, refund_event(book.payment, refund, EventType.REFUND_REQUESTED, self._at))
        if decision.event is not None:
            await self._tell(book, refund_event(book.payment, refund, decision.event, self._at))
        if refund.status is RefundStatus.FAILED and refund.reason == COMPENSATION:
            payment_id = str(refund.payment_id)
            log.error("refund.compensation_failed", payment_id=payment_id, refund_id=str(refund.refund_id))
        if refund.status is not RefundStatus.REQUESTED:
            self.result.settled.add(refund.refund_id)
        why = f"{decision.why} ({refund.processor_reference or refund.refund_id}, {refund.amount} {refund.currency})"
        self._note(row, book.payment.status, book, "applied", why)

    async def _change_dispute(self, row: InboxRow, book: Locked, decision: DisputeChange) -> None:
        dispute = decision.after
        await (add_dispute if decision.is_new else change_dispute)(self._conn, dispute)
        book.disputes[dispute.processor_reference] = dispute
        disputed = is_disputed(list(book.disputes.values()))
        if disputed is not book.payment.disputed:
            book.payment = msgspec.structs.replace(book.payment, disputed=disputed)
            await change_payment(self._conn, book)
        for event_type in decision.events:
            await self._tell(book, dispute_event(book.payment, dispute, event_type, self._at))
        self._note(row, book.payment.status, book, "applied", f"{decision.why} ({dispute.processor_reference})")

    async def _tell(self, book: Locked, event: Event) -> None:
        """Publishes what is no change of the payment itself; it is counted with the payment's events all the same."""
        book.last_sequence += 1
        await change_payment(self._conn, book)
        await self._publish(book, event)

    async def _publish(self, book: Locked, event: Event) -> None:
        await append(self._conn, book.payment.payment_id, book.last_sequence, event, self._at)
        self.result.has_published = True

    def _note(  # noqa: PLR0913 - the columns of a history row
        self,
        row: InboxRow,
        from_status: PaymentStatus | None,
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
            "from_status": from_status.value if from_status else None,
            "to_status": book.payment.status.value,
            "decision": decided,
            "why": why,
            "stripe_request_id": stripe_request_id(row),
        }
        self._history.append(values)
        book.payment = msgspec.structs.replace(book.payment, last_history_id=_JUST_NOW)
        if closes:
            self._finished.append(Finished(row.inbox_id, decided, book.payment.payment_id))
