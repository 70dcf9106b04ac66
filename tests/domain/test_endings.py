"""How a payment fails, and what late money does to one that has ended."""

from typing import Any

import pytest

from payments.domain.decisions import Cancel, Compensate, Fetch, GiveBack, Ignore, Park
from payments.domain.declines import Failure, FailureReason
from payments.domain.states import EventType, PaymentStatus
from tests.domain.deciding import ENDED, S, applied, decide, fresh, payment, said, seen
from tests.domain.stripe_lives import PAYMENT
from tests.domain.stripe_objects import INSUFFICIENT_FUNDS, INTENT, declined, intent, refused

# --- failures ------------------------------------------------------------------------------------------------------


def test_declined_call_fails_with_reason_code_and_words() -> None:
    thing = intent(PAYMENT, "requires_payment_method", last_payment_error=INSUFFICIENT_FUNDS)
    decision = applied(payment(), said(declined(thing)))
    assert (decision.after.status, decision.event) == (S.FAILED, EventType.PAYMENT_FAILED)
    assert decision.after.failure == Failure(
        FailureReason.INSUFFICIENT_FUNDS, "insufficient_funds", "Your card has insufficient funds."
    )
    assert decision.after.processor_payment_intent == INTENT
    assert applied(payment(), said(declined(None))).after.failure == decision.after.failure


@pytest.mark.parametrize("before", [S.REQUESTED, S.PROCESSING])
def test_failed_attempt_that_nobody_can_repeat_is_the_end(before: PaymentStatus) -> None:
    signal = seen("requires_payment_method", last_payment_error=INSUFFICIENT_FUNDS)
    assert applied(payment(before), signal).after.status is S.FAILED


def test_declined_call_of_a_payment_that_a_browser_holds_is_fetched() -> None:
    thing = intent(PAYMENT, "requires_payment_method", last_payment_error=INSUFFICIENT_FUNDS)
    assert isinstance(decide(payment(S.ACTION_REQUIRED), said(declined(thing))), Fetch)
    again = payment(S.PROCESSING, was_customer_asked=True)  # with another card, perhaps
    assert isinstance(decide(again, said(declined(thing))), Fetch)
    voiding = payment(S.VOIDING, was_customer_asked=True)
    assert isinstance(decide(voiding, said(declined(thing))), Ignore)  # the cancel will tell how it ended


@pytest.mark.parametrize("before", [S.AUTHORIZED, S.SUCCEEDED, S.VOIDED])
def test_declined_call_after_the_end_is_older_news(before: PaymentStatus) -> None:
    assert isinstance(decide(payment(before), said(declined(None))), Ignore)


def test_call_refused_for_what_the_payment_asked_fails_it() -> None:
    error = {
        "type": "invalid_request_error",
        "code": "resource_missing",
        "param": "payment_method",
        "message": "No such",
    }
    for before in (S.REQUESTED, S.VOIDING):  # voided while the call was under way: there is nothing to cancel
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
    before = payment(S.EXPIRED, capture_method="manual", last_history_id=6)
    assert isinstance(decide(before, fresh("requires_capture", after=5, capture_method="manual")), Fetch)


@pytest.mark.parametrize("before", ENDED)
def test_cancelled_after_the_end_is_no_news(before: PaymentStatus) -> None:
    assert isinstance(decide(payment(before), seen("canceled")), Ignore)


def test_late_money_on_its_way_back_names_its_intent_where_that_was_not_known() -> None:
    """A refund that was asked for before it was can only then be made."""
    voided = payment(S.VOIDED, processor_payment_intent=None, amount_reserved=1000)
    decision = applied(voided, fresh("succeeded"))
    assert (decision.after.processor_payment_intent, decision.event, decision.then) == (INTENT, None, None)
    assert isinstance(decide(decision.after, fresh("succeeded")), Ignore)
