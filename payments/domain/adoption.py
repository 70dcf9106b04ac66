"""A payment that we have lost, as Stripe's metadata tell of it: pure.

After a restored backup a PaymentIntent may name a payment that nobody here knows. Its metadata hold the ids that the
service gave it; amount, currency and way of capture are Stripe's own.
"""

from collections.abc import Mapping
from typing import Any
from uuid import UUID

import msgspec

from payments.domain.facts import UnreadableObject, named_id_of, payment_id_of, read_payment_intent
from payments.domain.money import AMOUNT_MAX


class LostPayment(msgspec.Struct, frozen=True, kw_only=True):
    """What a payment's row begins with."""

    payment_id: UUID
    cart_id: UUID
    order_id: UUID
    customer_id: UUID | None
    amount: int
    currency: str
    capture_method: str


def is_ours(intent: Mapping[str, Any]) -> bool:
    """Whether a PaymentIntent was made by this service, by the ids that it gives to all of its own."""
    return all(named_id_of(intent, name) is not None for name in ("paymentId", "cartId", "orderId"))


def read_lost_payment(intent: object, payment_id: UUID) -> LostPayment | None:
    """The payment that a PaymentIntent must have been made for; None when it is not ours, or not that payment's."""
    try:
        facts = read_payment_intent(intent)
    except UnreadableObject:
        return None
    cart_id, order_id = named_id_of(intent, "cartId"), named_id_of(intent, "orderId")
    if payment_id_of(intent) != payment_id or cart_id is None or order_id is None:
        return None
    if not 1 <= facts.amount <= AMOUNT_MAX:
        return None
    return LostPayment(
        payment_id=payment_id,
        cart_id=cart_id,
        order_id=order_id,
        customer_id=named_id_of(intent, "customerId"),
        amount=facts.amount,
        currency=facts.currency,
        capture_method="manual" if facts.capture_method == "manual" else "automatic",
    )
