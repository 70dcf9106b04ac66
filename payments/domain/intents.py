"""What a PaymentIntent's news mean for a payment: pure.

Webhooks come late, early and twice, and `created` has a grain of one second: so the order of arrival decides nothing.
What Stripe never takes back (`succeeded`, `canceled`; after `requires_capture` only those) counts whenever it comes.
Among the statuses that go in circles a snapshot that contradicts what we hold may be older or newer: the object is
fetched, and a fetched one decides if nothing else was weighed since the fetch began. So every order ends alike.
"""

from collections.abc import Callable
from typing import Final, assert_never

import msgspec

from payments.domain.decisions import Apply, Cancel, Compensate, Conflict, Decision, Fetch, GiveBack, Ignore, Park
from payments.domain.declines import AUTHENTICATION_FAILED, Failure, FailureReason, is_about_payment, read_failure
from payments.domain.facts import PaymentIntentFacts
from payments.domain.payment import Payment, asking, failed, known, settled
from payments.domain.signals import (
    CAPTURE,
    CallRefused,
    CreateDeclined,
    CreateRefused,
    Heard,
    IntentSeen,
    Kind,
    Mentioned,
    Missing,
    SomethingElse,
)
from payments.domain.states import TRANSITIONS, PaymentStatus, may_change

_S = PaymentStatus

# Holds that Stripe let go by itself: https://docs.stripe.com/api/payment_intents/object (cancellation_reason).
_LAPSED = frozenset({"automatic", "expired"})
# The reason that we give, and nobody else does, when nobody finishes a payment.
_ABANDONED: Final = "abandoned"
_NOBODY_FINISHED = Failure(FailureReason.PROCESSING_ERROR, _ABANDONED, "The payment was not finished in time.")

IntentSignal = IntentSeen | CreateDeclined | CreateRefused | CallRefused | Mentioned | Missing | SomethingElse


def decide_payment(payment: Payment, signal: IntentSignal, *, livemode: bool) -> Decision:  # noqa: PLR0911 - a way out for each case
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
        case CallRefused():
            return _decide_call_refused(payment, signal, livemode=livemode)
        case Mentioned():
            return Fetch(signal.kind, signal.object_id, signal.why)
        case Missing():
            return Ignore(f"Stripe knows no {signal.kind.label} {signal.object_id}")
        case SomethingElse():
            return Ignore(signal.why)
        case _:
            assert_never(signal)


def _decide_seen(payment: Payment, signal: IntentSeen, *, livemode: bool) -> Decision:
    facts = signal.facts
    contradiction = _contradiction(payment, facts, livemode=livemode)
    if contradiction is not None:
        return _contradict(signal, contradiction)
    is_ours = signal.capture_id is not None and signal.capture_id == payment.capture_id
    if is_ours and facts.status == "succeeded" and facts.amount_received not in (None, payment.amount_to_capture):
        return _conflict(facts, f"Stripe captured {facts.amount_received}, we asked for {payment.amount_to_capture}")
    decide = _BY_STATUS.get(facts.status)
    if decide is not None:
        return decide(payment, signal)
    if signal.heard is Heard.FETCHED:
        # With the PaymentIntent known, a watch asks again: its webhook may never come.
        return _learn(payment, facts, f"nobody here knows the status {facts.status}; waiting for another")
    return _fetch(facts, f"nobody here knows the status {facts.status}")


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
        return _fetch(signal.facts, why)
    return _conflict(signal.facts, why)


def _conflict(facts: PaymentIntentFacts, why: str) -> Conflict:
    """With where the PaymentIntent stands: an operator settles that, and not what comes of it later."""
    return Conflict(f"{why}; {facts.id} is {facts.status}, and {facts.amount_received or 0} was received")


def _fetch(facts: PaymentIntentFacts, why: str) -> Fetch:
    return Fetch(Kind.PAYMENT_INTENT, facts.id, why)


def _is_fresh(payment: Payment, signal: IntentSeen) -> bool:
    """Whether it was asked for after everything that was weighed so far."""
    return signal.heard is Heard.FETCHED and payment.last_history_id <= signal.after_history_id


def _decide_taken(payment: Payment, signal: IntentSeen) -> Decision:  # noqa: PLR0911 - a way out for each case
    facts = signal.facts
    if payment.status is _S.SUCCEEDED:
        if facts.amount_received not in (None, payment.amount_captured):
            return _contradict(signal, f"Stripe received {facts.amount_received}, we know {payment.amount_captured}")
        return _learn(payment, facts, "it has succeeded already", has_charge=True)
    received = payment.amount if facts.amount_received is None else facts.amount_received
    is_manual = payment.capture_method == "manual"
    if not 0 < received <= payment.amount or (received != payment.amount and not is_manual):
        return _contradict(signal, f"Stripe received {received}, we asked for {payment.amount}")
    if payment.status in (_S.FAILED, _S.VOIDED, _S.EXPIRED):
        return _decide_late(payment, signal, GiveBack(received))
    if facts.charge is None and payment.processor_reference is None and signal.heard is not Heard.FETCHED:
        return _fetch(facts, "the PaymentIntent has succeeded, but does not name its charge")
    after = settled(payment, facts, _S.SUCCEEDED, amount_authorized=payment.amount, amount_captured=received)
    if payment.status is _S.VOIDING:
        why = "charged before it could be voided; the money goes back"
        return _apply(payment, after, why, GiveBack(received))
    return _apply(payment, after, "Stripe has the money")


