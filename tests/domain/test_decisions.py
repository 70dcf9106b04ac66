"""Each rule of deciding, one by one; that all of them together end every order alike is in test_orders."""

from typing import Any
from uuid import UUID, uuid4

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from payments.domain.decisions import (
    Apply,
    Cancel,
    Compensate,
    Conflict,
    Decision,
    Fetch,
    GiveBack,
    Ignore,
    Park,
)
from payments.domain.declines import Failure, FailureReason
from payments.domain.intents import IntentSignal, decide_payment
from payments.domain.payment import NextAction, Payment
from payments.domain.signals import Kind, Missing, read_answer, read_event
from payments.domain.states import EventType, PaymentStatus, may_change
from payments.stripe_gateway.api_version import STRIPE_API_VERSION
from tests.domain.stripe_lives import PAYMENT
from tests.domain.stripe_objects import (
    AUTHENTICATION_FAILURE,
    CHARGE,
    INSUFFICIENT_FUNDS,
    INTENT,
    SECRET,
    answered,
    declined,
    event,
    fetched,
    intent,
    refused,
)

_S = PaymentStatus
ENDED = (_S.FAILED, _S.VOIDED, _S.EXPIRED)


def payment(status: PaymentStatus = _S.REQUESTED, **fields: Any) -> Payment:
    by_status: dict[PaymentStatus, dict[str, Any]] = {
        _S.ACTION_REQUIRED: {"next_action": NextAction("use_stripe_sdk", SECRET), "was_customer_asked": True},
        _S.AUTHORIZED: {"capture_method": "manual", "amount_authorized": 1000, "processor_reference": CHARGE},
        _S.CAPTURING: {"capture_method": "manual", "amount_authorized": 1000, "processor_reference": CHARGE},
        _S.SUCCEEDED: {"amount_authorized": 1000, "amount_captured": 1000, "processor_reference": CHARGE},
        _S.FAILED: {"failure": Failure(FailureReason.CARD_DECLINED, None, None)},
    }
    known = {} if status is _S.REQUESTED else {"processor_payment_intent": INTENT}
    base: dict[str, Any] = {
        "payment_id": PAYMENT,
        "order_id": PAYMENT,
        "amount": 1000,
        "currency": "EUR",
        "capture_method": "automatic",
        "payment_method": "pm_card_visa",
        "last_history_id": 5,
    }
    return Payment(**{**base, **known, **by_status.get(status, {}), "status": status, **fields})


def said(payload: dict[str, Any]) -> IntentSignal:
    signal = read_answer(payload)
    assert isinstance(signal, IntentSignal)
    return signal


def told(kind: str, thing: dict[str, Any]) -> IntentSignal:
    signal = read_event(event(kind, thing), livemode=False, account=None, api_version=STRIPE_API_VERSION)
    assert isinstance(signal, IntentSignal)
    return signal


def seen(status: str, **fields: Any) -> IntentSignal:
    return told("payment_intent.updated", intent(PAYMENT, status, **fields))


def answer(status: str, **fields: Any) -> IntentSignal:
    return said(answered(intent(PAYMENT, status, **fields)))


def fresh(status: str, after: int = 5, **fields: Any) -> IntentSignal:
    return said(fetched(intent(PAYMENT, status, **fields), after))


def decide(before: Payment, signal: IntentSignal) -> Decision:
    return decide_payment(before, signal, livemode=False)


def applied(before: Payment, signal: IntentSignal) -> Apply:
    decision = decide(before, signal)
    assert isinstance(decision, Apply), decision
    return decision


# --- what ends a payment -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [_S.REQUESTED, _S.ACTION_REQUIRED, _S.PROCESSING, _S.VOIDING])
def test_success_counts_whenever_it_comes(status: PaymentStatus) -> None:
    decision = applied(payment(status), seen("succeeded"))
    after = decision.after
    assert (after.status, decision.event) == (_S.SUCCEEDED, EventType.PAYMENT_SUCCEEDED)
    assert (after.amount_authorized, after.amount_captured, after.processor_reference) == (1000, 1000, CHARGE)
    assert (after.processor_payment_intent, after.next_action) == (INTENT, None)


