"""PaymentIntents: https://docs.stripe.com/api/payment_intents, https://docs.stripe.com/payments/paymentintents/lifecycle."""

import pytest
import stripe

from tests.sandbox.documented import documented
from tests.sandbox.driver import NO_REDIRECTS, Driver, Steer, error_of, is_a

BANK = {"allowed_payment_method_types": ["us_bank_account"]}


@documented("https://docs.stripe.com/payments/paymentintents/lifecycle")
def test_intent_without_payment_method_requires_one(api: Driver) -> None:
    intent = api.pay(confirm=False)
    assert intent.status == "requires_payment_method"
    assert intent.client_secret.startswith(f"{intent.id}_secret_")
    assert intent.latest_charge is None


@documented("https://docs.stripe.com/payments/paymentintents/lifecycle")
def test_intent_with_payment_method_requires_confirmation(api: Driver) -> None:
    intent = api.pay(confirm=False, payment_method="pm_card_visa")
    assert intent.status == "requires_confirmation"
    assert intent.payment_method.startswith("pm_")
    assert intent.payment_method != "pm_card_visa"


@documented("https://docs.stripe.com/testing")
def test_test_token_makes_a_fresh_payment_method_each_time(api: Driver) -> None:
    first, second = api.pay(), api.pay()
    assert first.payment_method != second.payment_method
    method = api.run(api.v1.payment_methods.retrieve_async(first.payment_method))
    assert (method.type, method.card.brand, method.card.last4) == ("card", "visa", "4242")


@documented("https://docs.stripe.com/api/payment_intents/create", lines=(35, 36))
def test_confirmed_intent_succeeds(api: Driver) -> None:
    intent = api.pay(metadata={"paymentId": "p-1"}, description="an order")
    assert (intent.status, intent.amount_received, intent.amount_capturable) == ("succeeded", 1000, 0)
    assert intent.metadata["paymentId"] == "p-1"
    charge = api.charge(intent.latest_charge)
    assert (charge.status, charge.paid, charge.captured) == ("succeeded", True, True)
    assert (charge.amount_captured, charge.amount_refunded) == (1000, 0)
    assert charge.payment_intent == intent.id
    assert charge.metadata["paymentId"] == "p-1", "metadata is copied to the charge"


@documented("https://docs.stripe.com/api/payment_intents/create#create_payment_intent-capture_method")
def test_capture_method_defaults_to_automatic_async(api: Driver) -> None:
    assert api.pay(confirm=False).capture_method == "automatic_async"


@documented("https://docs.stripe.com/payments/payment-intents/asynchronous-capture")
def test_automatic_capture_has_its_balance_transaction_at_once(api: Driver) -> None:
    intent = api.pay(capture_method="automatic", expand=["latest_charge.balance_transaction"])
    line = intent.latest_charge.balance_transaction
    assert (line.amount, line.type, line.source) == (1000, "charge", intent.latest_charge.id)
    assert line.net == line.amount - line.fee


@documented("https://docs.stripe.com/payments/payment-intents/asynchronous-capture", lines=(58,))
def test_asynchronous_capture_gets_its_balance_transaction_later(api: Driver, steer: Steer) -> None:
    """Null until charge.updated."""
    steer.post("behaviours", balance_delay_s=60)
    intent = api.pay()
    assert api.charge(intent.latest_charge).balance_transaction is None
    assert "charge.updated" not in api.event_types(intent.id)
    steer.advance(61)
    assert api.charge(intent.latest_charge).balance_transaction.startswith("txn_")
    assert "charge.updated" in api.event_types(intent.id)


@documented("https://docs.stripe.com/payments/place-a-hold-on-a-payment-method", lines=(24,))
def test_manual_capture_places_a_hold(api: Driver) -> None:
    intent = api.hold(expand=["latest_charge"])
    charge = intent.latest_charge
    assert (intent.status, intent.amount_capturable, intent.amount_received) == ("requires_capture", 1000, 0)
    assert (charge.status, charge.captured, charge.amount_captured) == ("succeeded", False, 0)
    week_s = 7 * 24 * 3600
    assert abs(charge.payment_method_details.card.capture_before - charge.created - week_s) < week_s / 2


