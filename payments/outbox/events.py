"""The events of the outbox, version 1: what a consumer of a queue finds in its messages.

Amounts are integers in minor units; times are RFC 3339, UTC, microseconds. Events carry identifiers, times and states,
never a client secret, a card or a customer's data. Optional fields are left out when they are None. Unknown fields are
tolerated on the way in, so a later version may add some. The header `ce-type` names the type, not the
payload.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Annotated, ClassVar, Literal
from uuid import UUID

import msgspec
from msgspec import Meta

from payments.domain.states import EventType

VERSION = 1
DATASCHEMA = "urn:payments:event:{event_type}:{version}"  # as payments.event_headers writes it

Amount = Annotated[int, Meta(ge=0, description="In minor units of the currency (e.g. cents)")]
Currency = Annotated[str, Meta(pattern="^[A-Z]{3}$", description="ISO 4217 code")]
Moment = Annotated[datetime, Meta(tz=True)]
ProcessorReference = Annotated[str, Meta(description="Stripe's identifier of the charge or refund (ch_…, re_…)")]
FailureReason = Literal["CARD_DECLINED", "INSUFFICIENT_FUNDS", "EXPIRED_CARD", "PROCESSING_ERROR"]


class Event(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """What all events share. Raises TypeError or ValueError on an amount or a time that no consumer should ever see."""

    event_type: ClassVar[EventType]

    payment_id: UUID

    def __post_init__(self) -> None:
        amount = getattr(self, "amount", 0)
        if type(amount) is not int:
            raise TypeError(f"an amount is an integer in minor units, not {type(amount).__name__}")
        if amount < 0:
            raise ValueError("an amount is never negative")
        for name in self.__struct_fields__:
            value = getattr(self, name)
            if isinstance(value, datetime) and value.tzinfo is None:
                raise ValueError(f"{name} has no time zone")


class PaymentRequested(Event, frozen=True, kw_only=True):
    """Published when a charge is requested from the payment processor."""

    event_type = EventType.PAYMENT_REQUESTED

    order_id: UUID
    customer_id: UUID | None = None
    amount: Amount
    currency: Currency
    requested_at: Moment


class PaymentAuthorized(Event, frozen=True, kw_only=True):
    """Published when a hold is placed (manual capture); it lapses at `captureBefore`."""

    event_type = EventType.PAYMENT_AUTHORIZED

    order_id: UUID
    amount: Amount
    currency: Currency
    processor_reference: ProcessorReference | None = None
    capture_before: Moment | None = None
    authorized_at: Moment


class PaymentSucceeded(Event, frozen=True, kw_only=True):
    """Published when a charge succeeds; `amount` is what was charged."""

    event_type = EventType.PAYMENT_SUCCEEDED

    order_id: UUID
    amount: Amount
    currency: Currency
    processor_reference: ProcessorReference | None = None
    succeeded_at: Moment


class PaymentFailed(Event, frozen=True, kw_only=True):
    """Published when a charge fails for good."""

    event_type = EventType.PAYMENT_FAILED

    order_id: UUID
    reason: FailureReason
    failed_at: Moment


class PaymentVoided(Event, frozen=True, kw_only=True):
    """Published when a payment was cancelled before any money moved."""

    event_type = EventType.PAYMENT_VOIDED

    order_id: UUID
    amount: Amount
    currency: Currency
    voided_at: Moment


class PaymentExpired(Event, frozen=True, kw_only=True):
    """Published when a hold lapsed before it was captured."""

    event_type = EventType.PAYMENT_EXPIRED

    order_id: UUID
    amount: Amount
    currency: Currency
    expired_at: Moment


class PaymentActionRequired(Event, frozen=True, kw_only=True):
    """Published when the customer must act (3-D Secure, a payment method); what the browser needs, the API tells."""

    event_type = EventType.PAYMENT_ACTION_REQUIRED

    order_id: UUID
    amount: Amount
    currency: Currency
    action: Annotated[str, Meta(description="Stripe's kind of next action, e.g. use_stripe_sdk")] | None = None
    action_required_at: Moment


class CaptureRequested(Event, frozen=True, kw_only=True):
    """Published when a hold is to be captured; `amount` is what to charge of it."""

    event_type = EventType.CAPTURE_REQUESTED

    capture_id: Annotated[UUID, Meta(description="This wish; a later one for the same payment has another")]
    order_id: UUID
    amount: Amount
    currency: Currency
    requested_at: Moment


class VoidRequested(Event, frozen=True, kw_only=True):
    """Published when a payment is to be cancelled."""

    event_type = EventType.VOID_REQUESTED

    order_id: UUID
    amount: Amount
    currency: Currency
    requested_at: Moment


class RefundRequested(Event, frozen=True, kw_only=True):
    """Published when a refund is requested from the payment processor."""

    event_type = EventType.REFUND_REQUESTED

    refund_id: UUID
    order_id: UUID
    amount: Amount
    currency: Currency
    reason: str | None = None
    requested_at: Moment


class RefundProcessed(Event, frozen=True, kw_only=True):
    """Published when a refund has been processed."""

    event_type = EventType.REFUND_PROCESSED

    refund_id: UUID
    order_id: UUID | None = None
    amount: Amount
    currency: Currency
    processed_at: Moment


class RefundFailed(Event, frozen=True, kw_only=True):
    """Published when a refund failed, also when it was said to be processed before: the money is still ours."""

    event_type = EventType.REFUND_FAILED

    refund_id: UUID
    order_id: UUID
    amount: Amount
    currency: Currency
    reason: Annotated[str, Meta(description="Stripe's failure reason, e.g. expired_or_canceled_card")] | None = None
    failed_at: Moment


class DisputeOpened(Event, frozen=True, kw_only=True):
    """Published when a customer's bank disputes a charge; `amount` is what is disputed."""

    event_type = EventType.DISPUTE_OPENED

    dispute_id: UUID
    order_id: UUID
    amount: Amount
    currency: Currency
    reason: Annotated[str, Meta(description="Stripe's dispute reason, e.g. fraudulent")] | None = None
    opened_at: Moment


class DisputeClosed(Event, frozen=True, kw_only=True):
    """Published when a dispute ended; `status` is Stripe's word for how. Again when it ended another way after all."""

    event_type = EventType.DISPUTE_CLOSED

    dispute_id: UUID
    order_id: UUID
    amount: Amount
    currency: Currency
    status: Annotated[str, Meta(description="Stripe's final status: won, lost, warning_closed")]
    closed_at: Moment


EVENTS: Mapping[EventType, type[Event]] = MappingProxyType(
    {
        event.event_type: event
        for event in (
            PaymentRequested,
            PaymentAuthorized,
            PaymentSucceeded,
            PaymentFailed,
            PaymentVoided,
            PaymentExpired,
            PaymentActionRequired,
            CaptureRequested,
            VoidRequested,
            RefundRequested,
            RefundProcessed,
            RefundFailed,
            DisputeOpened,
            DisputeClosed,
        )
    }
)


def rfc3339(moment: datetime) -> str:
    """A time as the API and the events write it, the same as SQL's payments.rfc3339."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def encode(event: Event) -> bytes:
    """The payload of an event as JSON, its fields in the order of the type."""
    fields = msgspec.to_builtins(event, builtin_types=(datetime,))
    return msgspec.json.encode({k: rfc3339(v) if isinstance(v, datetime) else v for k, v in fields.items()})


def decode(event_type: str, payload: bytes) -> Event:
    """Reads a payload, tolerant of unknown fields; raises ValueError (msgspec's ValidationError is one)."""
    return msgspec.json.decode(payload, type=EVENTS[EventType(event_type)])
