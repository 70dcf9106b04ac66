"""The refund's states, and what the news of one mean: pure.

Stripe takes a refund from pending to succeeded or failed, and from succeeded to failed when the bank sends the money
back (https://docs.stripe.com/refunds): it never goes back. So the furthest state that was heard of counts, in whatever
order, and nothing needs to be fetched for that. SQL knows the same table as `payments.refund_may_change`.
"""

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import assert_never
from uuid import UUID

import msgspec

from payments.domain.decisions import Conflict, Fetch, Ignore, Wait
from payments.domain.facts import PaymentIntentFacts, RefundFacts
from payments.domain.payment import Payment
from payments.domain.signals import Heard, Kind, RefundRefused, RefundSeen
from payments.domain.states import ENDED_WITHOUT_MONEY, EventType, PaymentStatus

# The reason of a refund that the service makes for money that came too late.
COMPENSATION = "compensation"
# The code of a refusal that is not Stripe's: an operator has discarded the command, and Stripe has not made the refund.
DISCARDED = "discarded"


class RefundStatus(StrEnum):
    """Where a refund is in its life, in the order in which it gets there."""

    REQUESTED = "REQUESTED"
    PENDING = "PENDING"
    PROCESSED = "PROCESSED"
    FAILED = "FAILED"


_R = RefundStatus
# From each state: where it may go, and what is published on the way. Any stage may be skipped, none comes back.
REFUND_TRANSITIONS: Mapping[RefundStatus, Mapping[RefundStatus, EventType | None]] = MappingProxyType(
    {
        _R.REQUESTED: {
            _R.PENDING: None,
            _R.PROCESSED: EventType.REFUND_PROCESSED,
            _R.FAILED: EventType.REFUND_FAILED,
        },
        _R.PENDING: {_R.PROCESSED: EventType.REFUND_PROCESSED, _R.FAILED: EventType.REFUND_FAILED},
        _R.PROCESSED: {_R.FAILED: EventType.REFUND_FAILED},
        _R.FAILED: {},
    }
)
# https://docs.stripe.com/api/refunds/object#refund_object-status
_BY_STRIPES_WORD = {
    "pending": _R.PENDING,
    "requires_action": _R.PENDING,
    "succeeded": _R.PROCESSED,
    "failed": _R.FAILED,
    "canceled": _R.FAILED,
}
# Why a refund waits; whoever counts what is still to be weighed knows it by these words.
DOES_NOT_FIT = "does not fit"
_REASON_CHARACTERS_MAX = 500


class Refund(msgspec.Struct, frozen=True, kw_only=True):
    """A refund as its row stands, under the lock of its payment."""

    refund_id: UUID
    payment_id: UUID
    amount: int
    currency: str
    reason: str | None = None
    status: RefundStatus = _R.REQUESTED
    processor_reference: str | None = None
    failure_reason: str | None = None
    external: bool = False


def find_refund(
    refunds: Mapping[UUID, Refund], refund_id: UUID | None, processor_reference: str | None
) -> Refund | None:
    """Of a payment's refunds by our ids: the one that is known to be Stripe's, else the one of our id."""
    by_reference = (refund for refund in refunds.values() if refund.processor_reference == processor_reference)
    known = next(by_reference, None) if processor_reference is not None else None
    return known or (refunds.get(refund_id) if refund_id is not None else None)


class RefundChange(msgspec.Struct, frozen=True):
    """The refund becomes `after`, and `event` is published; `is_new`: it was made elsewhere, and is adopted."""

    after: Refund
    event: EventType | None
    why: str
    is_new: bool = False


RefundDecision = RefundChange | Ignore | Fetch | Conflict | Wait


def decide_refund(
    payment: Payment, refund: Refund | None, signal: RefundSeen | RefundRefused, fresh_id: UUID
) -> RefundDecision:
    """Weighs one signal about a refund of `payment`; `refund`: as we know it; `fresh_id`: for one that we adopt."""
    if payment.status is PaymentStatus.CONFLICTED:
        return Ignore("the payment is in conflict; only an operator settles it")
    match signal:
        case RefundRefused():
            return _decide_refused(refund, signal)
        case RefundSeen() if refund is None:
            return _decide_unknown(payment, signal, fresh_id)
        case RefundSeen():
            return _decide_known(payment, refund, signal, fresh_id)
        case _:
            assert_never(signal)


def _decide_refused(refund: Refund | None, signal: RefundRefused) -> RefundDecision:
    error = signal.error
    why = f"Stripe refused the refund ({signal.http_status} {error.code or error.type})"
    if error.code == DISCARDED:
        why = "an operator gave the refund up, and Stripe has not made it"
    if refund is None:
        return Ignore(f"{why}, which nobody here knows")
    if refund.status is not _R.REQUESTED:
        return Ignore(f"older news: {why}; it is {refund.status}")
    reason = (error.code or error.message or error.type or "refused")[:_REASON_CHARACTERS_MAX]
    return _change(refund, msgspec.structs.replace(refund, status=_R.FAILED, failure_reason=reason), why)


def _decide_known(payment: Payment, refund: Refund, signal: RefundSeen, fresh_id: UUID) -> RefundDecision:
    facts = signal.facts
    contradiction = _contradiction(payment, refund, facts)
    if contradiction is not None:
        return _contradict(signal, contradiction)
    status = _BY_STRIPES_WORD.get(facts.status)
    if status is None:
        return _ask(signal, f"nobody here knows the status {facts.status} of a refund")
    if refund.status is _R.FAILED and refund.processor_reference is None and status is not _R.FAILED:
        # Refused under a later key, for an earlier one had done it all along: the money is gone, so it is written down.
        nameless = msgspec.structs.replace(facts, refund_id=None)
        return _decide_unknown(payment, msgspec.structs.replace(signal, facts=nameless), fresh_id)
    reached = max(refund.status, status, key=list(RefundStatus).index)
    after = msgspec.structs.replace(refund, status=reached, processor_reference=facts.id)
    if reached is _R.FAILED and refund.status is not _R.FAILED:
        after = msgspec.structs.replace(after, failure_reason=facts.failure_reason or facts.status)
    if after == refund:
        return Ignore(f"the refund is {refund.status} already")
    return _change(refund, after, f"the refund is {facts.status} at Stripe")


