"""Each rule of deciding, one by one; that all of them together end every order alike is in test_orders."""

from typing import Any
from uuid import UUID

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from payments.domain.decisions import Apply, Compensate, Conflict, Fetch, GiveBack, Ignore
from payments.domain.intents import IntentSignal
from payments.domain.payment import NextAction
from payments.domain.signals import Kind, Missing
from payments.domain.states import EventType, PaymentStatus, may_change
from tests.domain.deciding import S, answer, applied, decide, fresh, payment, said, seen, told
from tests.domain.stripe_lives import PAYMENT
from tests.domain.stripe_objects import (
    AUTHENTICATION_FAILURE,
    CHARGE,
    INSUFFICIENT_FUNDS,
    INTENT,
    SECRET,
    declined,
    intent,
    refused,
)

# --- what ends a payment -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [S.REQUESTED, S.ACTION_REQUIRED, S.PROCESSING, S.VOIDING])
def test_success_counts_whenever_it_comes(status: PaymentStatus) -> None:
    decision = applied(payment(status), seen("succeeded"))
    after = decision.after
    assert (after.status, decision.event) == (S.SUCCEEDED, EventType.PAYMENT_SUCCEEDED)
    assert (after.amount_authorized, after.amount_captured, after.processor_reference) == (1000, 1000, CHARGE)
    assert (after.processor_payment_intent, after.next_action) == (INTENT, None)


def test_what_goes_back_is_what_was_taken_and_is_not_on_its_way_back_yet() -> None:
    fields: dict[str, Any] = {"capture_method": "manual", "amount_received": 400}
    voiding = payment(S.VOIDING, capture_method="manual", amount_authorized=1000)
    assert applied(voiding, seen("succeeded", **fields)).then == GiveBack(400)
    voided = payment(S.VOIDED, capture_method="manual", amount_reserved=100)
    decision = decide(voided, fresh("succeeded", **fields))
    assert isinstance(decision, Compensate)
    assert decision.then == GiveBack(300)


def test_partial_capture_at_stripe_keeps_both_amounts() -> None:
    after = applied(payment(S.AUTHORIZED), seen("succeeded", amount_received=400, capture_method="manual")).after
    assert (after.amount_authorized, after.amount_captured) == (1000, 400)


def test_success_without_its_charge_is_fetched_once_and_then_taken_as_it_is() -> None:
    assert isinstance(decide(payment(), seen("succeeded", latest_charge=None)), Fetch)
    after = applied(payment(), fresh("succeeded", latest_charge=None)).after
    assert (after.status, after.processor_reference) == (S.SUCCEEDED, None)


def test_charge_that_comes_later_is_filled_in_without_an_event() -> None:
    decision = applied(payment(S.SUCCEEDED, processor_reference=None), seen("succeeded"))
    assert (decision.after.processor_reference, decision.event) == (CHARGE, None)


def test_same_success_again_is_ignored() -> None:
    assert isinstance(decide(payment(S.SUCCEEDED), seen("succeeded")), Ignore)


@pytest.mark.parametrize(
    ("reason", "status"),
    [("requested_by_customer", S.VOIDED), (None, S.VOIDED), ("automatic", S.EXPIRED), ("expired", S.EXPIRED)],
)
@pytest.mark.parametrize("before", [S.REQUESTED, S.ACTION_REQUIRED, S.PROCESSING, S.AUTHORIZED, S.VOIDING])
def test_cancelled_at_stripe_is_voided_or_expired(
    before: PaymentStatus, reason: str | None, status: PaymentStatus
) -> None:
    manual = {"capture_method": "manual"} if before is S.AUTHORIZED else {}
    decision = applied(payment(before), seen("canceled", cancellation_reason=reason, **manual))
    assert (decision.after.status, decision.after.amount_authorized) == (status, 0)
    assert decision.event == f"payment-{status.lower()}"


def test_cancelled_by_a_time_limit_is_voided_for_whoever_wished_to_void_meanwhile() -> None:
    abandoned = fresh("canceled", cancellation_reason="abandoned")
    assert applied(payment(S.VOIDING), abandoned).after.status is S.VOIDED
    assert applied(payment(S.ACTION_REQUIRED), abandoned).after.status is S.FAILED


def test_cancelled_after_success_is_fetched_and_then_a_conflict() -> None:
    assert isinstance(decide(payment(S.SUCCEEDED), seen("canceled")), Fetch)
    assert isinstance(decide(payment(S.SUCCEEDED), fresh("canceled")), Conflict)


# --- holds ---------------------------------------------------------------------------------------------------------


def test_hold_is_authorized_with_its_deadline() -> None:
    charge = {"id": CHARGE, "payment_method_details": {"type": "card", "card": {"capture_before": 1_900_500_000}}}
    decision = applied(
        payment(capture_method="manual"), answer("requires_capture", capture_method="manual", latest_charge=charge)
    )
    after = decision.after
    assert (after.status, decision.event) == (S.AUTHORIZED, EventType.PAYMENT_AUTHORIZED)
    assert (after.amount_authorized, after.amount_captured, after.processor_reference) == (1000, 0, CHARGE)
    assert after.capture_before is not None


def test_hold_that_an_event_tells_of_is_fetched_for_its_deadline() -> None:
    before = payment(capture_method="manual")
    assert isinstance(decide(before, seen("requires_capture", capture_method="manual", latest_charge=CHARGE)), Fetch)


