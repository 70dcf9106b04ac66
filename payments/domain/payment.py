"""A payment as its locked row stands, and the rows it may become; pure values, built here and nowhere else."""

from datetime import datetime
from uuid import UUID

import msgspec

from payments.domain.declines import Failure
from payments.domain.facts import PaymentIntentFacts
from payments.domain.states import PaymentStatus

_S = PaymentStatus


class NextAction(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """What the browser needs: Stripe's kind of action (or the status that waits for it), and the client secret."""

    type: str
    client_secret: str | None = None
    redirect_url: str | None = None


class Payment(msgspec.Struct, frozen=True, kw_only=True):
    """A payment as its locked row stands, with what its history tells."""

    payment_id: UUID
    order_id: UUID
    amount: int
    currency: str
    capture_method: str
    payment_method: str | None = None
    status: PaymentStatus = _S.REQUESTED
    amount_authorized: int = 0
    amount_captured: int = 0
    processor_payment_intent: str | None = None
    processor_reference: str | None = None
    failure: Failure | None = None
    next_action: NextAction | None = None
    capture_before: datetime | None = None
    capture_id: UUID | None = None
    amount_to_capture: int | None = None
    amount_reserved: int = 0  # its refunds that have not failed
    disputed: bool = False
    last_history_id: int = 0
    was_customer_asked: bool = False  # it has been ACTION_REQUIRED: a browser holds the client secret

    @property
    def is_unattended(self) -> bool:
        """We confirmed it ourselves and no browser can try again: a refused attempt is the end."""
        return self.payment_method is not None and not self.was_customer_asked


def known(payment: Payment, facts: PaymentIntentFacts | None) -> Payment:
    """The payment, with the PaymentIntent it turned out to have."""
    if facts is None:
        return payment
    return msgspec.structs.replace(payment, processor_payment_intent=facts.id)


def asking(payment: Payment, facts: PaymentIntentFacts, kind: str, redirect_url: str | None = None) -> Payment:
    """ACTION_REQUIRED: the browser gets what it needs to go on."""
    action = NextAction(kind, facts.client_secret, redirect_url)
    return msgspec.structs.replace(
        known(payment, facts), status=_S.ACTION_REQUIRED, next_action=action, was_customer_asked=True
    )


def failed(payment: Payment, facts: PaymentIntentFacts | None, failure: Failure) -> Payment:
    """FAILED, and why."""
    return msgspec.structs.replace(
        known(payment, facts), status=_S.FAILED, next_action=None, capture_before=None, failure=failure
    )


def settled(
    payment: Payment,
    facts: PaymentIntentFacts,
    status: PaymentStatus,
    *,
    amount_authorized: int = 0,
    amount_captured: int = 0,
) -> Payment:
    """Held, charged or released: nothing is left of what stood before, so every way here ends in the same row."""
    return msgspec.structs.replace(
        known(payment, facts),
        status=status,
        amount_authorized=amount_authorized,
        amount_captured=amount_captured,
        processor_reference=facts.charge or payment.processor_reference,
        next_action=None,
        capture_before=None,
    )