def test_what_goes_back_is_what_was_taken_and_is_not_on_its_way_back_yet() -> None:
    fields: dict[str, Any] = {"capture_method": "manual", "amount_received": 400}
    voiding = payment(_S.VOIDING, capture_method="manual", amount_authorized=1000)
    assert applied(voiding, seen("succeeded", **fields)).then == GiveBack(400)
    voided = payment(_S.VOIDED, capture_method="manual", amount_reserved=100)
    decision = decide(voided, fresh("succeeded", **fields))
    assert isinstance(decision, Compensate)
    assert decision.then == GiveBack(300)


def test_late_money_on_its_way_back_names_its_intent_where_that_was_not_known() -> None:
    """A refund that was asked for before it was can only then be made."""
    voided = payment(_S.VOIDED, processor_payment_intent=None, amount_reserved=1000)
    decision = applied(voided, fresh("succeeded"))
    assert (decision.after.processor_payment_intent, decision.event, decision.then) == (INTENT, None, None)
    assert isinstance(decide(decision.after, fresh("succeeded")), Ignore)


def test_partial_capture_at_stripe_keeps_both_amounts() -> None:
    after = applied(payment(_S.AUTHORIZED), seen("succeeded", amount_received=400, capture_method="manual")).after
    assert (after.amount_authorized, after.amount_captured) == (1000, 400)


def test_success_without_its_charge_is_fetched_once_and_then_taken_as_it_is() -> None:
    assert isinstance(decide(payment(), seen("succeeded", latest_charge=None)), Fetch)
    after = applied(payment(), fresh("succeeded", latest_charge=None)).after
    assert (after.status, after.processor_reference) == (_S.SUCCEEDED, None)


def test_charge_that_comes_later_is_filled_in_without_an_event() -> None:
    decision = applied(payment(_S.SUCCEEDED, processor_reference=None), seen("succeeded"))
    assert (decision.after.processor_reference, decision.event) == (CHARGE, None)


@pytest.mark.parametrize("received", [399, 401, 1000])
def test_success_of_another_sum_than_is_known_is_a_conflict(received: int) -> None:
    before = payment(_S.SUCCEEDED, capture_method="manual", amount_captured=400)
    fields: dict[str, Any] = {"capture_method": "manual", "amount_received": received}
    assert isinstance(decide(before, seen("succeeded", **fields)), Fetch)
    assert isinstance(decide(before, fresh("succeeded", **fields)), Conflict)


def test_same_success_again_is_ignored() -> None:
    assert isinstance(decide(payment(_S.SUCCEEDED), seen("succeeded")), Ignore)


@pytest.mark.parametrize(
    ("reason", "status"),
    [("requested_by_customer", _S.VOIDED), (None, _S.VOIDED), ("automatic", _S.EXPIRED), ("expired", _S.EXPIRED)],
)
@pytest.mark.parametrize("before", [_S.REQUESTED, _S.ACTION_REQUIRED, _S.PROCESSING, _S.AUTHORIZED, _S.VOIDING])
def test_cancelled_at_stripe_is_voided_or_expired(
    before: PaymentStatus, reason: str | None, status: PaymentStatus
) -> None:
    manual = {"capture_method": "manual"} if before is _S.AUTHORIZED else {}
    decision = applied(payment(before), seen("canceled", cancellation_reason=reason, **manual))
    assert (decision.after.status, decision.after.amount_authorized) == (status, 0)
    assert decision.event == f"payment-{status.lower()}"


def test_cancelled_by_a_time_limit_is_voided_for_whoever_wished_to_void_meanwhile() -> None:
    abandoned = fresh("canceled", cancellation_reason="abandoned")
    assert applied(payment(_S.VOIDING), abandoned).after.status is _S.VOIDED
    assert applied(payment(_S.ACTION_REQUIRED), abandoned).after.status is _S.FAILED


