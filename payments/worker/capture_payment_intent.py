"""Capturing: `capture-requested` takes the held money, or a part of it; Stripe releases the rest."""

from typing import Any
from uuid import UUID

import msgspec

from payments.domain.attempts import Decision, decide_capture
from payments.domain.following import CAPTURE_RULES
from payments.stripe_gateway.gateway import EXPAND_CHARGE, StripeGateway
from payments.stripe_gateway.outcomes import Outcome
from payments.worker.operation import Command, Operation, Parameters, Situation, part_intent


class _Message(msgspec.Struct, frozen=True, rename="camel"):
    """All that is needed of a `capture-requested`: how much stands in the payment's row."""

    payment_id: UUID
    capture_id: UUID


def read_command(message: object) -> Command:
    """Raises msgspec.ValidationError, which is a ValueError."""
    read = msgspec.convert(message, _Message)
    return Command(read.payment_id, read.capture_id)


def decide(situation: Situation) -> Decision:
    """Only the latest wish counts; it has its own key."""
    payment = situation.payment
    return decide_capture(
        situation.status,
        situation.call,
        situation.now,
        is_current=payment is not None and payment.capture_id == situation.command.subject_id,
        has_intent=situation.has_intent,
    )


def build_parameters(situation: Situation) -> dict[str, Any]:
    """What to ask of Stripe (https://docs.stripe.com/api/payment_intents/capture); the order may be known by now."""
    payment = situation.payment
    assert payment is not None
    return {
        "payment_intent": payment.processor_payment_intent,
        "amount_to_capture": payment.amount_to_capture,
        "metadata": {"orderId": str(payment.order_id)},
        "expand": EXPAND_CHARGE,
    }


async def call(gateway: StripeGateway, parameters: Parameters, idempotency_key: str) -> Outcome:
    """POST /v1/payment_intents/{id}/capture."""
    intent_id, body = part_intent(parameters)
    return await gateway.capture_payment_intent(intent_id, body, idempotency_key)


CAPTURE_PAYMENT_INTENT = Operation(
    name="capture_payment_intent",
    queue="capture_requested",
    rules=CAPTURE_RULES,
    read_command=read_command,
    decide=decide,
    build_parameters=build_parameters,
    call=call,
)
