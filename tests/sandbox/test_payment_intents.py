"""PaymentIntents: https://docs.stripe.com/api/payment_intents, https://docs.stripe.com/payments/paymentintents/lifecycle."""

import uuid

import pytest
import stripe

from tests.sandbox.driver import DEADLINE_S, NO_REDIRECTS, Driver, Steer, error_of, eventually, is_a

BANK = {"allowed_payment_method_types": ["us_bank_account"]}


def test_intent_without_payment_method_requires_one(api: Driver) -> None:
    """https://docs.stripe.com/payments/paymentintents/lifecycle (requires_payment_method)."""
    intent = api.pay(confirm=False)
    assert intent.status == "requires_payment_method"
    assert intent.client_secret.startswith(f"{intent.id}_secret_")
    assert intent.latest_charge is None


def test_intent_with_payment_method_requires_confirmation(api: Driver) -> None:
    """https://docs.stripe.com/payments/paymentintents/lifecycle (requires_confirmation)."""
    intent = api.pay(confirm=False, payment_method="pm_card_visa")
    assert intent.status == "requires_confirmation"
    assert intent.payment_method.startswith("pm_")
    assert intent.payment_method != "pm_card_visa"


def test_test_token_makes_a_fresh_payment_method_each_time(api: Driver) -> None:
    """https://docs.stripe.com/testing (PaymentMethods)."""
    first, second = api.pay(), api.pay()
    assert first.payment_method != second.payment_method
    method = api.run(api.v1.payment_methods.retrieve_async(first.payment_method))
    assert (method.type, method.card.brand, method.card.last4) == ("card", "visa", "4242")


def test_confirmed_intent_succeeds(api: Driver) -> None:
    """https://docs.stripe.com/api/payment_intents/create (confirm)."""
    intent = api.pay(metadata={"paymentId": "p-1"}, description="an order")
    assert (intent.status, intent.amount_received, intent.amount_capturable) == ("succeeded", 1000, 0)
    assert intent.metadata["paymentId"] == "p-1"
    charge = api.charge(intent.latest_charge)
    assert (charge.status, charge.paid, charge.captured) == ("succeeded", True, True)
    assert (charge.amount_captured, charge.amount_refunded) == (1000, 0)
    assert charge.payment_intent == intent.id
    assert charge.metadata["paymentId"] == "p-1", "metadata is copied to the charge"


def test_capture_method_defaults_to_automatic_async(api: Driver) -> None:
    """https://docs.stripe.com/api/payment_intents/create#create_payment_intent-capture_method."""
    assert api.pay(confirm=False).capture_method == "automatic_async"


def test_automatic_capture_has_its_balance_transaction_at_once(api: Driver) -> None:
    """https://docs.stripe.com/payments/payment-intents/asynchronous-capture."""
    intent = api.pay(capture_method="automatic", expand=["latest_charge.balance_transaction"])
    line = intent.latest_charge.balance_transaction
    assert (line.amount, line.type, line.source) == (1000, "charge", intent.latest_charge.id)
    assert line.net == line.amount - line.fee


def test_asynchronous_capture_gets_its_balance_transaction_later(api: Driver, steer: Steer) -> None:
    """https://docs.stripe.com/payments/payment-intents/asynchronous-capture: null until charge.updated."""
    steer.post("behaviours", balance_delay_s=60)
    intent = api.pay()
    assert api.charge(intent.latest_charge).balance_transaction is None
    assert "charge.updated" not in api.event_types(intent.id)
    steer.advance(61)
    assert api.charge(intent.latest_charge).balance_transaction.startswith("txn_")
    assert "charge.updated" in api.event_types(intent.id)


def test_manual_capture_places_a_hold(api: Driver) -> None:
    """https://docs.stripe.com/payments/place-a-hold-on-a-payment-method."""
    intent = api.hold(expand=["latest_charge"])
    charge = intent.latest_charge
    assert (intent.status, intent.amount_capturable, intent.amount_received) == ("requires_capture", 1000, 0)
    assert (charge.status, charge.captured, charge.amount_captured) == ("succeeded", False, 0)
    week_s = 7 * 24 * 3600
    assert abs(charge.payment_method_details.card.capture_before - charge.created - week_s) < week_s / 2


