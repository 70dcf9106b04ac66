"""The body of `POST /payments/authorize`: checked field by field, all faults told at once, nothing repaired."""

from uuid import UUID

import msgspec

from payments.api.body_fields import PAYMENT_METHOD, open_body

CAPTURE_METHODS = ("automatic", "manual")
REQUIRED = ("cartId", "amount", "currency")
FIELDS = (*REQUIRED, "customerId", "orderId", "captureMethod", "paymentMethod", "metadata")


class AuthorizePayment(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A wish to be paid, as it will be recorded: every default is filled in."""

    cart_id: UUID
    order_id: UUID
    customer_id: UUID | None
    amount: int
    currency: str
    capture_method: str
    payment_method: str | None
    metadata: dict[str, str]


def parse(body: bytes) -> AuthorizePayment:
    """The wish that a body states. Raises Refusal: malformed_json, card_number_not_allowed, invalid_request."""
    reader = open_body(body, FIELDS, REQUIRED)
    cart_id = reader.uuid("cartId")
    amount, currency = reader.money()
    wish = AuthorizePayment(
        cart_id=cart_id,
        order_id=reader.uuid("orderId", cart_id),
        customer_id=reader.uuid("customerId", None),
        amount=amount,
        currency=currency,
        capture_method=reader.word("captureMethod", CAPTURE_METHODS),
        payment_method=reader.token("paymentMethod", *PAYMENT_METHOD),
        metadata=reader.metadata(),
    )
    reader.close()
    return wish