@documented("https://docs.stripe.com/payments/place-a-hold-on-a-payment-method", lines=(24,))
def test_merchant_initiated_visa_hold_is_shorter(api: Driver, steer: Steer) -> None:
    """Visa, 4 days and 18 hours."""
    charge = api.hold(off_session=True, expand=["latest_charge"]).latest_charge
    assert charge.payment_method_details.card.capture_before - charge.created == (4 * 24 + 18) * 3600


@documented("https://docs.stripe.com/api/payment_intents/capture")
def test_full_capture(api: Driver) -> None:
    """Defaults to the full amount_capturable."""
    intent = api.capture(api.hold().id)
    assert (intent.status, intent.amount_received, intent.amount_capturable) == ("succeeded", 1000, 0)
    charge = api.charge(intent.latest_charge)
    assert (charge.captured, charge.amount_captured) == (True, 1000)
    assert charge.balance_transaction is not None


@documented("https://docs.stripe.com/payments/place-a-hold-on-a-payment-method#capture-funds", lines=(23,))
def test_partial_capture_releases_the_rest(api: Driver) -> None:
    intent = api.capture(api.hold().id, amount_to_capture=700)
    assert (intent.status, intent.amount, intent.amount_received, intent.amount_capturable) == (
        "succeeded",
        1000,
        700,
        0,
    )
    charge = api.charge(intent.latest_charge)
    assert (charge.amount, charge.amount_captured) == (1000, 700)
    error = error_of(lambda: api.refund(payment_intent=intent.id, amount=701))
    assert is_a(error, stripe.InvalidRequestError), "what was released cannot be refunded"
    assert api.refund(payment_intent=intent.id, amount=700).amount == 700


@pytest.mark.parametrize("amount", [1001, 5000])
@documented("https://docs.stripe.com/api/payment_intents/capture", lines=(23,))
def test_capture_above_the_hold_is_refused(api: Driver, amount: int) -> None:
    held = api.hold()
    error = error_of(lambda: api.capture(held.id, amount_to_capture=amount))
    assert error.http_status == 400
    assert error.error.code == "amount_too_large"
    assert api.intent(held.id).status == "requires_capture"


@documented("https://docs.stripe.com/error-codes#payment-intent-unexpected-state", lines=(22,))
def test_capture_needs_requires_capture(api: Driver) -> None:
    intent = api.pay()
    error = error_of(lambda: api.capture(intent.id))
    assert error.http_status == 400
    assert error.error.code == "payment_intent_unexpected_state"
    assert error.error.payment_intent.status == "succeeded"
    assert "has a status of succeeded" in str(error)


@documented("https://docs.stripe.com/api/payment_intents/cancel")
def test_cancel_before_payment(api: Driver) -> None:
    intent = api.cancel(api.pay(confirm=False).id, cancellation_reason="requested_by_customer")
    assert (intent.status, intent.cancellation_reason) == ("canceled", "requested_by_customer")
    assert intent.canceled_at is not None


@documented("https://docs.stripe.com/api/payment_intents/cancel", lines=(25, 26))
def test_cancel_releases_the_hold(api: Driver) -> None:
    """The remaining amount_capturable goes back by itself."""
    held = api.hold()
    intent = api.cancel(held.id)
    assert (intent.status, intent.amount_capturable, intent.amount_received) == ("canceled", 0, 0)
    charge = api.charge(held.latest_charge)
    assert (charge.captured, charge.amount_captured, charge.refunded) == (False, 0, True)


@pytest.mark.parametrize("reached", ["succeeded", "canceled"])
@documented("https://docs.stripe.com/api/payment_intents/cancel")
def test_cancel_of_a_terminal_intent_is_refused(api: Driver, reached: str) -> None:
    intent = api.pay() if reached == "succeeded" else api.cancel(api.pay(confirm=False).id)
    error = error_of(lambda: api.cancel(intent.id))
    assert error.error.code == "payment_intent_unexpected_state"
    assert f"because it has a status of {reached}" in str(error)
    assert error.error.payment_intent.id == intent.id


@documented("https://docs.stripe.com/api/payment_intents/confirm")
def test_confirm_later(api: Driver) -> None:
    intent = api.confirm(api.pay(confirm=False).id, payment_method="pm_card_visa")
    assert intent.status == "succeeded"