def test_merchant_initiated_visa_hold_is_shorter(api: Driver, steer: Steer) -> None:
    """https://docs.stripe.com/payments/place-a-hold-on-a-payment-method: Visa, 4 days and 18 hours."""
    charge = api.hold(off_session=True, expand=["latest_charge"]).latest_charge
    assert charge.payment_method_details.card.capture_before - charge.created == (4 * 24 + 18) * 3600


def test_full_capture(api: Driver) -> None:
    """https://docs.stripe.com/api/payment_intents/capture: defaults to the full amount_capturable."""
    intent = api.capture(api.hold().id)
    assert (intent.status, intent.amount_received, intent.amount_capturable) == ("succeeded", 1000, 0)
    charge = api.charge(intent.latest_charge)
    assert (charge.captured, charge.amount_captured) == (True, 1000)
    assert charge.balance_transaction is not None


def test_partial_capture_releases_the_rest(api: Driver) -> None:
    """https://docs.stripe.com/payments/place-a-hold-on-a-payment-method#capture-funds."""
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
def test_capture_above_the_hold_is_refused(api: Driver, amount: int) -> None:
    """https://docs.stripe.com/api/payment_intents/capture (amount_to_capture)."""
    held = api.hold()
    error = error_of(lambda: api.capture(held.id, amount_to_capture=amount))
    assert error.http_status == 400
    assert error.error.code == "amount_too_large"
    assert api.intent(held.id).status == "requires_capture"


def test_capture_needs_requires_capture(api: Driver) -> None:
    """https://docs.stripe.com/error-codes#payment-intent-unexpected-state."""
    intent = api.pay()
    error = error_of(lambda: api.capture(intent.id))
    assert error.http_status == 400
    assert error.error.code == "payment_intent_unexpected_state"
    assert error.error.payment_intent.status == "succeeded"
    assert "has a status of succeeded" in str(error)


def test_cancel_before_payment(api: Driver) -> None:
    """https://docs.stripe.com/api/payment_intents/cancel."""
    intent = api.cancel(api.pay(confirm=False).id, cancellation_reason="requested_by_customer")
    assert (intent.status, intent.cancellation_reason) == ("canceled", "requested_by_customer")
    assert intent.canceled_at is not None


def test_cancel_releases_the_hold(api: Driver) -> None:
    """https://docs.stripe.com/api/payment_intents/cancel: "the remaining amount_capturable is refunded"."""
    held = api.hold()
    intent = api.cancel(held.id)
    assert (intent.status, intent.amount_capturable, intent.amount_received) == ("canceled", 0, 0)
    charge = api.charge(held.latest_charge)
    assert (charge.captured, charge.amount_captured, charge.refunded) == (False, 0, True)


@pytest.mark.parametrize("reached", ["succeeded", "canceled"])
def test_cancel_of_a_terminal_intent_is_refused(api: Driver, reached: str) -> None:
    """https://docs.stripe.com/api/payment_intents/cancel."""
    intent = api.pay() if reached == "succeeded" else api.cancel(api.pay(confirm=False).id)
    error = error_of(lambda: api.cancel(intent.id))
    assert error.error.code == "payment_intent_unexpected_state"
    assert f"because it has a status of {reached}" in str(error)
    assert error.error.payment_intent.id == intent.id


def test_confirm_later(api: Driver) -> None:
    """https://docs.stripe.com/api/payment_intents/confirm."""
    intent = api.confirm(api.pay(confirm=False).id, payment_method="pm_card_visa")
    assert intent.status == "succeeded"


def test_confirm_without_payment_method_is_refused(api: Driver) -> None:
    """https://docs.stripe.com/api/payment_intents/confirm."""
    created = api.pay(confirm=False)
    error = error_of(lambda: api.confirm(created.id))
    assert error.error.code == "payment_intent_unexpected_state"
    assert "missing a payment method" in str(error)


