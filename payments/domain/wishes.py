"""What may become of a wish to capture, void or refund a payment, decided from its locked row; pure.

    capture   AUTHORIZED → CAPTURING
    void      REQUESTED, ACTION_REQUIRED, PROCESSING, AUTHORIZED → VOIDING
    refund    SUCCEEDED: a row of its own, which reserves its amount

The same wish again is no second wish: capture and void say so; a refund is told apart by its Idempotency-Key alone.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal, assert_never
from uuid import UUID

import msgspec

from payments.domain.money import CURRENCIES
from payments.domain.states import PaymentStatus

_S = PaymentStatus

# Refunds that the service makes by itself, for money that came too late, carry this reason; nobody else's do.
COMPENSATION = "compensation"

RefusalCode = Literal[
    "invalid_request",
    "amount_exceeds_authorized",
    "amount_exceeds_captured",
    "not_capturable",
    "not_refundable",
    "not_voidable",
]


class CaptureWish(msgspec.Struct, frozen=True, kw_only=True):
    """Charge a hold: `amount` of it (None: all), for an order that may be known only now."""

    amount: int | None = None
    order_id: UUID | None = None


class VoidWish(msgspec.Struct, frozen=True):
    """Cancel a payment before money moves."""


class RefundWish(msgspec.Struct, frozen=True, kw_only=True):
    """Give money back: `amount` of it (None: all that is left)."""

    amount: int | None = None
    reason: str | None = None


Wish = CaptureWish | VoidWish | RefundWish


class LockedPayment(msgspec.Struct, frozen=True, kw_only=True):
    """What a wish is decided from: the payment's row, locked."""

    status: PaymentStatus
    capture_method: str
    order_id: UUID
    currency: str
    amount: int
    amount_authorized: int = 0
    amount_captured: int = 0
    amount_reserved: int = 0
    amount_to_capture: int | None = None


class StartCapture(msgspec.Struct, frozen=True):
    """The payment becomes CAPTURING, and the worker is told."""

    amount: int
    order_id: UUID


class StartVoid(msgspec.Struct, frozen=True):
    """The payment becomes VOIDING; `publishes`: the worker is told, else it finds out when it comes to the charge."""

    publishes: bool


class StartRefund(msgspec.Struct, frozen=True):
    """A refund is recorded, and the worker is told."""

    amount: int


class AlreadyAsked(msgspec.Struct, frozen=True):
    """The same was asked for before: nothing changes."""


class Refused(msgspec.Struct, frozen=True):
    """It cannot be: a code of the API, why in words for the caller, and the field that is at fault, if one is."""

    code: RefusalCode
    why: str
    field: str | None = None


_CONFLICTED = "What Stripe says of this payment contradicts our books; an operator must look at it first."
_NO_CHARGE = "Nothing was charged; void the payment instead (POST …/void)."

WHY_NOTHING_TO_CAPTURE = "The payment is charged at once (captureMethod automatic); there is no hold to capture."
WHY_NOT_CAPTURABLE: Mapping[PaymentStatus, str] = MappingProxyType(
    {
        _S.REQUESTED: "The payment is not authorized yet; there is no hold to capture.",
        _S.ACTION_REQUIRED: "The customer has to act first; there is no hold to capture.",
        _S.PROCESSING: "The payment is not authorized yet; there is no hold to capture.",
        _S.CAPTURING: "The payment is being captured already, with another amount or for another order.",
        _S.SUCCEEDED: "The payment was captured already, with another amount or for another order.",
        _S.VOIDING: "The payment is being voided; authorize a new one.",
        _S.VOIDED: "The payment was voided; authorize a new one.",
        _S.FAILED: "The payment has failed; there is no hold to capture.",
        _S.EXPIRED: "The hold has expired; authorize a new payment.",
        _S.CONFLICTED: _CONFLICTED,
    }
)
WHY_NOT_VOIDABLE: Mapping[PaymentStatus, str] = MappingProxyType(
    {
        _S.CAPTURING: "The payment is being captured; when it has succeeded, refund it (POST …/refunds).",
        _S.SUCCEEDED: "The payment has been charged; refund it instead (POST …/refunds).",
        _S.FAILED: "The payment has failed; there is nothing to void.",
        _S.EXPIRED: "The hold has expired; there is nothing left to void.",
        _S.CONFLICTED: _CONFLICTED,
    }
)
WHY_NOT_REFUNDABLE: Mapping[PaymentStatus, str] = MappingProxyType(
    {
        _S.REQUESTED: _NO_CHARGE,
        _S.ACTION_REQUIRED: _NO_CHARGE,
        _S.PROCESSING: _NO_CHARGE,
        _S.AUTHORIZED: _NO_CHARGE,
        _S.CAPTURING: "The payment is being captured; it can be refunded when it has succeeded.",
        _S.VOIDING: "The payment is being voided; there is nothing to refund.",
        _S.VOIDED: "The payment was voided; there is nothing to refund.",
        _S.FAILED: "The payment has failed; there is nothing to refund.",
        _S.EXPIRED: "The hold has expired; there is nothing to refund.",
        _S.CONFLICTED: _CONFLICTED,
    }
)


