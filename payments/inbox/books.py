"""The rows of payments as the recorder reads and writes them. All functions join the caller's transaction."""

from collections.abc import Iterable
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec

from payments.database.connections import Connection
from payments.database.queries import load_queries
from payments.domain.declines import Failure, FailureReason
from payments.domain.payment import NextAction, Payment
from payments.domain.states import EventType, PaymentStatus
from payments.outbox.events import (
    Event,
    PaymentActionRequired,
    PaymentAuthorized,
    PaymentExpired,
    PaymentFailed,
    PaymentSucceeded,
    PaymentVoided,
)

_QUERIES = load_queries("inbox")


class Locked(msgspec.Struct):
    """A payment under its row lock, as it changes while one batch is weighed."""

    payment: Payment
    last_sequence: int


async def lock_payments(conn: Connection, payment_ids: Iterable[UUID]) -> dict[UUID, Locked]:
    """Locks payments, always in the order of their ids, and reads them; unknown ids are left out."""
    ids = {"payment_ids": sorted(payment_ids)}
    if not ids["payment_ids"]:
        return {}
    rows: list[Any] = await (await conn.execute(_QUERIES["lock_payments"], ids)).fetchall()
    recalled: list[Any] = await (await conn.execute(_QUERIES["recall"], ids)).fetchall()
    history = {payment_id: (last_id, was_asked) for payment_id, last_id, was_asked in recalled}
    return {row[0]: _read(row, *history.get(row[0], (0, False))) for row in rows}


def _read(row: tuple[Any, ...], last_history_id: int, was_asked: bool) -> Locked:  # noqa: FBT001 - a column
    (
        payment_id,
        order_id,
        amount,
        currency,
        capture_method,
        payment_method,
        status,
        authorized,
        captured,
        intent,
        reference,
        failure_reason,
        decline_code,
        failure_message,
        next_action,
        capture_before,
        last_sequence,
    ) = row
    failure = Failure(FailureReason(failure_reason), decline_code, failure_message) if failure_reason else None
    payment = Payment(
        payment_id=payment_id,
        order_id=order_id,
        amount=amount,
        currency=currency,
        capture_method=capture_method,
        payment_method=payment_method,
        status=PaymentStatus(status),
        amount_authorized=authorized,
        amount_captured=captured,
        processor_payment_intent=intent,
        processor_reference=reference,
        failure=failure,
        next_action=msgspec.convert(next_action, NextAction) if next_action else None,
        capture_before=capture_before,
        last_history_id=last_history_id,
        was_customer_asked=was_asked,
    )
    return Locked(payment, last_sequence)


async def change_payment(conn: Connection, locked: Locked) -> None:
    """Writes a locked payment as it now is."""
    payment = locked.payment
    failure = payment.failure
    values = {
        "payment_id": payment.payment_id,
        "status": payment.status.value,
        "amount_authorized": payment.amount_authorized,
        "amount_captured": payment.amount_captured,
        "processor_payment_intent": payment.processor_payment_intent,
        "processor_reference": payment.processor_reference,
        "failure_reason": failure.reason.value if failure else None,
        "failure_decline_code": failure.decline_code if failure else None,
        "failure_message": failure.message if failure else None,
        "next_action": msgspec.json.encode(payment.next_action).decode() if payment.next_action else None,
        "capture_before": payment.capture_before,
        "last_sequence": locked.last_sequence,
    }
    await conn.execute(_QUERIES["change_payment"], values)


def event_of(payment: Payment, event_type: EventType, at: datetime) -> Event:
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
