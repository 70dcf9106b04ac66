"""What a signal of Stripe's means for a payment: pure, and a closed set of decisions.

Webhooks come late, early and twice, and `created` has a grain of one second: so the order of arrival decides nothing.
What Stripe never takes back (`succeeded`, `canceled`; after `requires_capture` only those) counts whenever it comes.
Among the statuses that go in circles a snapshot that contradicts what we hold may be older or newer: the object is
fetched, and a fetched one decides if nothing else was weighed since the fetch began. So every order ends alike.
"""

from collections.abc import Callable
from typing import assert_never

import msgspec

from payments.domain.declines import AUTHENTICATION_FAILED, Failure, FailureReason, is_about_payment, read_failure
from payments.domain.facts import PaymentIntentFacts
from payments.domain.payment import Payment, asking, failed, known, settled
from payments.domain.signals import (
    CreateDeclined,
    CreateRefused,
    Heard,
    IntentMentioned,
    IntentMissing,
    IntentSeen,
    Signal,
    SomethingElse,
)
from payments.domain.states import TRANSITIONS, EventType, PaymentStatus, may_change

_S = PaymentStatus

# Holds that Stripe let go by itself: https://docs.stripe.com/api/payment_intents/object (cancellation_reason).
_LAPSED = frozenset({"automatic", "expired"})


class Apply(msgspec.Struct, frozen=True):
    """The payment becomes `after`, and `event` is published; the status may stay while we learn a detail."""

    after: Payment
    event: EventType | None
    why: str


class Ignore(msgspec.Struct, frozen=True):
    """Nothing changes."""

    why: str


class Fetch(msgspec.Struct, frozen=True):
    """Only Stripe can tell: ask for the PaymentIntent, and weigh that instead."""

    intent_id: str
    why: str


class Conflict(msgspec.Struct, frozen=True):
    """Stripe's facts contradict ours: the payment becomes CONFLICTED, for an operator."""

    why: str


class LateMoney(msgspec.Struct, frozen=True):
    """Money was held or taken after the payment had ended without any: nothing changes here, it has to go back."""

    intent_id: str
    why: str


class Park(msgspec.Struct, frozen=True):
    """Our call was wrong, not this payment: nothing changes, a person must look."""

    why: str


Decision = Apply | Ignore | Fetch | Conflict | LateMoney | Park


def decide_payment(payment: Payment, signal: Signal, *, livemode: bool) -> Decision:  # noqa: PLR0911 - a way out for each case
    """Weighs one signal against one payment."""
    if payment.status is _S.CONFLICTED:
        return Ignore("the payment is in conflict; only an operator settles it")
    match signal:
        case IntentSeen():
            return _decide_seen(payment, signal, livemode=livemode)
        case CreateDeclined():
            return _decide_declined(payment, signal, livemode=livemode)
        case CreateRefused():
            return _decide_refused(payment, signal)
        case IntentMentioned():
            return Fetch(signal.intent_id, signal.why)
        case IntentMissing():
            return Ignore(f"Stripe knows no PaymentIntent {signal.intent_id}")
        case SomethingElse():
            return Ignore(signal.why)
        case _:
            assert_never(signal)


def _decide_seen(payment: Payment, signal: IntentSeen, *, livemode: bool) -> Decision:
    facts = signal.facts
    contradiction = _contradiction(payment, facts, livemode=livemode)
    if contradiction is not None:
        return _contradict(signal, contradiction)
    decide = _BY_STATUS.get(facts.status)
    if decide is not None:
        return decide(payment, signal)
    if signal.heard is Heard.FETCHED:
        return Ignore(f"nobody here knows the status {facts.status}; waiting for another")
    return Fetch(facts.id, f"nobody here knows the status {facts.status}")


def _contradiction(payment: Payment, facts: PaymentIntentFacts, *, livemode: bool) -> str | None:
    """What of a PaymentIntent can never be right for this payment."""
    ours = payment.processor_payment_intent
    theirs_is_manual = facts.capture_method == "manual"
    if ours is not None and facts.id != ours:
        return f"the PaymentIntent is {facts.id}, ours is {ours}"
    if facts.payment_id is not None and facts.payment_id != payment.payment_id:
        return f"the PaymentIntent {facts.id} is payment {facts.payment_id}'s"
    if (facts.amount, facts.currency) != (payment.amount, payment.currency):
        return f"Stripe says {facts.amount} {facts.currency}, we asked for {payment.amount} {payment.currency}"
    if facts.livemode is not None and facts.livemode is not livemode:
        return f"Stripe says livemode {facts.livemode}, ours is {livemode}"
    if facts.capture_method is not None and theirs_is_manual is not (payment.capture_method == "manual"):
        return f"Stripe captures by {facts.capture_method}, we asked for {payment.capture_method}"
    return None