def test_cancelled_after_success_is_fetched_and_then_a_conflict() -> None:
    assert isinstance(decide(payment(_S.SUCCEEDED), seen("canceled")), Fetch)
    assert isinstance(decide(payment(_S.SUCCEEDED), fresh("canceled")), Conflict)


# --- holds ---------------------------------------------------------------------------------------------------------


def test_hold_is_authorized_with_its_deadline() -> None:
    charge = {"id": CHARGE, "payment_method_details": {"type": "card", "card": {"capture_before": 1_900_500_000}}}
    decision = applied(
        payment(capture_method="manual"), answer("requires_capture", capture_method="manual", latest_charge=charge)
    )
    after = decision.after
    assert (after.status, decision.event) == (_S.AUTHORIZED, EventType.PAYMENT_AUTHORIZED)
    assert (after.amount_authorized, after.amount_captured, after.processor_reference) == (1000, 0, CHARGE)
    assert after.capture_before is not None


def test_hold_that_an_event_tells_of_is_fetched_for_its_deadline() -> None:
    before = payment(capture_method="manual")
    assert isinstance(decide(before, seen("requires_capture", capture_method="manual", latest_charge=CHARGE)), Fetch)


def test_deadline_that_comes_later_is_filled_in() -> None:
    charge = {"id": CHARGE, "payment_method_details": {"type": "card", "card": {"capture_before": 1_900_500_000}}}
    signal = answer("requires_capture", capture_method="manual", latest_charge=charge)
    decision = applied(payment(_S.AUTHORIZED), signal)
    assert (decision.after.capture_before is not None, decision.event) == (True, None)
    assert isinstance(decide(decision.after, signal), Ignore)


@pytest.mark.parametrize("status", ["requires_payment_method", "requires_action", "processing"])
@pytest.mark.parametrize("before", [_S.AUTHORIZED, _S.CAPTURING, _S.SUCCEEDED, _S.VOIDED, _S.EXPIRED])
def test_open_status_after_a_closed_one_is_older_news(before: PaymentStatus, status: str) -> None:
    manual = {"capture_method": "manual"} if before in (_S.AUTHORIZED, _S.CAPTURING) else {}
    assert isinstance(decide(payment(before), seen(status, **manual)), Ignore)


# --- the customer --------------------------------------------------------------------------------------------------


def test_payment_without_a_method_waits_for_the_browser() -> None:
    decision = applied(payment(payment_method=None), answer("requires_payment_method"))
    assert decision.after.next_action == NextAction("requires_payment_method", SECRET)
    assert decision.after.was_customer_asked, "whatever is weighed next in this batch"
    assert (decision.after.status, decision.event) == (_S.ACTION_REQUIRED, EventType.PAYMENT_ACTION_REQUIRED)


def test_three_d_secure_gives_the_browser_what_it_needs() -> None:
    redirect = {"type": "redirect_to_url", "redirect_to_url": {"url": "https://hooks.stripe.com/3ds"}}
    assert applied(payment(), answer("requires_action")).after.next_action == NextAction("use_stripe_sdk", SECRET)
    after = applied(payment(), answer("requires_action", next_action=redirect)).after
    assert msgspec.to_builtins(after.next_action) == {
        "type": "redirect_to_url",
        "clientSecret": SECRET,
        "redirectUrl": "https://hooks.stripe.com/3ds",
    }


def test_action_without_its_client_secret_is_fetched_once() -> None:
    assert isinstance(decide(payment(), seen("requires_action", client_secret=None)), Fetch)
    after = applied(payment(), fresh("requires_action", client_secret=None)).after
    assert after.next_action == NextAction("use_stripe_sdk", None)


@pytest.mark.parametrize("error", [INSUFFICIENT_FUNDS, AUTHENTICATION_FAILURE])
def test_failed_attempt_of_a_browser_is_not_the_end(error: dict[str, Any]) -> None:
    before = payment(_S.ACTION_REQUIRED)
    assert isinstance(decide(before, seen("requires_payment_method", last_payment_error=error)), Fetch)
    decision = applied(before, fresh("requires_payment_method", last_payment_error=error))
    assert (decision.after.status, decision.event) == (_S.ACTION_REQUIRED, None)
    assert decision.after.next_action == NextAction("requires_payment_method", SECRET)