def decide_capture(payment: LockedPayment, wish: CaptureWish) -> StartCapture | AlreadyAsked | Refused:
    """What becomes of a wish to capture."""
    amount = payment.amount_authorized if wish.amount is None else wish.amount
    order_id = payment.order_id if wish.order_id is None else wish.order_id
    match payment.status:
        case _S.AUTHORIZED | _S.CAPTURING if amount > payment.amount_authorized:
            return Refused(
                "amount_exceeds_authorized",
                f"{payment.amount_authorized} {payment.currency} are authorized, {amount} cannot be captured.",
            )
        case _S.AUTHORIZED:
            return _step_fault(amount, payment.currency) or StartCapture(amount, order_id)
        case _S.CAPTURING if (amount, order_id) == (payment.amount_to_capture, payment.order_id):
            return AlreadyAsked()
        case _S.SUCCEEDED if payment.capture_method == "manual" and (amount, order_id) == (
            payment.amount_captured,
            payment.order_id,
        ):
            return AlreadyAsked()
        case status:
            automatic = payment.capture_method != "manual" and status is not _S.CONFLICTED
            return Refused("not_capturable", WHY_NOTHING_TO_CAPTURE if automatic else WHY_NOT_CAPTURABLE[status])


def decide_void(payment: LockedPayment) -> StartVoid | AlreadyAsked | Refused:
    """What becomes of a wish to void."""
    match payment.status:
        case _S.REQUESTED:
            return StartVoid(publishes=False)
        case _S.ACTION_REQUIRED | _S.PROCESSING | _S.AUTHORIZED:
            return StartVoid(publishes=True)
        case _S.VOIDING | _S.VOIDED:
            return AlreadyAsked()
        case _S.CAPTURING | _S.SUCCEEDED | _S.FAILED | _S.EXPIRED | _S.CONFLICTED:
            return Refused("not_voidable", WHY_NOT_VOIDABLE[payment.status])
        case _:
            assert_never(payment.status)


def decide_refund(payment: LockedPayment, wish: RefundWish) -> StartRefund | Refused:
    """What becomes of a wish to refund."""
    if payment.status is not _S.SUCCEEDED:
        return Refused("not_refundable", WHY_NOT_REFUNDABLE[payment.status])
    left = payment.amount_captured - payment.amount_reserved
    amount = left if wish.amount is None else wish.amount
    if amount > left or left <= 0:
        asked = "" if wish.amount is None else f", {amount} cannot be refunded"
        return Refused(
            "amount_exceeds_captured",
            f"Of {payment.amount_captured} {payment.currency} captured, {max(left, 0)} are left to refund{asked}.",
        )
    # All that is left may always be given back, whatever Stripe's dashboard has left of it.
    return (None if amount == left else _step_fault(amount, payment.currency)) or StartRefund(amount)


def _step_fault(amount: int, currency: str) -> Refused | None:
    """Stripe counts some currencies in steps, whatever the sum is for."""
    known = CURRENCIES.get(currency)
    if known is None or amount % known.step == 0:
        return None
    fault = f"must be a multiple of {known.step} in {currency}"
    return Refused("invalid_request", f"The amount {fault}; nothing was recorded.", field="amount")