def _contradict(signal: IntentSeen, why: str) -> Decision:
    """An event is a hint, so the object is asked for; an answer is Stripe's word."""
    if signal.heard in (Heard.EVENT, Heard.FIRST_EVENT):
        return Fetch(signal.facts.id, why)
    return Conflict(why)


def _is_fresh(payment: Payment, signal: IntentSeen) -> bool:
    """Whether it was asked for after everything that was weighed so far."""
    return signal.heard is Heard.FETCHED and payment.last_history_id <= signal.after_history_id


def _decide_taken(payment: Payment, signal: IntentSeen) -> Decision:
    facts = signal.facts
    if payment.status is _S.SUCCEEDED:
        return _learn(payment, facts, "it has succeeded already", has_charge=True)
    if payment.status in (_S.FAILED, _S.VOIDED, _S.EXPIRED):
        return _decide_late(payment, signal)
    received = payment.amount if facts.amount_received is None else facts.amount_received
    is_manual = payment.capture_method == "manual"
    if not 0 < received <= payment.amount or (received != payment.amount and not is_manual):
        return _contradict(signal, f"Stripe received {received}, we asked for {payment.amount}")
    if facts.charge is None and payment.processor_reference is None and signal.heard is not Heard.FETCHED:
        return Fetch(facts.id, "the PaymentIntent has succeeded, but does not name its charge")
    after = settled(payment, facts, _S.SUCCEEDED, amount_authorized=payment.amount, amount_captured=received)
    if payment.status is _S.VOIDING:
        return _apply(payment, after, "charged before it could be voided; the money has to go back")
    return _apply(payment, after, "Stripe has the money")


def _decide_held(payment: Payment, signal: IntentSeen) -> Decision:  # noqa: PLR0911 - a way out for each case
    facts = signal.facts
    match payment.status:
        case _S.AUTHORIZED:
            return _learn(payment, facts, "it is authorized already", has_charge=True)
        case _S.VOIDING:
            return _learn(payment, facts, "it is being voided; the hold has to be released", has_charge=True)
        case _S.CAPTURING | _S.SUCCEEDED:
            return Ignore("older news: a hold that is captured is no news")
        case _S.FAILED | _S.VOIDED | _S.EXPIRED:
            return _decide_late(payment, signal)
        case _:
            pass
    if payment.capture_method != "manual" or facts.amount_capturable not in (None, payment.amount):
        return _contradict(signal, f"Stripe holds {facts.amount_capturable}, we asked for another thing")
    if facts.charge is None and signal.heard is not Heard.FETCHED:
        return Fetch(facts.id, "the hold is placed, but does not name its charge")
    after = msgspec.structs.replace(
        settled(payment, facts, _S.AUTHORIZED, amount_authorized=payment.amount), capture_before=facts.capture_before
    )
    return _apply(payment, after, "the hold is placed")


def _decide_released(payment: Payment, signal: IntentSeen) -> Decision:
    facts = signal.facts
    match payment.status:
        case _S.FAILED | _S.VOIDED | _S.EXPIRED:
            return _learn(payment, facts, "cancelled at Stripe as well: no money can come")
        case _S.SUCCEEDED if signal.heard is not Heard.FETCHED:
            return Fetch(facts.id, "the PaymentIntent is said to be cancelled, but has succeeded")
        case _S.SUCCEEDED:
            return Conflict("the PaymentIntent is cancelled, but had succeeded")
        case _:
            pass
    reason = facts.cancellation_reason
    status = _S.EXPIRED if reason in _LAPSED else _S.VOIDED
    return _apply(payment, settled(payment, facts, status), f"cancelled at Stripe ({reason or 'no reason given'})")


def _decide_late(payment: Payment, signal: IntentSeen) -> Decision:
    """Stripe's last word decides: the snapshot may stem from before the end."""
    facts = signal.facts
    if not _is_fresh(payment, signal):
        return Fetch(facts.id, f"the PaymentIntent is said to be {facts.status}, the payment is {payment.status}")
    what = f"the PaymentIntent {facts.id} is {facts.status}, the payment is {payment.status}"
    return LateMoney(facts.id, f"late money: {what}; it has to go back")