@pytest.mark.parametrize("reached", ["succeeded", "canceled", "requires_capture"])
def test_confirm_of_a_settled_intent_is_refused(api: Driver, reached: str) -> None:
    """https://docs.stripe.com/error-codes#payment-intent-unexpected-state."""
    makers = {
        "succeeded": api.pay,
        "canceled": lambda: api.cancel(api.pay(confirm=False).id),
        "requires_capture": api.hold,
    }
    intent = makers[reached]()
    error = error_of(lambda: api.confirm(intent.id, payment_method="pm_card_visa"))
    assert error.error.code == "payment_intent_unexpected_state"


def test_dashboard_methods_need_a_return_url(api: Driver) -> None:
    """https://docs.stripe.com/api/payment_intents/create#create_payment_intent-return_url."""
    error = error_of(lambda: api.pay(automatic_payment_methods={"enabled": True}))
    assert error.http_status == 400
    assert "return_url" in str(error)
    paid = api.pay(automatic_payment_methods={"enabled": True}, return_url="https://example.com/back")
    assert paid.status == "succeeded"
    assert api.pay(automatic_payment_methods=NO_REDIRECTS).status == "succeeded"


def test_saved_method_of_a_customer(api: Driver) -> None:
    """https://docs.stripe.com/api/payment_methods/attach, https://docs.stripe.com/payments/payment-methods#reusability."""
    customer = api.customer(email="jenny@example.com", payment_method="pm_card_visa")
    methods = api.run(api.v1.customers.payment_methods.list_async(customer.id))
    method = methods.data[0].id
    for _time in range(2):
        intent = api.pay(customer=customer.id, payment_method=method, off_session=True)
        assert (intent.status, intent.payment_method) == ("succeeded", method)
    assert api.run(api.v1.customers.retrieve_async(customer.id)).email == "jenny@example.com"


def test_method_without_customer_serves_once(api: Driver) -> None:
    """https://docs.stripe.com/payments/payment-methods#reusability."""
    method = api.pay().payment_method
    error = error_of(lambda: api.pay(payment_method=method))
    assert error.http_status == 400
    assert "may not be used again" in str(error)


def test_method_of_another_customer_is_refused(api: Driver) -> None:
    """https://docs.stripe.com/api/payment_intents/create#create_payment_intent-customer."""
    customer = api.customer(payment_method="pm_card_visa")
    methods = api.run(api.v1.customers.payment_methods.list_async(customer.id))
    error = error_of(lambda: api.pay(payment_method=methods.data[0].id))
    assert error.http_status == 400


@pytest.mark.parametrize(
    "fates", [("pm_usBankAccount_success", "succeeded"), ("pm_usBankAccount_processing", "processing")]
)
def test_delayed_method_is_processing_first(api: Driver, steer: Steer, fates: tuple[str, str]) -> None:
    """https://docs.stripe.com/payments/paymentintents/lifecycle (processing)."""
    token, fate = fates
    intent = api.pay(payment_method=token, **BANK)
    assert intent.status == "processing"
    steer.advance(60)
    assert api.intent(intent.id).status == fate


def test_delayed_method_can_fail(api: Driver, steer: Steer) -> None:
    """https://docs.stripe.com/payments/ach-direct-debit/accept-a-payment#test-your-integration."""
    intent = api.pay(payment_method="pm_usBankAccount_insufficientFunds", **BANK)
    steer.advance(60)
    failed = api.intent(intent.id)
    assert failed.status == "requires_payment_method"
    assert failed.last_payment_error.code == "payment_intent_payment_attempt_failed"


def test_processing_intent_cannot_be_canceled(api: Driver, steer: Steer) -> None:
    """https://docs.stripe.com/api/payment_intents/cancel: processing only in rare cases."""
    intent = api.pay(payment_method="pm_usBankAccount_success", **BANK)
    assert error_of(lambda: api.cancel(intent.id)).error.code == "payment_intent_unexpected_state"
    steer.post("behaviours", processing_cancelable=True)
    assert api.cancel(intent.id).status == "canceled"
    steer.advance(60)
    assert api.intent(intent.id).status == "canceled"