def _decide_held(payment: Payment, signal: IntentSeen) -> Decision:  # noqa: PLR0911 - a way out for each case
    facts = signal.facts
    match payment.status:
        case _S.AUTHORIZED:
            return _learn(payment, facts, "it is authorized already", has_charge=True)
        case _S.VOIDING:
            return _cancel(payment, facts, "it is being voided; the hold has to be released")
        case _S.CAPTURING | _S.SUCCEEDED:
            return Ignore("older news: a hold that is captured is no news")
        case _S.FAILED | _S.VOIDED | _S.EXPIRED:
            return _decide_late(payment, signal, Cancel(_ABANDONED))
        case _:
            pass
    if payment.capture_method != "manual" or facts.amount_capturable not in (None, payment.amount):
        return _contradict(signal, f"Stripe holds {facts.amount_capturable}, we asked for another thing")
    # Events only name the charge, and consumers are to be told until when it may be captured.
    is_event = signal.heard in (Heard.EVENT, Heard.FIRST_EVENT)
    if (is_event and facts.capture_before is None) or (facts.charge is None and signal.heard is not Heard.FETCHED):
        return _fetch(facts, "the hold is placed, but its charge or its deadline is not told")
    after = msgspec.structs.replace(
        settled(payment, facts, _S.AUTHORIZED, amount_authorized=payment.amount), capture_before=facts.capture_before
    )
    return _apply(payment, after, "the hold is placed")


def _decide_released(payment: Payment, signal: IntentSeen) -> Decision:  # noqa: PLR0911 - a way out for each case
    facts = signal.facts
    match payment.status:
        case _S.FAILED | _S.VOIDED | _S.EXPIRED:
            return _learn(payment, facts, "cancelled at Stripe as well: no money can come")
        case _S.SUCCEEDED if signal.heard is not Heard.FETCHED:
            return _fetch(facts, "the PaymentIntent is said to be cancelled, but has succeeded")
        case _S.SUCCEEDED:
            return Conflict("the PaymentIntent is cancelled, but had succeeded")
        case _:
            pass
    why = f"cancelled at Stripe ({facts.cancellation_reason or 'no reason given'})"
    if facts.cancellation_reason in _LAPSED:
        return _apply(payment, settled(payment, facts, _S.EXPIRED), why)
    if payment.status in (_S.AUTHORIZED, _S.CAPTURING) or not _may_have_failed(payment, facts):
        return _apply(payment, settled(payment, facts, _S.VOIDED), why)
    error = facts.last_payment_error
    if error is None and facts.charge is not None:
        # A hold that was let go, or the charge of a refused attempt? Only the charge itself tells.
        if facts.charge_status is None and signal.heard is not Heard.FETCHED:
            return _fetch(facts, "cancelled at Stripe, but whether there was a hold is not told")
        if facts.charge_status in (None, "succeeded"):
            return _apply(payment, settled(payment, facts, _S.VOIDED), why)
    return _apply(payment, failed(payment, facts, read_failure(error) if error else _NOBODY_FINISHED), why)


def _may_have_failed(payment: Payment, facts: PaymentIntentFacts) -> bool:
    """Whether the cancel only closed what had failed: a refused attempt that nobody repeats, or one nobody finished."""
    error = facts.last_payment_error
    if error is not None and error.code != AUTHENTICATION_FAILED and payment.is_unattended:
        return True
    return facts.cancellation_reason == _ABANDONED and payment.status is not _S.VOIDING


def _decide_late(payment: Payment, signal: IntentSeen, then: Cancel | GiveBack) -> Decision:
    """Stripe's last word decides: the snapshot may stem from before the end."""
    facts = signal.facts
    what = f"the PaymentIntent {facts.id} is {facts.status}, the payment is {payment.status}"
    if isinstance(then, GiveBack):
        left = then.amount - payment.amount_reserved
        if left <= 0:
            return _learn(payment, facts, f"late money: {what}; it is on its way back already")
        then = GiveBack(left)
    if not _is_fresh(payment, signal):
        return _fetch(facts, f"the PaymentIntent is said to be {facts.status}, the payment is {payment.status}")
    return Compensate(known(payment, facts), then, f"late money: {what}; it goes back")


