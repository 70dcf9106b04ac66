"""Charging: `payment-requested` becomes a PaymentIntent, confirmed at once where the payment method is known."""

from typing import Any
from uuid import UUID

import msgspec

from payments.domain.attempts import Decision, decide_create
from payments.domain.following import CREATE_RULES
from payments.stripe_gateway.gateway import EXPAND_CHARGE, StripeGateway
from payments.stripe_gateway.outcomes import Outcome
from payments.worker.operation import Command, Operation, Parameters, Situation

# Enough to find the payment again from Stripe alone.
OURS = frozenset({"paymentId", "cartId", "orderId", "customerId"})


class _Message(msgspec.Struct, frozen=True, rename="camel"):
    """All that is needed of a `payment-requested`: the payment's row says the rest, and says it truly."""

    payment_id: UUID


def read_command(message: object) -> Command:
    """Raises msgspec.ValidationError, which is a ValueError."""
    payment_id = msgspec.convert(message, _Message).payment_id
    return Command(payment_id, payment_id)


def decide(situation: Situation) -> Decision:
    """A payment is asked for once."""
    payment = situation.payment
    return decide_create(
        situation.status,
        situation.call,
        situation.now,
        has_intent=situation.has_intent,
        asked_at=payment.created_at if payment else None,
    )


def build_parameters(situation: Situation) -> dict[str, Any]:
    """What to ask of Stripe (https://docs.stripe.com/api/payment_intents/create).

    Payment methods are those switched on in the Dashboard, so a new one needs no release; but none that redirects:
    there is no page of ours to return to, and without `allow_redirects: never` Stripe would insist on a return_url.
    """
    payment = situation.payment
    assert payment is not None
    ours = {
        "paymentId": str(payment.payment_id),
        "cartId": str(payment.cart_id),
        "orderId": str(payment.order_id),
    }
    if payment.customer_id is not None:
        ours["customerId"] = str(payment.customer_id)
    parameters: dict[str, Any] = {
        "amount": payment.amount,
        "currency": payment.currency.lower(),
        "capture_method": payment.capture_method,
        "automatic_payment_methods": {"enabled": True, "allow_redirects": "never"},
        "metadata": {**_forwarded(payment.metadata), **ours},
        "expand": EXPAND_CHARGE,
    }
    if payment.processor_customer is not None:
        parameters["customer"] = payment.processor_customer
    if payment.payment_method is not None:
        parameters["payment_method"] = payment.payment_method
        parameters["confirm"] = True
        # 3-D Secure is then finished by Stripe's own form in the browser, from the client secret alone.
        parameters["use_stripe_sdk"] = True
    return parameters


def _forwarded(metadata: dict[str, str]) -> dict[str, str]:
    """What of the caller's metadata Stripe gets to see; all of it stays on the payment.

    Stripe refuses keys with square brackets (https://docs.stripe.com/metadata), and the payment must not fail for them.
    Our own names tell whose PaymentIntent it is, so nobody else may use them.
    """
    return {key: value for key, value in metadata.items() if key not in OURS and "[" not in key and "]" not in key}


async def call(gateway: StripeGateway, parameters: Parameters, idempotency_key: str) -> Outcome:
    """POST /v1/payment_intents."""
    return await gateway.create_payment_intent(parameters, idempotency_key)


CREATE_PAYMENT_INTENT = Operation(
    name="create_payment_intent",
    queue="payment_requested",
    rules=CREATE_RULES,
    read_command=read_command,
    decide=decide,
    build_parameters=build_parameters,
    call=call,
)