def test_failed_authentication_shows_that_a_browser_was_at_work() -> None:
    signal = seen("requires_payment_method", last_payment_error=AUTHENTICATION_FAILURE)
    assert applied(payment(), signal).after.status is _S.ACTION_REQUIRED


def test_confirmation_under_way_tells_the_intent_and_nothing_else() -> None:
    decision = applied(payment(), told("payment_intent.created", intent(PAYMENT, "requires_confirmation")))
    assert (decision.after.status, decision.event) == (_S.REQUESTED, None)
    assert decision.after.processor_payment_intent == INTENT


def test_first_event_after_any_other_needs_no_fetch() -> None:
    late = told("payment_intent.created", intent(PAYMENT, "requires_confirmation"))
    assert isinstance(decide(payment(_S.ACTION_REQUIRED), late), Ignore)
    assert isinstance(decide(payment(_S.PROCESSING, payment_method=None), late), Ignore)


# --- what goes in circles ------------------------------------------------------------------------------------------


def test_processing_stays_pending() -> None:
    decision = applied(payment(), answer("processing"))
    assert (decision.after.status, decision.event) == (_S.PROCESSING, None)


@pytest.mark.parametrize(("before", "status"), [(_S.ACTION_REQUIRED, "processing"), (_S.PROCESSING, "requires_action")])
def test_contradiction_is_fetched_and_a_fresh_object_decides(before: PaymentStatus, status: str) -> None:
    assert isinstance(decide(payment(before), seen(status)), Fetch)
    assert isinstance(decide(payment(before), answer(status)), Fetch)
    assert applied(payment(before), fresh(status)).after.status != before


def test_fetched_object_is_not_fresh_once_another_signal_was_weighed() -> None:
    before = payment(_S.ACTION_REQUIRED, last_history_id=6)
    assert isinstance(decide(before, fresh("processing", after=5)), Fetch)


def test_unknown_status_is_fetched_and_then_waited_out() -> None:
    assert isinstance(decide(payment(), seen("requires_patience")), Fetch)
    assert isinstance(decide(payment(processor_payment_intent=INTENT), fresh("requires_patience")), Ignore)


@pytest.mark.parametrize("before", [_S.REQUESTED, _S.VOIDING])
def test_unknown_status_tells_the_intent_so_that_it_can_be_looked_at_again(before: PaymentStatus) -> None:
    decision = applied(payment(before, processor_payment_intent=None), fresh("requires_patience"))
    assert (decision.after.status, decision.event) == (before, None)
    assert decision.after.processor_payment_intent == INTENT


def test_intent_that_stripe_does_not_know_changes_nothing() -> None:
    assert isinstance(decide(payment(), Missing(Kind.PAYMENT_INTENT, "pi_x")), Ignore)


# --- failures ------------------------------------------------------------------------------------------------------


def test_declined_call_fails_with_reason_code_and_words() -> None:
    thing = intent(PAYMENT, "requires_payment_method", last_payment_error=INSUFFICIENT_FUNDS)
    decision = applied(payment(), said(declined(thing)))
    assert (decision.after.status, decision.event) == (_S.FAILED, EventType.PAYMENT_FAILED)
    assert decision.after.failure == Failure(
        FailureReason.INSUFFICIENT_FUNDS, "insufficient_funds", "Your card has insufficient funds."
    )
    assert decision.after.processor_payment_intent == INTENT
    assert applied(payment(), said(declined(None))).after.failure == decision.after.failure


@pytest.mark.parametrize("before", [_S.REQUESTED, _S.PROCESSING])
def test_failed_attempt_that_nobody_can_repeat_is_the_end(before: PaymentStatus) -> None:
    signal = seen("requires_payment_method", last_payment_error=INSUFFICIENT_FUNDS)
    assert applied(payment(before), signal).after.status is _S.FAILED


