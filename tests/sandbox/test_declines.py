"""Declines: https://docs.stripe.com/testing#declined-payments, https://docs.stripe.com/declines/codes."""

import pytest
import stripe

from tests.sandbox.documented import documented
from tests.sandbox.driver import Driver, Steer, error_of, is_a

# (token, code, decline code, message), as the table of test cards has them.
DECLINES = [
    ("pm_card_visa_chargeDeclined", "card_declined", "generic_decline", "Your card was declined."),
    (
        "pm_card_visa_chargeDeclinedInsufficientFunds",
        "card_declined",
        "insufficient_funds",
        "Your card has insufficient funds.",
    ),
    ("pm_card_visa_chargeDeclinedLostCard", "card_declined", "lost_card", "Your card was declined."),
    ("pm_card_visa_chargeDeclinedStolenCard", "card_declined", "stolen_card", "Your card was declined."),
    ("pm_card_chargeDeclinedExpiredCard", "expired_card", None, "Your card has expired."),
    ("pm_card_chargeDeclinedIncorrectCvc", "incorrect_cvc", None, "Your card's security code is incorrect."),
    (
        "pm_card_chargeDeclinedProcessingError",
        "processing_error",
        None,
        "An error occurred while processing your card. Try again in a little bit.",
    ),
]


@pytest.mark.parametrize(("token", "code", "decline_code", "message"), DECLINES, ids=[row[0] for row in DECLINES])
@documented("https://docs.stripe.com/testing#declined-payments")
def test_test_card_is_declined_as_documented(
    api: Driver, token: str, code: str, decline_code: str | None, message: str
) -> None:
    error = error_of(lambda: api.pay(payment_method=token))
    assert is_a(error, stripe.CardError)
    body = error.error
    assert (error.http_status, body.type, body.code) == (402, "card_error", code)
    assert body.to_dict().get("decline_code") == decline_code
    assert error.user_message == message
    intent = body.payment_intent
    assert (intent.status, intent.payment_method) == ("requires_payment_method", None)
    assert (intent.last_payment_error.code, intent.last_payment_error.message) == (code, message)
    assert intent.last_payment_error.payment_method.object == "payment_method"
    charge = api.charge(body.charge)
    assert (charge.status, charge.paid, charge.failure_code, charge.failure_message) == ("failed", False, code, message)
    assert charge.payment_intent == intent.id
    assert api.intent(intent.id).latest_charge == charge.id


@documented("https://docs.stripe.com/testing#fraud-prevention")
def test_radar_blocks(api: Driver) -> None:
    error = error_of(lambda: api.pay(payment_method="pm_card_radarBlock"))
    assert (error.error.code, error.error.decline_code) == ("card_declined", "fraudulent")
    assert api.charge(error.error.charge).outcome.type == "blocked"


@documented("https://docs.stripe.com/payments/paymentintents/lifecycle", lines=(18,))
def test_declined_intent_can_be_confirmed_again(api: Driver) -> None:
    """Another attempt on the same intent."""
    error = error_of(lambda: api.pay(payment_method="pm_card_visa_chargeDeclined"))
    first = error.error.payment_intent
    again = api.confirm(first.id, payment_method="pm_card_visa")
    assert (again.id, again.status, again.last_payment_error) == (first.id, "succeeded", None)
    charges = api.run(api.v1.charges.list_async({"payment_intent": first.id})).data
    assert [charge.status for charge in charges] == ["succeeded", "failed"]


@documented("https://docs.stripe.com/payments/place-a-hold-on-a-payment-method")
def test_declined_hold_holds_nothing(api: Driver) -> None:
    error = error_of(lambda: api.hold(payment_method="pm_card_visa_chargeDeclinedInsufficientFunds"))
    assert error.error.payment_intent.amount_capturable == 0


