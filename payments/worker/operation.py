"""What the worker must know to carry out one kind of command; each operation is a module that makes one of these."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec

from payments.domain.attempts import Call, Decision
from payments.domain.states import PaymentStatus
from payments.stripe_gateway.gateway import StripeGateway
from payments.stripe_gateway.outcomes import Outcome

Parameters = Mapping[str, Any]


class Command(msgspec.Struct, frozen=True):
    """Who a message is about: the payment, and the subject of the call (the payment itself, or one of its refunds)."""

    payment_id: UUID
    subject_id: UUID


class Payment(msgspec.Struct, frozen=True):
    """The row of a payment as the worker reads it, under its lock."""

    payment_id: UUID
    cart_id: UUID
    order_id: UUID
    customer_id: UUID | None
    amount: int
    currency: str
    capture_method: str
    payment_method: str | None
    metadata: dict[str, str]
    status: PaymentStatus


@dataclass(frozen=True)
class Operation:
    """One kind of call.

    `name` is the word of payments.stripe_requests, `queue` the pgmq queue. `read_command` raises ValueError on a
    message that nobody can work on. `build_parameters` says what to ask the first time; later attempts read it back.
    """

    name: str
    queue: str
    read_command: Callable[[object], Command]
    decide: Callable[[PaymentStatus | None, Call | None, datetime], Decision]
    build_parameters: Callable[[Payment], Parameters]
    call: Callable[[StripeGateway, Parameters, str], Awaitable[Outcome]]

    def idempotency_key(self, command: Command, generation: int) -> str:
        """The key under which Stripe knows this call: the same from every worker, after every crash."""
        return f"{command.subject_id}/{self.name}/{generation}"
