"""Refunding: `refund-requested` gives back what was captured, or a part of it; each refund has its own key."""

from typing import Any
from uuid import UUID

import msgspec

from payments.domain.attempts import Decision, decide_refund
from payments.domain.following import REFUND_RULES
from payments.stripe_gateway.gateway import StripeGateway
from payments.stripe_gateway.outcomes import Outcome
from payments.worker.operation import Command, Operation, Parameters, Situation

REQUESTED = "REQUESTED"
# Stripe takes these words only (https://docs.stripe.com/api/refunds/create); any other reason is only metadata.
REASONS_OF_STRIPE = frozenset({"duplicate", "fraudulent", "requested_by_customer"})
# Stripe refuses longer values (https://docs.stripe.com/metadata), and no refund must fail for its reason.
METADATA_CHARACTERS_MAX = 500


class _Message(msgspec.Struct, frozen=True, rename="camel"):
    """All that is needed of a `refund-requested`: the refund's row says the rest."""

    payment_id: UUID
    refund_id: UUID


def read_command(message: object) -> Command:
    """Raises msgspec.ValidationError, which is a ValueError."""
    read = msgspec.convert(message, _Message)
    return Command(read.payment_id, read.refund_id, is_refund=True)


def decide(situation: Situation) -> Decision:
    """A refund goes on whatever the payment's state: compensation gives back what came too late."""
    refund = situation.refund
    return decide_refund(
        situation.call,
        situation.now,
        exists=refund is not None,
        is_requested=refund is not None and refund.status == REQUESTED,
        has_intent=situation.has_intent,
        asked_at=refund.created_at if refund is not None else None,
    )


def build_parameters(situation: Situation) -> dict[str, Any]:
    """What to ask of Stripe (https://docs.stripe.com/api/refunds/create)."""
    payment, refund = situation.payment, situation.refund
    assert payment is not None
    assert refund is not None
    metadata = {"refundId": str(refund.refund_id), "paymentId": str(payment.payment_id)}
    if refund.reason:
        metadata["reason"] = refund.reason[:METADATA_CHARACTERS_MAX]
    parameters = {"payment_intent": payment.processor_payment_intent, "amount": refund.amount, "metadata": metadata}
    if refund.reason in REASONS_OF_STRIPE:
        parameters["reason"] = refund.reason
    return parameters


async def call(gateway: StripeGateway, parameters: Parameters, idempotency_key: str) -> Outcome:
    """POST /v1/refunds."""
    return await gateway.create_refund(parameters, idempotency_key)


CREATE_REFUND = Operation(
    name="create_refund",
    queue="refund_requested",
    rules=REFUND_RULES,
    read_command=read_command,
    decide=decide,
    build_parameters=build_parameters,
    call=call,
)