@documented("https://docs.stripe.com/api/payment_intents/confirm")
def test_confirm_without_payment_method_is_refused(api: Driver) -> None:
    created = api.pay(confirm=False)
    error = error_of(lambda: api.confirm(created.id))
    assert error.error.code == "payment_intent_unexpected_state"
    assert "missing a payment method" in str(error)


@pytest.mark.parametrize("reached", ["succeeded", "canceled", "requires_capture"])
@documented("https://docs.stripe.com/error-codes#payment-intent-unexpected-state", lines=(26,))
def test_confirm_of_a_settled_intent_is_refused(api: Driver, reached: str) -> None:
    makers = {
        "succeeded": api.pay,
        "canceled": lambda: api.cancel(api.pay(confirm=False).id),
        "requires_capture": api.hold,
    }
    intent = makers[reached]()
    error = error_of(lambda: api.confirm(intent.id, payment_method="pm_card_visa"))
    assert error.error.code == "payment_intent_unexpected_state"


@documented("https://docs.stripe.com/api/payment_intents/create#create_payment_intent-return_url")
def test_dashboard_methods_need_a_return_url(api: Driver) -> None:
    error = error_of(lambda: api.pay(automatic_payment_methods={"enabled": True}))
    assert error.http_status == 400
    assert "return_url" in str(error)
    paid = api.pay(automatic_payment_methods={"enabled": True}, return_url="https://example.com/back")
    assert paid.status == "succeeded"
    assert api.pay(automatic_payment_methods=NO_REDIRECTS).status == "succeeded"


@documented(
    "https://docs.stripe.com/api/payment_methods/attach", "https://docs.stripe.com/payments/payment-methods#reusability"
)
def test_saved_method_of_a_customer(api: Driver) -> None:
    customer = api.customer(email="jenny@example.com", payment_method="pm_card_visa")
    methods = api.run(api.v1.customers.payment_methods.list_async(customer.id))
    method = methods.data[0].id
    for _time in range(2):
        intent = api.pay(customer=customer.id, payment_method=method, off_session=True)
        assert (intent.status, intent.payment_method) == ("succeeded", method)
    assert api.run(api.v1.customers.retrieve_async(customer.id)).email == "jenny@example.com"


@documented("https://docs.stripe.com/payments/payment-methods#reusability")
def test_method_without_customer_serves_once(api: Driver) -> None:
    method = api.pay().payment_method
    error = error_of(lambda: api.pay(payment_method=method))
    assert error.http_status == 400
    assert "may not be used again" in str(error)


@documented("https://docs.stripe.com/api/payment_intents/create#create_payment_intent-customer")
def test_method_of_another_customer_is_refused(api: Driver) -> None:
    customer = api.customer(payment_method="pm_card_visa")
    methods = api.run(api.v1.customers.payment_methods.list_async(customer.id))
    error = error_of(lambda: api.pay(payment_method=methods.data[0].id))
    assert error.http_status == 400


@pytest.mark.parametrize(
    "fates", [("pm_usBankAccount_success", "succeeded"), ("pm_usBankAccount_processing", "processing")]
)
@documented("https://docs.stripe.com/payments/paymentintents/lifecycle", lines=(17,))
def test_delayed_method_is_processing_first(api: Driver, steer: Steer, fates: tuple[str, str]) -> None:
    token, fate = fates
    intent = api.pay(payment_method=token, **BANK)
    assert intent.status == "processing"
    steer.advance(60)
    assert api.intent(intent.id).status == fate


@documented("https://docs.stripe.com/payments/ach-direct-debit/accept-a-payment#test-your-integration", lines=(17,))
def test_delayed_method_can_fail(api: Driver, steer: Steer) -> None:
    intent = api.pay(payment_method="pm_usBankAccount_insufficientFunds", **BANK)
    steer.advance(60)
    failed = api.intent(intent.id)
    assert failed.status == "requires_payment_method"
    assert failed.last_payment_error.code == "payment_intent_payment_attempt_failed"