def test_declined_call_of_a_payment_that_a_browser_holds_is_fetched() -> None:
    thing = intent(PAYMENT, "requires_payment_method", last_payment_error=INSUFFICIENT_FUNDS)
    assert isinstance(decide(payment(_S.ACTION_REQUIRED), said(declined(thing))), Fetch)
    again = payment(_S.PROCESSING, was_customer_asked=True)  # with another card, perhaps
    assert isinstance(decide(again, said(declined(thing))), Fetch)
    voiding = payment(_S.VOIDING, was_customer_asked=True)
    assert isinstance(decide(voiding, said(declined(thing))), Ignore)  # the cancel will tell how it ended


@pytest.mark.parametrize("before", [_S.AUTHORIZED, _S.SUCCEEDED, _S.VOIDED])
def test_declined_call_after_the_end_is_older_news(before: PaymentStatus) -> None:
    assert isinstance(decide(payment(before), said(declined(None))), Ignore)


def test_call_refused_for_what_the_payment_asked_fails_it() -> None:
    error = {
        "type": "invalid_request_error",
        "code": "resource_missing",
        "param": "payment_method",
        "message": "No such",
    }
    for before in (_S.REQUESTED, _S.VOIDING):  # voided while the call was under way: there is nothing to cancel
        after = applied(payment(before), said(refused(error, 400))).after
        assert after.failure == Failure(FailureReason.PROCESSING_ERROR, "resource_missing", "No such")


def test_call_refused_for_how_it_was_made_is_parked() -> None:
    error = {"type": "invalid_request_error", "code": "parameter_unknown", "param": "confrim"}
    assert isinstance(decide(payment(), said(refused(error))), Park)


# --- late money ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("before", ENDED)
@pytest.mark.parametrize("status", ["succeeded", "requires_capture"])
def test_late_money_is_asked_for_and_never_changes_what_has_ended(before: PaymentStatus, status: str) -> None:
    manual: dict[str, Any] = {"capture_method": "manual"}
    assert isinstance(decide(payment(before, **manual), seen(status, **manual)), Fetch)
    decision = decide(payment(before, **manual), fresh(status, **manual))
    assert isinstance(decision, Compensate)
    assert decision.then == (GiveBack(1000) if status == "succeeded" else Cancel("abandoned"))
    assert INTENT in decision.why
    assert before in decision.why


def test_late_money_that_was_read_before_the_end_is_asked_for_again() -> None:
    before = payment(_S.EXPIRED, capture_method="manual", last_history_id=6)
    assert isinstance(decide(before, fresh("requires_capture", after=5, capture_method="manual")), Fetch)


@pytest.mark.parametrize("before", ENDED)
def test_cancelled_after_the_end_is_no_news(before: PaymentStatus) -> None:
    assert isinstance(decide(payment(before), seen("canceled")), Ignore)


# --- conflicts -----------------------------------------------------------------------------------------------------

FAULTS: list[dict[str, Any]] = [
    {"amount": 999},
    {"currency": "usd"},
    {"livemode": True},
    {"id": "pi_another"},
    {"metadata": {"paymentId": str(uuid4())}},
    {"capture_method": "manual"},
    {"amount_received": 999},
    {"amount_received": 1001},
]


@pytest.mark.parametrize("fault", FAULTS)
def test_facts_that_contradict_ours_are_a_conflict(fault: dict[str, Any]) -> None:
    before = payment(_S.PROCESSING)
    assert isinstance(decide(before, answer("succeeded", **fault)), Conflict)
    assert isinstance(decide(before, fresh("succeeded", **fault)), Conflict)
    hint = decide(before, seen("succeeded", **fault))
    assert isinstance(hint, Fetch), "an event is a hint: the object decides"
    assert hint.object_id == fault.get("id", INTENT)


def test_first_event_that_contradicts_ours_is_a_hint_as_well() -> None:
    assert isinstance(decide(payment(), told("payment_intent.created", intent(PAYMENT, "processing", amount=7))), Fetch)