def test_hold_expires_at_capture_before(api: Driver, steer: Steer) -> None:
    """https://docs.stripe.com/payments/place-a-hold-on-a-payment-method: the status changes to canceled."""
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


def test_captured_hold_does_not_expire(api: Driver, steer: Steer) -> None:
    """https://docs.stripe.com/payments/place-a-hold-on-a-payment-method."""
    held = api.hold()
    api.capture(held.id)
    steer.advance(30 * 24 * 3600)
    assert api.intent(held.id).status == "succeeded"


def test_expand_replaces_ids(api: Driver) -> None:
    """https://docs.stripe.com/api/expanding_objects."""
    intent = api.pay(capture_method="automatic", expand=["latest_charge.balance_transaction", "payment_method"])
    assert intent.latest_charge.object == "charge"
    assert intent.latest_charge.balance_transaction.object == "balance_transaction"
    assert intent.payment_method.object == "payment_method"
    error = error_of(lambda: api.intent(intent.id, expand=["status"]))
    assert error.http_status == 400


def test_list_is_newest_first_and_pages(api: Driver) -> None:
    """https://docs.stripe.com/api/pagination."""
    customer = api.customer()
    made = [api.pay(confirm=False, customer=customer.id).id for _one in range(5)]
    expected = made[::-1]
    first = api.run(api.intents.list_async({"customer": customer.id, "limit": 2}))
    assert ([one.id for one in first.data], first.has_more) == (expected[:2], True)
    rest = api.run(api.intents.list_async({"customer": customer.id, "limit": 3, "starting_after": expected[1]}))
    assert ([one.id for one in rest.data], rest.has_more) == (expected[2:], False)
    back = api.run(api.intents.list_async({"customer": customer.id, "limit": 2, "ending_before": expected[3]}))
    assert ([one.id for one in back.data], back.has_more) == (expected[1:3], True)

    async def every() -> list[str]:
        page = await api.intents.list_async({"customer": customer.id, "limit": 2})
        return [one.id async for one in page.auto_paging_iter()]

    assert api.run(every()) == expected


def test_list_filters_by_created(api: Driver) -> None:
    """https://docs.stripe.com/api/payment_intents/list#list_payment_intents-created."""
    customer = api.customer()
    intent = api.pay(confirm=False, customer=customer.id)

    def found(**created: int) -> list[str]:
        page = api.run(api.intents.list_async({"customer": customer.id, "created": created}))
        return [one.id for one in page.data]

    assert found(gte=intent.created, lte=intent.created) == [intent.id]
    assert found(gt=intent.created) == []
    assert found(lt=intent.created) == []


def test_list_limit_is_bounded(api: Driver) -> None:
    """https://docs.stripe.com/api/pagination: between 1 and 100."""
    assert api.raw("GET", "/v1/payment_intents", "limit=0").status == 400
    assert api.raw("GET", "/v1/payment_intents", "limit=101").status == 400


def test_unknown_ids_are_404(api: Driver) -> None:
    """https://docs.stripe.com/error-codes#resource-missing."""
    error = error_of(lambda: api.intent("pi_unknown"))
    assert (error.http_status, error.error.code, error.error.param) == (404, "resource_missing", "intent")
    assert str(error.user_message) == "No such payment_intent: 'pi_unknown'"
    assert error_of(lambda: api.charge("ch_unknown")).http_status == 404


def test_balance_transactions_can_be_listed_by_source(api: Driver) -> None:
    """https://docs.stripe.com/api/balance_transactions/list."""
    intent = api.pay(capture_method="automatic", metadata={"paymentId": str(uuid.uuid4())})
    lines = eventually(
        lambda: api.run(api.v1.balance_transactions.list_async({"source": intent.latest_charge})).data,
        deadline_s=DEADLINE_S,
    )
    assert [(line.amount, line.type) for line in lines] == [(1000, "charge")]