@documented(
    "https://docs.stripe.com/testing#regulatory-cards",
    "https://docs.stripe.com/api/payment_intents/object",
    lines=(16,),
)
def test_authentication_is_asked_for(api: Driver) -> None:
    intent = api.pay(payment_method="pm_card_authenticationRequired")
    assert (intent.status, intent.next_action.type) == ("requires_action", "use_stripe_sdk")
    assert intent.latest_charge is None
    returned = api.pay(payment_method="pm_card_authenticationRequired", return_url="https://example.com/back")
    assert returned.next_action.type == "redirect_to_url"
    assert returned.next_action.redirect_to_url.return_url == "https://example.com/back"
    assert api.cancel(intent.id).status == "canceled"


@documented("https://docs.stripe.com/declines/codes")
def test_off_session_authentication_is_a_decline(api: Driver) -> None:
    customer = api.customer(payment_method="pm_card_authenticationRequired")
    methods = api.run(api.v1.customers.payment_methods.list_async(customer.id))
    error = error_of(lambda: api.pay(customer=customer.id, payment_method=methods.data[0].id, off_session=True))
    assert (error.http_status, error.error.code) == (402, "authentication_required")
    assert error.error.payment_intent.status == "requires_payment_method"


@documented("https://docs.stripe.com/api/payment_intents/create#create_payment_intent-error_on_requires_action")
def test_error_on_requires_action_is_a_decline(api: Driver) -> None:
    error = error_of(lambda: api.pay(payment_method="pm_card_authenticationRequired", error_on_requires_action=True))
    assert (error.http_status, error.error.code) == (402, "authentication_required")


@documented("https://docs.stripe.com/js/payment_intents/handle_next_action", lines=(16,))
def test_browser_authenticates(api: Driver, steer: Steer) -> None:
    intent = api.pay(payment_method="pm_card_authenticationRequired")
    answer = steer.post("browser/authenticate", payment_intent=intent.id, outcome="succeed")
    assert (answer["status"], answer["id"]) == ("succeeded", intent.id)
    assert api.intent(intent.id).next_action is None


@documented("https://docs.stripe.com/error-codes#payment-intent-authentication-failure")
def test_browser_fails_authentication(api: Driver, steer: Steer) -> None:
    intent = api.pay(payment_method="pm_card_authenticationRequired")
    answer = steer.post("browser/authenticate", payment_intent=intent.id, outcome="fail")
    assert answer["status"] == "requires_payment_method"
    assert answer["last_payment_error"]["code"] == "payment_intent_authentication_failure"
    assert api.event_types(intent.id)[-1] == "payment_intent.payment_failed"


@documented("https://docs.stripe.com/testing#regulatory-cards")
def test_card_may_decline_after_authentication(api: Driver, steer: Steer) -> None:
    """Insufficient funds after authentication."""
    token = "pm_card_authenticationRequiredChargeDeclinedInsufficientFunds"
    intent = api.pay(payment_method=token)
    reply = steer.reply("browser/authenticate", payment_intent=intent.id, outcome="succeed")
    assert (reply.status, reply.body["error"]["decline_code"]) == (402, "insufficient_funds")
    assert api.intent(intent.id).status == "requires_payment_method"


@documented("https://docs.stripe.com/js/payment_intents/confirm_payment", lines=(18,))
def test_browser_confirms_with_the_client_secret(api: Driver, steer: Steer) -> None:
    intent = api.pay(confirm=False)
    wrong = steer.reply("browser/confirm", client_secret=intent.client_secret + "x", payment_method="pm_card_visa")
    assert wrong.status == 400
    answer = steer.post("browser/confirm", client_secret=intent.client_secret, payment_method="pm_card_visa")
    assert answer["status"] == "succeeded"
    assert api.event_types(intent.id)[-2:] == ["charge.succeeded", "payment_intent.succeeded"]


@documented("https://docs.stripe.com/js/payment_intents/confirm_payment")
def test_browser_is_told_of_a_decline(api: Driver, steer: Steer) -> None:
    intent = api.pay(confirm=False)
    token = "pm_card_visa_chargeDeclinedLostCard"
    reply = steer.reply("browser/confirm", client_secret=intent.client_secret, payment_method=token)
    assert (reply.status, reply.body["error"]["decline_code"]) == (402, "lost_card")