@pytest.mark.parametrize("fault", [{"amount": 7}, {"livemode": True}, {"id": "pi_another"}])
def test_refused_capture_that_shows_another_intent_is_a_conflict(fault: dict[str, Any]) -> None:
    shown = intent(PAYMENT, "succeeded", capture_method="manual", **fault)
    no = refused({"type": "invalid_request_error", "code": "payment_intent_unexpected_state", "payment_intent": shown})
    before = payment(_S.CAPTURING, capture_id=uuid4(), amount_to_capture=600)
    signal = said({**no, "operation": "capture_payment_intent", "subjectId": str(before.capture_id)})
    assert isinstance(decide(before, signal), Conflict)


def test_hold_of_another_amount_than_asked_for_is_a_conflict() -> None:
    fields: dict[str, Any] = {"capture_method": "manual", "amount_capturable": 900}
    before = payment(_S.PROCESSING, capture_method="manual")
    assert isinstance(decide(before, fresh("requires_capture", **fields)), Conflict)
    assert isinstance(decide(before, seen("requires_capture", **fields)), Fetch)


def test_declined_call_with_facts_that_contradict_ours_is_a_conflict() -> None:
    thing = intent(PAYMENT, "requires_payment_method", last_payment_error=INSUFFICIENT_FUNDS, amount=7)
    assert isinstance(decide(payment(), said(declined(thing))), Conflict)


@pytest.mark.parametrize("signal", [seen("succeeded"), fresh("canceled"), said(declined(None))])
def test_conflict_is_left_by_an_operator_only(signal: IntentSignal) -> None:
    assert isinstance(decide(payment(_S.CONFLICTED), signal), Ignore)


# --- always --------------------------------------------------------------------------------------------------------

STATUSES = ["requires_payment_method", "requires_confirmation", "requires_action", "processing", "requires_capture"]
SIGNALS: st.SearchStrategy[IntentSignal] = st.builds(
    lambda make, status, error, manual: make(
        status,
        last_payment_error=error,
        capture_method="manual" if manual else "automatic_async",
    ),
    st.sampled_from([seen, answer, fresh]),
    st.sampled_from([*STATUSES, "succeeded", "canceled", "requires_patience"]),
    st.sampled_from([None, INSUFFICIENT_FUNDS, AUTHENTICATION_FAILURE]),
    st.booleans(),
) | st.sampled_from([said(declined(None)), said(refused({"param": "amount"})), Missing(Kind.PAYMENT_INTENT, "pi_x")])


@given(st.sampled_from(list(_S)), SIGNALS, st.booleans(), st.booleans())
def test_no_decision_breaks_the_rules_of_state_and_money(
    status: PaymentStatus,
    signal: IntentSignal,
    unattended: bool,  # noqa: FBT001
    manual: bool,  # noqa: FBT001
) -> None:
    method = {} if status in (_S.AUTHORIZED, _S.CAPTURING) else {"capture_method": "manual" if manual else "automatic"}
    before = payment(status, payment_method="pm_card_visa" if unattended else None, **method)
    decision = decide(before, signal)
    assert decision == decide(before, signal)
    assert decision.why
    if not isinstance(decision, Apply):
        return
    after = decision.after
    assert after != before or decision.then is not None
    assert after.status is before.status or may_change(before.status, after.status)
    assert decision.event is None or after.status is not before.status
    assert 0 <= after.amount_captured <= after.amount_authorized <= after.amount
    assert after.amount_captured >= before.amount_captured
    assert (after.status is _S.ACTION_REQUIRED) == (after.next_action is not None)
    assert (after.status is _S.FAILED) == (after.failure is not None)
    assert (after.status is _S.SUCCEEDED) == (after.amount_captured > 0)


def test_payment_ids_are_compared_as_ids() -> None:
    upper = {"metadata": {"paymentId": str(PAYMENT).upper()}}
    assert isinstance(PAYMENT, UUID)
    assert applied(payment(), answer("succeeded", **upper)).after.status is _S.SUCCEEDED