@documented("https://docs.stripe.com/api/payment_intents/cancel")
def test_processing_intent_cannot_be_canceled(api: Driver, steer: Steer) -> None:
    """Processing only in rare cases."""
    intent = api.pay(payment_method="pm_usBankAccount_success", **BANK)
    assert error_of(lambda: api.cancel(intent.id)).error.code == "payment_intent_unexpected_state"
    steer.post("behaviours", processing_cancelable=True)
    assert api.cancel(intent.id).status == "canceled"
    steer.advance(60)
    assert api.intent(intent.id).status == "canceled"


@documented("https://docs.stripe.com/payments/place-a-hold-on-a-payment-method", lines=(24,))
def test_hold_expires_at_capture_before(api: Driver, steer: Steer) -> None:
    """The status changes to canceled."""
    held = api.hold(expand=["latest_charge"])
    before = held.latest_charge.payment_method_details.card.capture_before
    steer.post("clock", now=before - 5)
    assert api.intent(held.id).status == "requires_capture"
    steer.post("clock", now=before + 1)
    expired = api.intent(held.id)
    assert (expired.status, expired.cancellation_reason, expired.amount_capturable) == ("canceled", "automatic", 0)
    types = api.event_types(held.id)
    assert types[-3:] == ["charge.expired", "charge.refunded", "payment_intent.canceled"]
    assert error_of(lambda: api.capture(held.id)).error.code == "payment_intent_unexpected_state"


@documented("https://docs.stripe.com/payments/place-a-hold-on-a-payment-method")
def test_captured_hold_does_not_expire(api: Driver, steer: Steer) -> None:
    held = api.hold()
    api.capture(held.id)
    steer.advance(30 * 24 * 3600)
    assert api.intent(held.id).status == "succeeded"


@documented("https://docs.stripe.com/api/expanding_objects")
def test_expand_replaces_ids(api: Driver) -> None:
    intent = api.pay(capture_method="automatic", expand=["latest_charge.balance_transaction", "payment_method"])
    assert intent.latest_charge.object == "charge"
    assert intent.latest_charge.balance_transaction.object == "balance_transaction"
    assert intent.payment_method.object == "payment_method"
    error = error_of(lambda: api.intent(intent.id, expand=["status"]))
    assert error.http_status == 400


@documented("https://docs.stripe.com/error-codes#resource-missing")
def test_unknown_ids_are_404(api: Driver) -> None:
    error = error_of(lambda: api.intent("pi_unknown"))
    assert (error.http_status, error.error.code, error.error.param) == (404, "resource_missing", "intent")
    assert str(error.user_message) == "No such payment_intent: 'pi_unknown'"
    assert error_of(lambda: api.charge("ch_unknown")).http_status == 404


@documented(
    "https://docs.stripe.com/api/payment_intents/capture",
    "https://docs.stripe.com/api/idempotent_requests",
    lines=(22,),
)
def test_capture_is_idempotent(api: Driver) -> None:
    """Under its key it is replayed; under another it finds nothing left to capture."""
    held = api.hold()
    first = api.capture(held.id, "capture-" + held.id)
    again = api.capture(held.id, "capture-" + held.id)
    assert (first.status, again.status, again.latest_charge) == ("succeeded", "succeeded", first.latest_charge)
    assert again.last_response.headers["idempotent-replayed"] == "true"
    assert error_of(lambda: api.capture(held.id)).error.code == "payment_intent_unexpected_state"
    assert api.charge(held.latest_charge).amount_captured == 1000


@documented("https://docs.stripe.com/api/payment_intents/cancel", lines=(18,))
def test_canceled_after_a_decline_it_takes_no_more_attempts(api: Driver) -> None:
    """Once canceled no further charges are made."""
    declined = error_of(lambda: api.pay(payment_method="pm_card_visa_chargeDeclined")).error.payment_intent
    assert api.cancel(declined.id).status == "canceled"
    error = error_of(lambda: api.confirm(declined.id, payment_method="pm_card_visa"))
    assert error.error.code == "payment_intent_unexpected_state"
    assert "charge.refunded" not in api.event_types(declined.id), "nothing was held"


@documented("https://docs.stripe.com/api/payment_intents/object#payment_intent_object-livemode", lines=(14, 42))
def test_objects_say_that_they_are_of_test_mode(api: Driver) -> None:
    intent = api.pay(expand=["latest_charge"])
    event = api.events_of(intent.id)[0]
    assert [one.livemode for one in (intent, intent.latest_charge, event, event.data.object)] == [False] * 4
