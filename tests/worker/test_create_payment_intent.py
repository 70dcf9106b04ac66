"""What is asked of Stripe for a payment."""

from uuid import UUID

from payments.domain.states import PaymentStatus
from payments.worker.create_payment_intent import build_parameters
from payments.worker.operation import Payment


def payment(metadata: dict[str, str], payment_method: str | None = "pm_card_visa") -> Payment:
    return Payment(
        payment_id=UUID(int=1),
        cart_id=UUID(int=2),
        order_id=UUID(int=3),
        customer_id=None,
        amount=1999,
        currency="EUR",
        capture_method="automatic",
        payment_method=payment_method,
        metadata=metadata,
        status=PaymentStatus.REQUESTED,
    )


def test_metadata_that_stripe_would_refuse_stays_at_home() -> None:
    metadata = {"basket": "blue", "a[b]": "1", "c]": "2", "paymentId": "forged", "customerId": "forged"}
    assert build_parameters(payment(metadata))["metadata"] == {
        "basket": "blue",
        "paymentId": str(UUID(int=1)),
        "cartId": str(UUID(int=2)),
        "orderId": str(UUID(int=3)),
    }


def test_without_a_method_the_browser_confirms() -> None:
    parameters = build_parameters(payment({}, payment_method=None))
    assert not parameters.keys() & {"confirm", "payment_method", "use_stripe_sdk"}
    assert build_parameters(payment({}))["confirm"] is True
