"""What the worker must know to carry out one kind of command; each operation is a module that makes one of these."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec

from payments.domain.attempts import Call, Decision
from payments.domain.following import CallRules
from payments.domain.states import PaymentStatus
from payments.stripe_gateway.gateway import StripeGateway
from payments.stripe_gateway.outcomes import Outcome

Parameters = Mapping[str, Any]


class Command(msgspec.Struct, frozen=True):
    """Who a message is about: the payment, and the subject of the call (the payment, a wish to capture, a refund).

    `cancellation_reason`: of a cancel; Stripe's word, None when a person asked.
    """

    payment_id: UUID
    subject_id: UUID
    is_refund: bool = False
    cancellation_reason: str | None = None


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
    processor_customer: str | None
    metadata: dict[str, str]
    status: PaymentStatus
    processor_payment_intent: str | None
    capture_id: UUID | None
    amount_to_capture: int | None
    created_at: datetime | None = None


class Refund(msgspec.Struct, frozen=True):
    """The row of a refund, under its payment's lock."""

    refund_id: UUID
    amount: int
    reason: str | None
    status: str
    created_at: datetime | None = None


class Situation(msgspec.Struct, frozen=True):
    """All that a decision may depend on; `now` is the database's time.

    `call`: the newest generation of this very call. `was_asked`: something may exist at Stripe for this payment.
    """

    command: Command
    payment: Payment | None
    refund: Refund | None
    call: Call | None
    was_asked: bool
    now: datetime

    @property
    def status(self) -> PaymentStatus | None:
        """The payment's, if there is one."""
        return self.payment.status if self.payment else None

    @property
    def has_intent(self) -> bool:
        """Whether we know the payment's PaymentIntent."""
        return self.payment is not None and self.payment.processor_payment_intent is not None


@dataclass(frozen=True)
class Operation:
    """One kind of call.

    `name` is the word of payments.stripe_requests, `queue` the pgmq queue. `read_command` raises ValueError on a
    message that nobody can work on. `build_parameters` says what to ask under a new key; later attempts read that back.
    """

    name: str
    queue: str
    rules: CallRules
    read_command: Callable[[object], Command]
    decide: Callable[[Situation], Decision]
    build_parameters: Callable[[Situation], Parameters]
    call: Callable[[StripeGateway, Parameters, str], Awaitable[Outcome]]

    def idempotency_key(self, command: Command, generation: int) -> str:
        """The key under which Stripe knows this call: the same from every worker, after every crash."""
        return f"{command.subject_id}/{self.name}/{generation}"


def part_intent(parameters: Parameters) -> tuple[str, dict[str, Any]]:
    """Parts the PaymentIntent, which stands in the call's path, from what stands in its body."""
    rest = dict(parameters)
    return str(rest.pop("payment_intent")), rest