def test_deadline_that_comes_later_is_filled_in() -> None:
    charge = {"id": CHARGE, "payment_method_details": {"type": "card", "card": {"capture_before": 1_900_500_000}}}
    signal = answer("requires_capture", capture_method="manual", latest_charge=charge)
    decision = applied(payment(S.AUTHORIZED), signal)
    assert (decision.after.capture_before is not None, decision.event) == (True, None)
    assert isinstance(decide(decision.after, signal), Ignore)


@pytest.mark.parametrize("status", ["requires_payment_method", "requires_action", "processing"])
@pytest.mark.parametrize("before", [S.AUTHORIZED, S.CAPTURING, S.SUCCEEDED, S.VOIDED, S.EXPIRED])
def test_open_status_after_a_closed_one_is_older_news(before: PaymentStatus, status: str) -> None:
    manual = {"capture_method": "manual"} if before in (S.AUTHORIZED, S.CAPTURING) else {}
    assert isinstance(decide(payment(before), seen(status, **manual)), Ignore)


# --- the customer --------------------------------------------------------------------------------------------------


def test_payment_without_a_method_waits_for_the_browser() -> None:
    decision = applied(payment(payment_method=None), answer("requires_payment_method"))
    assert decision.after.next_action == NextAction("requires_payment_method", SECRET)
    assert decision.after.was_customer_asked, "whatever is weighed next in this batch"
    assert (decision.after.status, decision.event) == (S.ACTION_REQUIRED, EventType.PAYMENT_ACTION_REQUIRED)


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
    before = payment(S.ACTION_REQUIRED)
    assert isinstance(decide(before, seen("requires_payment_method", last_payment_error=error)), Fetch)
    decision = applied(before, fresh("requires_payment_method", last_payment_error=error))
    assert (decision.after.status, decision.event) == (S.ACTION_REQUIRED, None)
    assert decision.after.next_action == NextAction("requires_payment_method", SECRET)


def test_failed_authentication_shows_that_a_browser_was_at_work() -> None:
    signal = seen("requires_payment_method", last_payment_error=AUTHENTICATION_FAILURE)
    assert applied(payment(), signal).after.status is S.ACTION_REQUIRED


def test_confirmation_under_way_tells_the_intent_and_nothing_else() -> None:
    decision = applied(payment(), told("payment_intent.created", intent(PAYMENT, "requires_confirmation")))
    assert (decision.after.status, decision.event) == (S.REQUESTED, None)
    assert decision.after.processor_payment_intent == INTENT


def test_first_event_after_any_other_needs_no_fetch() -> None:
    late = told("payment_intent.created", intent(PAYMENT, "requires_confirmation"))
    assert isinstance(decide(payment(S.ACTION_REQUIRED), late), Ignore)
    assert isinstance(decide(payment(S.PROCESSING, payment_method=None), late), Ignore)


# --- what goes in circles ------------------------------------------------------------------------------------------


def test_processing_stays_pending() -> None:
    decision = applied(payment(), answer("processing"))
    assert (decision.after.status, decision.event) == (S.PROCESSING, None)


@pytest.mark.parametrize(("before", "status"), [(S.ACTION_REQUIRED, "processing"), (S.PROCESSING, "requires_action")])
def test_contradiction_is_fetched_and_a_fresh_object_decides(before: PaymentStatus, status: str) -> None:
    assert isinstance(decide(payment(before), seen(status)), Fetch)
    assert isinstance(decide(payment(before), answer(status)), Fetch)
    assert applied(payment(before), fresh(status)).after.status != before


def test_fetched_object_is_not_fresh_once_another_signal_was_weighed() -> None:
    before = payment(S.ACTION_REQUIRED, last_history_id=6)
    assert isinstance(decide(before, fresh("processing", after=5)), Fetch)


def test_unknown_status_is_fetched_and_then_waited_out() -> None:
    assert isinstance(decide(payment(), seen("requires_patience")), Fetch)
    assert isinstance(decide(payment(processor_payment_intent=INTENT), fresh("requires_patience")), Ignore)


@pytest.mark.parametrize("before", [S.REQUESTED, S.VOIDING])
def test_unknown_status_tells_the_intent_so_that_it_can_be_looked_at_again(before: PaymentStatus) -> None:
    decision = applied(payment(before, processor_payment_intent=None), fresh("requires_patience"))
    assert (decision.after.status, decision.event) == (before, None)
    assert decision.after.processor_payment_intent == INTENT


def test_intent_that_stripe_does_not_know_changes_nothing() -> None:
    assert isinstance(decide(payment(), Missing(Kind.PAYMENT_INTENT, "pi_x")), Ignore)


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


@given(st.sampled_from(list(S)), SIGNALS, st.booleans(), st.booleans())
def test_no_decision_breaks_the_rules_of_state_and_money(
    status: PaymentStatus,
    signal: IntentSignal,
    unattended: bool,  # noqa: FBT001
    manual: bool,  # noqa: FBT001
) -> None:
    method = {} if status in (S.AUTHORIZED, S.CAPTURING) else {"capture_method": "manual" if manual else "automatic"}
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
    assert (after.status is S.ACTION_REQUIRED) == (after.next_action is not None)
    assert (after.status is S.FAILED) == (after.failure is not None)
    assert (after.status is S.SUCCEEDED) == (after.amount_captured > 0)


def test_payment_ids_are_compared_as_ids() -> None:
    upper = {"metadata": {"paymentId": str(PAYMENT).upper()}}
    assert isinstance(PAYMENT, UUID)
    assert applied(payment(), answer("succeeded", **upper)).after.status is S.SUCCEEDED
