"""What the recorder publishes: from what a payment, a refund or a dispute has become to the event of it; pure."""

from datetime import datetime
from typing import Any

from payments.domain.adoption import LostPayment
from payments.domain.disputes import Dispute
from payments.domain.payment import Payment
from payments.domain.refunds import Refund
from payments.domain.states import EventType
from payments.outbox.events import (
    DisputeClosed,
    DisputeOpened,
    Event,
    PaymentActionRequired,
    PaymentAuthorized,
    PaymentExpired,
    PaymentFailed,
    PaymentRequested,
    PaymentSucceeded,
    PaymentVoided,
    RefundFailed,
    RefundProcessed,
    RefundRequested,
)


def payment_event(payment: Payment, event_type: EventType, at: datetime) -> Event:
    """What is published when the payment has become what it is; only of Stripe's outcomes."""
    common: dict[str, Any] = {
        "payment_id": payment.payment_id,
        "order_id": payment.order_id,
        "currency": payment.currency,
    }
    match event_type:
        case EventType.PAYMENT_SUCCEEDED:
            return PaymentSucceeded(
                **common,
                amount=payment.amount_captured,
                processor_reference=payment.processor_reference,
                succeeded_at=at,
            )
        case EventType.PAYMENT_AUTHORIZED:
            return PaymentAuthorized(
                **common,
                amount=payment.amount_authorized,
                processor_reference=payment.processor_reference,
                capture_before=payment.capture_before,
                authorized_at=at,
            )
        case EventType.PAYMENT_FAILED:
            assert payment.failure is not None
            return PaymentFailed(
                payment_id=payment.payment_id,
                order_id=payment.order_id,
                reason=payment.failure.reason.value,
                failed_at=at,
            )
        case EventType.PAYMENT_ACTION_REQUIRED:
            action = payment.next_action.type if payment.next_action else None
            return PaymentActionRequired(**common, amount=payment.amount, action=action, action_required_at=at)
        case EventType.PAYMENT_VOIDED:
            return PaymentVoided(**common, amount=payment.amount, voided_at=at)
        case EventType.PAYMENT_EXPIRED:
            return PaymentExpired(**common, amount=payment.amount, expired_at=at)
        case _:
            raise AssertionError(f"{event_type} is not published by the recorder")


def adopted_event(lost: LostPayment, at: datetime) -> PaymentRequested:
    """The beginning of a payment that is found again at Stripe."""
    return PaymentRequested(
        payment_id=lost.payment_id,
        order_id=lost.order_id,
        customer_id=lost.customer_id,
        amount=lost.amount,
        currency=lost.currency,
        requested_at=at,
    )


def refund_event(payment: Payment, refund: Refund, event_type: EventType, at: datetime) -> Event:
    """What is published when a refund of the payment has become what it is."""
    common: dict[str, Any] = {
        "payment_id": payment.payment_id,
        "order_id": payment.order_id,
        "refund_id": refund.refund_id,
        "amount": refund.amount,
        "currency": refund.currency,
    }
    match event_type:
        case EventType.REFUND_REQUESTED:
            return RefundRequested(**common, reason=refund.reason, requested_at=at)
        case EventType.REFUND_PROCESSED:
            return RefundProcessed(**common, processed_at=at)
        case EventType.REFUND_FAILED:
            return RefundFailed(**common, reason=refund.failure_reason, failed_at=at)
        case _:
            raise AssertionError(f"{event_type} tells of no refund")


def dispute_event(payment: Payment, dispute: Dispute, event_type: EventType, at: datetime) -> Event:
    """What is published when a dispute about the payment has become what it is."""
    common: dict[str, Any] = {
        "payment_id": payment.payment_id,
        "order_id": payment.order_id,
        "dispute_id": dispute.dispute_id,
        "amount": dispute.amount,
        "currency": dispute.currency,
    }
    match event_type:
        case EventType.DISPUTE_OPENED:
            return DisputeOpened(**common, reason=dispute.reason, opened_at=dispute.opened_at)
        case EventType.DISPUTE_CLOSED:
            return DisputeClosed(**common, status=dispute.status, closed_at=dispute.closed_at or at)
        case _:
            raise AssertionError(f"{event_type} tells of no dispute")
