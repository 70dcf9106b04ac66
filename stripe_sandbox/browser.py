"""What Stripe.js does in the customer's browser, with nothing but the client secret.

https://docs.stripe.com/js/payment_intents/confirm_payment, https://docs.stripe.com/js/payment_intents/handle_next_action
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from stripe_sandbox import attempts, intents
from stripe_sandbox.errors import StripeError, refused
from stripe_sandbox.states import unexpected_state

if TYPE_CHECKING:
    from collections.abc import Callable

    from stripe_sandbox.call import Call
    from stripe_sandbox.errors import Json
    from stripe_sandbox.sandbox import Sandbox
    from stripe_sandbox.store import Record

RETURN_URL = "https://example.com/return"


def confirm(sandbox: Sandbox, client_secret: str, payment_method: str | None) -> tuple[int, Json]:
    """``stripe.confirmPayment``: the answer Stripe.js would get."""

    def act(call: Call) -> Json:
        intent = _by_secret(call, client_secret)
        given: Json = {"return_url": RETURN_URL}
        if payment_method is not None:
            given["payment_method"] = payment_method
        return intents.confirm(call, (intent.id,), given)

    return _perform(sandbox, act)


def authenticate(sandbox: Sandbox, intent_id: str, *, succeeds: bool) -> tuple[int, Json]:
    """The customer completes, or fails, 3D Secure (https://docs.stripe.com/payments/3d-secure)."""

    def act(call: Call) -> Json:
        intent = intents.load(call, intent_id)
        if intent.body["status"] != "requires_action":
            raise unexpected_state(intent, f"There is nothing to authenticate: the status is {intent.body['status']}.")
        attempts.authenticated(call, intent, succeeds=succeeds)
        return intent.body

    return _perform(sandbox, act)


def _by_secret(call: Call, client_secret: str) -> Record:
    intent = call.store.find("payment_intent", client_secret.split("_secret_", 1)[0])
    if intent is None or intent.body["client_secret"] != client_secret:
        text = "The client_secret provided does not match any associated PaymentIntent on this account."
        raise refused(text, code="payment_intent_invalid_parameter", param="client_secret")
    return intent


def _perform(sandbox: Sandbox, act: Callable[[Call], Json]) -> tuple[int, Json]:
    call = sandbox.call(by_customer=True)
    with sandbox.store.transaction():
        try:
            with sandbox.store.effects():
                answer = 200, act(call)
        except StripeError as error:
            answer = error.status, error.body(call.request_id or "")
    sandbox.wake()
    return answer