def _decide_open(payment: Payment, signal: IntentSeen) -> Decision:  # noqa: PLR0911 - a way out for each case
    facts = signal.facts
    after = _open_state(payment, facts)
    if payment.status not in (_S.REQUESTED, _S.ACTION_REQUIRED, _S.PROCESSING):
        return _decide_open_too_late(payment, facts, after)
    if after is None:
        return _learn(payment, facts, "its confirmation is under way")
    if (after.status, after.next_action) == (payment.status, payment.next_action):
        return _learn(payment, facts, "known already")
    if signal.heard is Heard.FIRST_EVENT and payment.processor_payment_intent is not None:
        return Ignore("older news: the first event of a PaymentIntent that has been heard of since")
    if after.next_action and after.next_action.client_secret is None and signal.heard is not Heard.FETCHED:
        return _fetch(facts, "the browser has to act, but its client secret is not there")
    # A refused attempt that nobody can repeat is the last of its statuses, wherever it comes in.
    if payment.status is _S.REQUESTED or after.status is _S.FAILED or _is_fresh(payment, signal):
        then = Cancel(_ABANDONED) if after.status is _S.FAILED else None
        return _apply(payment, after, f"the PaymentIntent is {facts.status}", then)
    return _fetch(facts, f"the PaymentIntent is said to be {facts.status}, which may be older or newer than ours")


def _decide_open_too_late(payment: Payment, facts: PaymentIntentFacts, after: Payment | None) -> Decision:
    """Nobody wants the payment any more, or it is further already."""
    match payment.status:
        case _S.VOIDING if after is not None and after.status is _S.FAILED:
            return _apply(payment, after, f"the PaymentIntent is {facts.status}", Cancel(_ABANDONED))
        case _S.VOIDING:
            return _cancel(payment, facts, "it is being voided; the PaymentIntent has to be cancelled")
        case _S.FAILED | _S.VOIDED | _S.EXPIRED if payment.processor_payment_intent is None:
            return _cancel(payment, facts, f"the payment is {payment.status}; nobody may pay it any more")
        case _S.FAILED:
            return Ignore("the payment has failed; an attempt alone changes nothing")
        case _:
            return Ignore("older news: once held, charged or cancelled, a PaymentIntent never goes back")


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
    if facts is not None and contradiction is not None:
        return _conflict(facts, contradiction)
    error = facts.last_payment_error if facts and facts.last_payment_error else signal.error
    intent_id = facts.id if facts else payment.processor_payment_intent
    failure = read_failure(error)
    why = f"declined: {failure.decline_code or 'no code given'}"
    match payment.status:
        case _S.REQUESTED:
            return _fail(payment, facts, failure, why)
        case _S.PROCESSING | _S.VOIDING if not payment.was_customer_asked:
            return _fail(payment, facts, failure, why)
        case _S.PROCESSING | _S.ACTION_REQUIRED if intent_id is not None:
            return Fetch(Kind.PAYMENT_INTENT, intent_id, f"{why}, but the customer may have tried again")
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
    return _fail(payment, None, failure, why)


def _decide_call_refused(payment: Payment, signal: CallRefused, *, livemode: bool) -> Decision:
    """A capture or a cancel that Stripe would not do: where the PaymentIntent stands instead is adopted."""
    facts, error = signal.facts, signal.error
    why = f"Stripe refused ({signal.http_status} {error.code or error.type})"
    contradiction = _contradiction(payment, facts, livemode=livemode) if facts else None
    if facts is not None and contradiction is not None:
        return _conflict(facts, contradiction)
    if facts is not None and facts.status in ("succeeded", "canceled"):
        return _BY_STATUS[facts.status](payment, IntentSeen(facts, Heard.ANSWER))
    is_wish = signal.operation == CAPTURE and signal.subject_id == payment.capture_id
    if is_wish and payment.status is _S.CAPTURING:
        return _apply(payment, msgspec.structs.replace(payment, status=_S.AUTHORIZED), f"{why} to capture")
    # Not asked for again at once: what was refused now is refused in a moment. The reconciler will look.
    return Ignore(f"{why}; where the PaymentIntent stands will be seen")


def _cancel(payment: Payment, facts: PaymentIntentFacts, why: str) -> Apply:
    """Keeps the status, and has the PaymentIntent cancelled; a command too many does no harm."""
    then = Cancel(_ABANDONED) if payment.status is _S.FAILED else Cancel("requested_by_customer")
    return Apply(known(payment, facts), None, why, then)


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


def _apply(payment: Payment, after: Payment, why: str, then: Cancel | GiveBack | None = None) -> Apply:
    if after.status is payment.status:
        return Apply(after, None, why)
    assert may_change(payment.status, after.status), f"{payment.status} cannot become {after.status}"
    return Apply(after, TRANSITIONS[payment.status][after.status], why, then)


def _fail(payment: Payment, facts: PaymentIntentFacts | None, failure: Failure, why: str) -> Apply:
    """FAILED, and the PaymentIntent is cancelled at once: no late confirmation may charge."""
    after = failed(payment, facts, failure)
    return _apply(payment, after, why, Cancel(_ABANDONED) if after.processor_payment_intent else None)


_BY_STATUS: dict[str, Callable[[Payment, IntentSeen], Decision]] = {
    "succeeded": _decide_taken,
    "canceled": _decide_released,
    "requires_capture": _decide_held,
    "processing": _decide_open,
    "requires_action": _decide_open,
    "requires_confirmation": _decide_open,
    "requires_payment_method": _decide_open,
}