def _decide_open(payment: Payment, signal: IntentSeen) -> Decision:  # noqa: PLR0911 - a way out for each case
    facts = signal.facts
    match payment.status:
        case _S.REQUESTED | _S.ACTION_REQUIRED | _S.PROCESSING:
            pass
        case _S.VOIDING:
            return _learn(payment, facts, "it is being voided; the PaymentIntent has to be cancelled")
        case _S.FAILED:
            return _learn(payment, facts, "the payment has failed; an attempt alone changes nothing")
        case _:
            return Ignore("older news: once held, charged or cancelled, a PaymentIntent never goes back")
    after = _open_state(payment, facts)
    if after is None:
        return _learn(payment, facts, "its confirmation is under way")
    if (after.status, after.next_action) == (payment.status, payment.next_action):
        return _learn(payment, facts, "known already")
    if signal.heard is Heard.FIRST_EVENT and payment.processor_payment_intent is not None:
        return Ignore("older news: the first event of a PaymentIntent that has been heard of since")
    if after.next_action and after.next_action.client_secret is None and signal.heard is not Heard.FETCHED:
        return Fetch(facts.id, "the browser has to act, but its client secret is not there")
    # A refused attempt that nobody can repeat is the last of its statuses, wherever it comes in.
    if payment.status is _S.REQUESTED or after.status is _S.FAILED or _is_fresh(payment, signal):
        return _apply(payment, after, f"the PaymentIntent is {facts.status}")
    return Fetch(facts.id, f"the PaymentIntent is said to be {facts.status}, which may be older or newer than ours")


def _open_state(payment: Payment, facts: PaymentIntentFacts) -> Payment | None:
    """Where a PaymentIntent without money leaves the payment; None while our own confirmation runs."""
    error = facts.last_payment_error
    match facts.status:
        case "processing":
            return msgspec.structs.replace(known(payment, facts), status=_S.PROCESSING, next_action=None)
        case "requires_action":
            action = facts.next_action
            return asking(
                payment, facts, action.type if action else facts.status, action.redirect_url if action else None
            )
        case "requires_payment_method" if error is not None and payment.is_unattended:
            if error.code == AUTHENTICATION_FAILED:
                return asking(payment, facts, facts.status)
            return failed(payment, facts, read_failure(error))
        case _:
            return None if payment.is_unattended else asking(payment, facts, facts.status)


def _decide_declined(payment: Payment, signal: CreateDeclined, *, livemode: bool) -> Decision:
    facts = signal.facts
    contradiction = _contradiction(payment, facts, livemode=livemode) if facts else None
    if contradiction is not None:
        return Conflict(contradiction)
    error = facts.last_payment_error if facts and facts.last_payment_error else signal.error
    intent_id = facts.id if facts else payment.processor_payment_intent
    failure = read_failure(error)
    why = f"declined: {failure.decline_code or 'no code given'}"
    match payment.status:
        case _S.REQUESTED:
            return _apply(payment, failed(payment, facts, failure), why)
        case _S.PROCESSING | _S.VOIDING if not payment.was_customer_asked:
            return _apply(payment, failed(payment, facts, failure), why)
        case _S.PROCESSING | _S.ACTION_REQUIRED if intent_id is not None:
            return Fetch(intent_id, f"{why}, but the customer may have tried again")
        case _ if facts is not None:
            return _learn(payment, facts, f"older news: {why}")
        case _:
            return Ignore(f"older news: {why}")


def _decide_refused(payment: Payment, signal: CreateRefused) -> Decision:
    error = signal.error
    why = f"Stripe refused the call ({signal.http_status} {error.code or error.type}, {error.param or 'no parameter'})"
    if payment.status not in (_S.REQUESTED, _S.VOIDING):
        return Ignore(f"{why}; what else is known of the PaymentIntent counts")
    if not is_about_payment(error):
        return Park(f"{why}: the call is wrong, not the payment")
    failure = Failure(FailureReason.PROCESSING_ERROR, error.decline_code or error.code, error.message)
    return _apply(payment, failed(payment, None, failure), why)


def _learn(payment: Payment, facts: PaymentIntentFacts, why: str, *, has_charge: bool = False) -> Decision:
    """Keeps the status, and fills in what we did not know."""
    after = known(payment, facts)
    if has_charge:
        after = msgspec.structs.replace(
            after,
            processor_reference=payment.processor_reference or facts.charge,
            capture_before=payment.capture_before
            or (facts.capture_before if payment.status is _S.AUTHORIZED else None),
        )
    return Ignore(why) if after == payment else Apply(after, None, f"{why}; a detail was filled in")


def _apply(payment: Payment, after: Payment, why: str) -> Apply:
    if after.status is payment.status:
        return Apply(after, None, why)
    assert may_change(payment.status, after.status), f"{payment.status} cannot become {after.status}"
    return Apply(after, TRANSITIONS[payment.status][after.status], why)


_BY_STATUS: dict[str, Callable[[Payment, IntentSeen], Decision]] = {
    "succeeded": _decide_taken,
    "canceled": _decide_released,
    "requires_capture": _decide_held,
    "processing": _decide_open,
    "requires_action": _decide_open,
    "requires_confirmation": _decide_open,
    "requires_payment_method": _decide_open,
}
