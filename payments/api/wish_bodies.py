"""The bodies of capture, void, refund and of a saved payment method; all but the last may be left out."""

import msgspec

from payments.api.body_fields import CUSTOMER, PAYMENT_METHOD, open_body
from payments.domain.wishes import COMPENSATION, CaptureWish, RefundWish, VoidWish

REASON_CHARACTERS_MAX = 500  # what Stripe keeps in metadata


class SavedMethod(msgspec.Struct, frozen=True):
    """How a customer pays: Stripe's customer, and the payment method that is attached to it."""

    processor_customer: str
    payment_method: str


def parse_capture(body: bytes) -> CaptureWish:
    """The wish that a body states. Raises Refusal: malformed_json, card_number_not_allowed, invalid_request."""
    reader = open_body(body or b"{}", ("amount", "orderId"))
    wish = CaptureWish(amount=reader.amount(), order_id=reader.uuid("orderId"))
    reader.close()
    return wish


def parse_void(body: bytes) -> VoidWish:
    """The same for a void, which has no fields."""
    open_body(body or b"{}", ()).close()
    return VoidWish()


def parse_refund(body: bytes) -> RefundWish:
    """The same for a refund."""
    reader = open_body(body or b"{}", ("amount", "reason"))
    wish = RefundWish(
        amount=reader.amount(), reason=reader.free_text("reason", REASON_CHARACTERS_MAX, reserved=(COMPENSATION,))
    )
    reader.close()
    return wish


def parse_saved_method(body: bytes) -> SavedMethod:
    """The same for a saved payment method; both fields are required."""
    fields = ("processorCustomer", "paymentMethod")
    reader = open_body(body, fields, fields)
    customer, method = reader.token(fields[0], *CUSTOMER), reader.token(fields[1], *PAYMENT_METHOD)
    reader.close()
    assert customer is not None
    assert method is not None
    return SavedMethod(customer, method)
