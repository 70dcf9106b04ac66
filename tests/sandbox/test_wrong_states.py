"""What the error of a call tells that finds the wrong state: https://docs.stripe.com/error-codes, https://docs.stripe.com/api/errors."""

from collections.abc import Callable
from typing import Any

import pytest

from tests.sandbox.documented import documented
from tests.sandbox.driver import Driver, Steer, error_of

BANK = {"payment_method": "pm_usBankAccount_processing", "allowed_payment_method_types": ["us_bank_account"]}
REACHED: dict[str, Callable[[Driver], Any]] = {
    "requires_payment_method": lambda api: api.pay(confirm=False),
    "requires_confirmation": lambda api: api.pay(confirm=False, payment_method="pm_card_visa"),
    "requires_action": lambda api: api.pay(payment_method="pm_card_authenticationRequired"),
    "processing": lambda api: api.pay(**BANK),
    "succeeded": lambda api: api.pay(),
    "canceled": lambda api: api.cancel(api.hold().id, cancellation_reason="requested_by_customer"),
}


def assert_tells_the_intent(error: Any, intent: Any, status: str) -> None:
    """A caller that lost its race learns from the error alone where the intent stands."""
    assert (error.http_status, error.error.type) == (400, "invalid_request_error")
    assert error.error.code == "payment_intent_unexpected_state"
    told = error.error.payment_intent
    assert (told.id, told.status, told.amount, told.currency) == (intent.id, status, intent.amount, intent.currency)
    assert told.latest_charge == intent.latest_charge
    assert told.metadata.to_dict() == intent.metadata.to_dict()
    assert error.error.charge is None
    assert f"status of {status}" in str(error) or status == "processing"


@pytest.mark.parametrize("status", REACHED)
@documented(
    "https://docs.stripe.com/api/payment_intents/capture",
    "https://docs.stripe.com/error-codes#payment-intent-unexpected-state",
    lines=(20, 22),
)
def test_capture_of_what_is_not_held(api: Driver, status: str) -> None:
    intent = REACHED[status](api)
    assert intent.status == status
    assert_tells_the_intent(error_of(lambda: api.capture(intent.id)), intent, status)
    assert api.intent(intent.id).status == status


@pytest.mark.parametrize("status", ["succeeded", "canceled", "processing"])
@documented("https://docs.stripe.com/api/payment_intents/cancel", lines=(20, 21))
def test_cancel_of_what_cannot_be_canceled(api: Driver, status: str) -> None:
    """Processing in rare cases only, never once it has ended."""
    intent = REACHED[status](api)
    assert_tells_the_intent(error_of(lambda: api.cancel(intent.id)), intent, status)
    assert api.intent(intent.id).status == status


@pytest.mark.parametrize("status", ["requires_payment_method", "requires_confirmation", "requires_action"])
@documented("https://docs.stripe.com/api/payment_intents/cancel", lines=(16, 18, 19))
def test_cancel_of_what_is_open(api: Driver, status: str) -> None:
    intent = REACHED[status](api)
    canceled = api.cancel(intent.id, cancellation_reason="abandoned")
    assert (canceled.status, canceled.cancellation_reason, canceled.next_action) == ("canceled", "abandoned", None)


@documented("https://docs.stripe.com/api/idempotent_requests")
def test_same_key_replays_the_refusal_though_the_state_has_changed(api: Driver, steer: Steer) -> None:
    """Whatever the first answer was; a new wish needs a new key."""
    intent = REACHED["processing"](api)
    first = error_of(lambda: api.cancel(intent.id, "cancel-once"))
    steer.post("behaviours", processing_cancelable=True)
    again = error_of(lambda: api.cancel(intent.id, "cancel-once"))
    assert again.error.code == first.error.code
    assert again.headers["idempotent-replayed"] == "true"
    assert api.cancel(intent.id, "cancel-twice").status == "canceled"


@documented("https://docs.stripe.com/api/refunds/create")
def test_refund_above_the_rest_has_no_code(api: Driver) -> None:
    """An error above what is left; integrators see no code."""
    intent = api.pay()
    error = error_of(lambda: api.refund(payment_intent=intent.id, amount=1001))
    assert (error.http_status, error.error.type) == (400, "invalid_request_error")
    assert (error.error.code, error.error.param) == (None, "amount")
    assert error.error.payment_intent is None


@pytest.mark.parametrize("status", ["requires_payment_method", "requires_action", "processing", "canceled"])
@documented("https://docs.stripe.com/refunds#cancel-payment")
def test_refund_of_what_was_never_charged(api: Driver, status: str) -> None:
    """What was not captured is canceled."""
    intent = REACHED[status](api)
    error = error_of(lambda: api.refund(payment_intent=intent.id))
    assert (error.http_status, error.error.type) == (400, "invalid_request_error")
    assert api.run(api.refunds.list_async({"payment_intent": intent.id})).data == []
