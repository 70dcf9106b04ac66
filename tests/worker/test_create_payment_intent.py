"""What is asked of Stripe for a payment."""

from datetime import UTC, datetime
from uuid import UUID

from payments.domain.states import PaymentStatus
from payments.worker.create_payment_intent import build_parameters
from payments.worker.operation import Command, Payment, Situation


def situation(
    metadata: dict[str, str], payment_method: str | None = "pm_card_visa", processor_customer: str | None = None
) -> Situation:
    payment = Payment(
        payment_id=UUID(int=1),
        cart_id=UUID(int=2),
        order_id=UUID(int=3),
        customer_id=None,
        amount=1999,
        currency="EUR",
        capture_method="automatic",
        payment_method=payment_method,
        processor_customer=processor_customer,
        metadata=metadata,
        status=PaymentStatus.REQUESTED,
        processor_payment_intent=None,
        capture_id=None,
        amount_to_capture=None,
    )
    command = Command(payment.payment_id, payment.payment_id)
    return Situation(command, payment, refund=None, call=None, was_asked=False, now=datetime.now(UTC))


def test_metadata_that_stripe_would_refuse_stays_at_home() -> None:
    metadata = {"basket": "blue", "a[b]": "1", "c]": "2", "paymentId": "forged", "customerId": "forged"}
    assert build_parameters(situation(metadata))["metadata"] == {
        "basket": "blue",
        "paymentId": str(UUID(int=1)),
        "cartId": str(UUID(int=2)),
        "orderId": str(UUID(int=3)),
    }


def test_without_a_method_the_browser_confirms() -> None:
    parameters = build_parameters(situation({}, payment_method=None))
    assert not parameters.keys() & {"confirm", "payment_method", "use_stripe_sdk"}
    assert build_parameters(situation({}))["confirm"] is True


def test_saved_method_comes_with_the_customer_who_owns_it() -> None:
    assert build_parameters(situation({}, "pm_1", "cus_1"))["customer"] == "cus_1"
    assert "customer" not in build_parameters(situation({}))