def _contradiction(payment: Payment, refund: Refund, facts: RefundFacts) -> str | None:
    """What of a refund at Stripe can never be right for this one."""
    if (facts.amount, facts.currency) != (refund.amount, refund.currency):
        return f"Stripe refunds {facts.amount} {facts.currency}, we asked for {refund.amount} {refund.currency}"
    if refund.processor_reference is not None and facts.id != refund.processor_reference:
        return f"the refund is {facts.id}, ours is {refund.processor_reference}"
    return _contradiction_of_payment(payment, facts)


def _contradiction_of_payment(payment: Payment, facts: RefundFacts) -> str | None:
    ours = payment.processor_payment_intent
    if facts.payment_id is not None and facts.payment_id != payment.payment_id:
        return f"the refund {facts.id} is payment {facts.payment_id}'s"
    if ours is not None and facts.intent_id is not None and facts.intent_id != ours:
        return f"the refund {facts.id} is of {facts.intent_id}, ours is {ours}"
    if facts.currency != payment.currency:
        return f"the refund {facts.id} is in {facts.currency}, the payment in {payment.currency}"
    return None


def _contradict(signal: RefundSeen, why: str) -> RefundDecision:
    """An event is a hint, so the object is asked for; an answer is Stripe's word."""
    if signal.heard is Heard.EVENT:
        return Fetch(Kind.REFUND, signal.facts.id, why)
    return Conflict(f"{why}; {signal.facts.id} is {signal.facts.status}")


def _ask(signal: RefundSeen, why: str) -> RefundDecision:
    return Ignore(f"{why}; waiting for another") if signal.heard is Heard.FETCHED else _fetch(signal.facts, why)


def _fetch(facts: RefundFacts, why: str) -> Fetch:
    return Fetch(Kind.REFUND, facts.id, why)


def _decide_unknown(payment: Payment, signal: RefundSeen, fresh_id: UUID) -> RefundDecision:
    """A refund that we did not make, or have lost: adopted where it fits."""
    facts, intent = signal.facts, signal.intent
    contradiction = _contradiction_of_payment(payment, facts)
    if contradiction is not None:
        # Two were made for one wish, and somebody gives back what is too much: it is no part of this payment.
        is_anothers = facts.refund_id is None and facts.intent_id != payment.processor_payment_intent
        is_certain = is_anothers and signal.heard is not Heard.EVENT
        return Ignore(contradiction) if is_certain else _contradict(signal, contradiction)
    status = _BY_STRIPES_WORD.get(facts.status)
    if status is None:
        return _ask(signal, f"nobody here knows the status {facts.status} of a refund")
    captured = payment.amount_captured
    if captured == 0:
        if intent is None:
            # The news of the capture may be on its way; or a hold was let go, which Stripe may call a refund as well.
            intent_id = facts.intent_id or payment.processor_payment_intent
            return Fetch(Kind.REFUND, facts.id, "a refund of what we have not seen captured", intent_id)
        captured = intent.amount_received or 0
    if _is_release(payment, facts, captured, intent):
        return Ignore("no refund: Stripe let go of what was held and never captured")
    limit = payment.amount_captured
    if limit == 0 and payment.status in ENDED_WITHOUT_MONEY:
        limit = payment.amount  # what came too late, and was given back by somebody else
    if status is not _R.FAILED and facts.amount > limit - payment.amount_reserved:
        return Wait(f"a refund of {facts.amount} {DOES_NOT_FIT}: {payment.amount_reserved} of {limit} are spoken for")
    return _adopt(payment, facts, status, fresh_id)


def _is_release(payment: Payment, facts: RefundFacts, captured: int, intent: PaymentIntentFacts | None) -> bool:
    """Whether this is the rest of a hold: named as a refund, but no money moved."""
    if facts.refund_id is not None:
        return False
    if captured == 0:
        return intent is not None and intent.status == "canceled"
    is_rest = facts.amount == payment.amount - captured and payment.capture_method == "manual"
    return is_rest and not facts.has_balance_transaction and facts.status == "succeeded"


def _adopt(payment: Payment, facts: RefundFacts, status: RefundStatus, fresh_id: UUID) -> RefundChange:
    is_late_money = payment.amount_captured == 0
    before = Refund(
        refund_id=facts.refund_id or fresh_id,
        payment_id=payment.payment_id,
        amount=facts.amount,
        currency=facts.currency,
        reason=COMPENSATION if is_late_money else facts.reason,
        external=facts.refund_id is None,
    )
    after = msgspec.structs.replace(
        before,
        status=status,
        processor_reference=facts.id,
        failure_reason=(facts.failure_reason or facts.status) if status is _R.FAILED else None,
    )
    where = "elsewhere" if after.external else "by this service, which has lost it since"
    event = REFUND_TRANSITIONS[_R.REQUESTED][status]
    return RefundChange(after, event, f"a refund that was made {where} is {facts.status}", is_new=True)


def _change(before: Refund, after: Refund, why: str) -> RefundChange:
    event = None if after.status is before.status else REFUND_TRANSITIONS[before.status][after.status]
    return RefundChange(after, event, why)
