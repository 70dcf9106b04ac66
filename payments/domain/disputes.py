"""The disputes of a payment, and what the news of one mean: pure.

An axis of their own, beside the payment's state. Stripe takes a dispute from an inquiry to a chargeback, from a wanted
response to a review, and to its end (https://docs.stripe.com/api/disputes/object#dispute_object-status): the furthest
status that was heard of counts. An end can be appealed, and the appeal has an end again
(https://docs.stripe.com/changelog/endive/2026-10-28/evidence-submission-appeal-dispute-decisions): between two ends,
and between an end and an appeal, there is no such order; there the dispute is fetched.
"""

from datetime import datetime
from uuid import UUID

import msgspec

from payments.domain.decisions import Fetch, Ignore, Park
from payments.domain.facts import DisputeFacts
from payments.domain.payment import Payment
from payments.domain.signals import DisputeSeen, Heard, Kind
from payments.domain.states import EventType, PaymentStatus

_APPEALS = ("appeal_needs_response", "appeal_under_review")
_OPEN = ("warning_needs_response", "warning_under_review", "needs_response", "under_review", *_APPEALS)
_CLOSED = frozenset({"warning_closed", "prevented", "won", "lost"})
_LOST = "lost"


class Dispute(msgspec.Struct, frozen=True, kw_only=True):
    """A dispute as its row stands, under the lock of its payment."""

    dispute_id: UUID
    payment_id: UUID
    processor_reference: str
    amount: int
    currency: str
    status: str
    opened_at: datetime
    reason: str | None = None
    closed_at: datetime | None = None

    @property
    def is_against_us(self) -> bool:
        """Whether the money is disputed still, or gone."""
        return self.status == _LOST or self.closed_at is None


class DisputeChange(msgspec.Struct, frozen=True):
    """The dispute becomes `after`, and `events` are published in this order."""

    after: Dispute
    events: tuple[EventType, ...]
    why: str
    is_new: bool = False


DisputeDecision = DisputeChange | Ignore | Fetch | Park


def decide_dispute(  # noqa: PLR0911 - a way out for each case
    payment: Payment, dispute: Dispute | None, signal: DisputeSeen, fresh_id: UUID, now: datetime
) -> DisputeDecision:
    """Weighs one signal about a dispute of `payment`; `dispute`: as we know it; `fresh_id`: for one that is new."""
    facts = signal.facts
    if payment.status is PaymentStatus.CONFLICTED:
        return Ignore("the payment is in conflict; only an operator settles it")
    ours = payment.processor_payment_intent
    if ours is not None and facts.intent_id is not None and facts.intent_id != ours:
        # Two were made for one wish: this payment's own money is not disputed, but somebody has to answer the bank.
        contradiction = f"the dispute {facts.id} is of {facts.intent_id}, ours is {ours}"
        return _fetch(facts, contradiction) if signal.heard is Heard.EVENT else Park(contradiction)
    if facts.status not in _OPEN and facts.status not in _CLOSED:
        why = f"nobody here knows the status {facts.status} of a dispute"
        return Ignore(f"{why}; waiting for another") if signal.heard is Heard.FETCHED else _fetch(facts, why)
    if dispute is None:
        return _decide_new(payment, facts, fresh_id, now)
    if dispute.status == facts.status:
        return Ignore(f"the dispute is {dispute.status} already")
    if _may_be_either_way(dispute.status, facts.status):
        if signal.heard is not Heard.FETCHED:
            return _fetch(facts, f"the dispute is said to be {facts.status}, and was {dispute.status}")
    elif _rank(facts.status) < _rank(dispute.status):
        return Ignore(f"older news: the dispute was {facts.status}, it is {dispute.status}")
    events = (EventType.DISPUTE_CLOSED,) if facts.status in _CLOSED else ()
    return DisputeChange(_become(dispute, facts, now), events, f"the dispute is {facts.status}")


def is_disputed(disputes: list[Dispute]) -> bool:
    """Whether some dispute of a payment is open or was lost."""
    return any(dispute.is_against_us for dispute in disputes)


def _rank(status: str) -> int:
    """How far a dispute has come; all ends are equally far."""
    return len(_OPEN) if status in _CLOSED else _OPEN.index(status)


def _may_be_either_way(one: str, other: str) -> bool:
    """Whether either may follow on the other."""
    return {one, other} <= _CLOSED.union(_APPEALS) and not {one, other} <= set(_APPEALS)


def _decide_new(payment: Payment, facts: DisputeFacts, fresh_id: UUID, now: datetime) -> DisputeChange:
    """Also one that is over when we first hear of it: consumers hear both, in the order in which it happened."""
    is_closed = facts.status in _CLOSED
    opened = Dispute(
        dispute_id=fresh_id,
        payment_id=payment.payment_id,
        processor_reference=facts.id,
        amount=facts.amount,
        currency=facts.currency,
        status=facts.status,
        opened_at=facts.created or now,
        reason=facts.reason,
        closed_at=now if is_closed else None,
    )
    events = (EventType.DISPUTE_OPENED, EventType.DISPUTE_CLOSED) if is_closed else (EventType.DISPUTE_OPENED,)
    return DisputeChange(opened, events, f"a dispute is {facts.status}", is_new=True)


def _become(dispute: Dispute, facts: DisputeFacts, now: datetime) -> Dispute:
    closed_at = (dispute.closed_at or now) if facts.status in _CLOSED else None
    return msgspec.structs.replace(dispute, status=facts.status, closed_at=closed_at)


def _fetch(facts: DisputeFacts, why: str) -> Fetch:
    return Fetch(Kind.DISPUTE, facts.id, why)
