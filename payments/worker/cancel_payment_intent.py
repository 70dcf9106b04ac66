"""Cancelling: for a wish to void, a customer who never came back, or a payment that nobody may confirm any more."""

from typing import Any, Literal
from uuid import UUID

import msgspec

from payments.domain.attempts import Decision, decide_cancel
from payments.domain.following import CANCEL_RULES
from payments.stripe_gateway.gateway import EXPAND_CHARGE, StripeGateway
from payments.stripe_gateway.outcomes import Outcome
from payments.worker.operation import Command, Operation, Parameters, Situation, part_intent

Reason = Literal["abandoned", "requested_by_customer"]
ABANDONED: Reason = "abandoned"


class _Message(msgspec.Struct, frozen=True, rename="camel"):
    """A `void-requested`, or a command of the recorder's or the reconciler's, which also says why."""

    payment_id: UUID
    cancellation_reason: Reason = "requested_by_customer"


def read_command(message: object) -> Command:
    """Raises msgspec.ValidationError, which is a ValueError."""
    read = msgspec.convert(message, _Message)
    return Command(read.payment_id, read.payment_id, cancellation_reason=read.cancellation_reason)


def decide(situation: Situation) -> Decision:
    """Many may ask for the same cancel; the payment's state says whether it is wanted."""
    return decide_cancel(
        situation.status,
        situation.call,
        situation.now,
        has_intent=situation.has_intent,
        was_asked=situation.was_asked,
        is_abandoned=situation.command.cancellation_reason == ABANDONED,
    )


def build_parameters(situation: Situation) -> dict[str, Any]:
    """What to ask of Stripe (https://docs.stripe.com/api/payment_intents/cancel)."""
    payment = situation.payment
    assert payment is not None
    return {
        "payment_intent": payment.processor_payment_intent,
        "cancellation_reason": situation.command.cancellation_reason,
        "expand": EXPAND_CHARGE,
    }


async def call(gateway: StripeGateway, parameters: Parameters, idempotency_key: str) -> Outcome:
    """POST /v1/payment_intents/{id}/cancel."""
    intent_id, body = part_intent(parameters)
    return await gateway.cancel_payment_intent(intent_id, body, idempotency_key)


CANCEL_PAYMENT_INTENT = Operation(
    name="cancel_payment_intent",
    queue="void_requested",
    rules=CANCEL_RULES,
    read_command=read_command,
    decide=decide,
    build_parameters=build_parameters,
    call=call,
)
