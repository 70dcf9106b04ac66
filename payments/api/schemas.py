"""The bodies of the API as types, from which the OpenAPI page takes its schemas.

Bodies that come in are read by `authorize_body` and `wish_bodies`, bodies that go out are rendered by the database;
tests hold both against these types.
"""

from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

import msgspec
from msgspec import UNSET, Meta, UnsetType

from payments.api.body_fields import (
    METADATA_KEY_CHARACTERS_MAX,
    METADATA_KEYS_MAX,
    METADATA_VALUE_CHARACTERS_MAX,
)
from payments.api.wish_bodies import REASON_CHARACTERS_MAX
from payments.domain.money import AMOUNT_MAX, CURRENCIES
from payments.domain.states import PaymentStatus
from payments.domain.wishes import COMPENSATION

CurrencyCode = Annotated[str, Meta(pattern="^[A-Z]{3}$", extra_json_schema={"enum": list(CURRENCIES)})]
FailureReason = Literal["CARD_DECLINED", "INSUFFICIENT_FUNDS", "EXPIRED_CARD", "PROCESSING_ERROR"]
CaptureMethod = Literal["automatic", "manual"]
Moment = Annotated[datetime, Meta(tz=True)]
Amount = Annotated[int, Meta(ge=0, le=AMOUNT_MAX)]


class AuthorizePayment(
    msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True, forbid_unknown_fields=True
):
    """A wish to be paid for a cart."""

    cart_id: Annotated[UUID, Meta(description="The cart being checked out.")]
    amount: Annotated[
        int,
        Meta(
            ge=1,
            le=AMOUNT_MAX,
            description="In minor units as Stripe counts them: cents for EUR, whole yen for JPY. Each currency has a "
            "minimum; BHD, JOD, KWD, OMR and TND end in 0, ISK and UGX in 00. No fraction, no exponent.",
        ),
    ]
    currency: Annotated[CurrencyCode, Meta(description="ISO 4217, in capitals.")]
    customer_id: Annotated[UUID, Meta(description="The customer paying.")] | UnsetType = UNSET
    order_id: Annotated[UUID, Meta(description="The order; the cart's id stands in when it is absent.")] | UnsetType = (
        UNSET
    )
    capture_method: (
        Annotated[CaptureMethod, Meta(description="automatic charges at once, manual places a hold.")] | UnsetType
    ) = "automatic"
    payment_method: (
        Annotated[
            str,
            Meta(pattern=r"^pm_[A-Za-z0-9_]{1,250}$", description="A payment method token of Stripe's, never a card."),
        ]
        | UnsetType
    ) = UNSET
    metadata: (
        Annotated[
            dict[
                Annotated[str, Meta(min_length=1, max_length=METADATA_KEY_CHARACTERS_MAX)],
                Annotated[str, Meta(max_length=METADATA_VALUE_CHARACTERS_MAX)],
            ],
            Meta(max_length=METADATA_KEYS_MAX, description="Text of the caller's own; kept, never interpreted."),
        ]
        | UnsetType
    ) = UNSET


class CapturePayment(msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """A wish to charge a hold."""

    amount: (
        Annotated[int, Meta(ge=1, le=AMOUNT_MAX, description="How much of the hold; all when it is absent.")]
        | UnsetType
    ) = UNSET
    order_id: Annotated[UUID, Meta(description="The order paid for, when it was not known before.")] | UnsetType = UNSET


class VoidPayment(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A wish to cancel a payment; nothing more is to be said."""


class RefundPayment(msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """A wish to give money back."""

    amount: (
        Annotated[int, Meta(ge=1, le=AMOUNT_MAX, description="How much; all that is left when it is absent.")]
        | UnsetType
    ) = UNSET
    reason: (
        Annotated[
            str,
            Meta(
                min_length=1,
                max_length=REASON_CHARACTERS_MAX,
                description="Free text; Stripe gets to see it. `compensation` is the service's own word.",
                extra_json_schema={"not": {"const": COMPENSATION}},
            ),
        ]
        | UnsetType
    ) = UNSET


class SavePaymentMethod(msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """How a customer pays: tokens of Stripe's."""

    processor_customer: Annotated[
        str, Meta(pattern="^cus_[A-Za-z0-9_]{1,250}$", description="Stripe's customer, to whom the method is attached.")
    ]
    payment_method: Annotated[str, Meta(pattern="^pm_[A-Za-z0-9_]{1,250}$", description="The payment method.")]


class Failure(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Why a payment failed."""

    reason: FailureReason
    decline_code: Annotated[str | None, Meta(description="Stripe's decline code, or its error code.")]
    message: Annotated[str | None, Meta(description="Words that may be shown to the customer.")]


class Payment(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A payment at one version."""

    payment_id: UUID
    cart_id: UUID
    order_id: UUID
    customer_id: UUID | None
    amount: Amount
    currency: CurrencyCode
    capture_method: CaptureMethod
    status: PaymentStatus
    amount_authorized: Amount
    amount_captured: Amount
    amount_refunded: Amount
    processor_reference: Annotated[str | None, Meta(description="Stripe's charge, ch_…")]
    failure: Failure | None
    next_action: Annotated[
        dict[str, Any] | None,
        Meta(
            description="What the browser needs to finish the payment, `clientSecret` among it; ACTION_REQUIRED only."
        ),
    ]
    capture_before: Annotated[Moment | None, Meta(description="When a hold lapses; manual capture only.")]
    disputed: bool
    created_at: Moment
    updated_at: Moment
    version: Annotated[int, Meta(ge=1, description="Counts changes; the ETag.")]


class PaymentPage(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Payments, the newest first."""

    items: list[Payment]
    next_cursor: Annotated[str | None, Meta(description="Goes into `cursor` for the next page; null on the last.")]


class Refund(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A refund as it stands."""

    refund_id: UUID
    payment_id: UUID
    amount: Annotated[int, Meta(ge=1, le=AMOUNT_MAX)]
    currency: CurrencyCode
    reason: Annotated[str | None, Meta(description="`compensation`: made by the service; money came too late.")]
    status: Literal["REQUESTED", "PENDING", "PROCESSED", "FAILED"]
    processor_reference: Annotated[str | None, Meta(description="Stripe's refund, re_…")]
    failure_reason: Annotated[str | None, Meta(description="Stripe's word; FAILED only.")]
    external: Annotated[bool, Meta(description="Made in Stripe's dashboard, not through this service.")]
    created_at: Moment
    updated_at: Moment


class RefundList(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """The refunds of a payment, oldest first."""

    items: list[Refund]


class HistoryItem(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """One signal about a payment, and what was decided on it."""

    at: Moment
    signal: Annotated[str, Meta(description="What was heard or asked.")]
    source: Literal["api", "stripe-webhook", "stripe-api", "reconciler", "worker", "operator"]
    from_status: PaymentStatus | None = msgspec.field(name="from")
    to_status: PaymentStatus = msgspec.field(name="to")
    decision: Literal["applied", "ignored", "conflicted", "compensated"]
    why: str
    stripe_request_id: str | None


class HistoryPage(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Why a payment is where it is, oldest first."""

    items: list[HistoryItem]


class StripeEvent(msgspec.Struct, frozen=True):
    """An event as Stripe sends it; https://docs.stripe.com/api/events/object."""

    id: str
    type: str
    data: dict[str, Any]


class WebhookReceipt(msgspec.Struct, frozen=True):
    """The event is kept."""

    received: bool


class Health(msgspec.Struct, frozen=True):
    """A word on the process."""

    status: Literal["live", "ready"]
