"""The worker's commands once more, for wishes that stand: built from our rows, sent into the worker's own queues.

The worker decides under the payment's lock whether there is anything to do, so a command too many does no harm.
"""

from typing import Any, assert_never
from uuid import UUID

from payments.database.connections import Connection
from payments.database.queries import load_queries
from payments.inbox.commands import send
from payments.outbox.events import CaptureRequested, Event, PaymentRequested, RefundRequested, VoidRequested
from payments.reconciler.verdicts import Operation

QUEUES = {
    Operation.CREATE: "payment_requested",
    Operation.CAPTURE: "capture_requested",
    Operation.CANCEL: "void_requested",
    Operation.REFUND: "refund_requested",
}
ABANDONED = "abandoned"
BY_CUSTOMER = "requested_by_customer"

_QUERIES = load_queries("reconciler")


async def send_command(
    conn: Connection, operation: Operation, payment_id: UUID, subject_id: UUID, cancellation_reason: str = BY_CUSTOMER
) -> str | None:
    """Locks the payment and sends; returns the queue to be notified after the commit, None when nobody wishes it.

    Joins the caller's transaction.
    """
    payment: Any = await (await conn.execute(_QUERIES["lock_payment"], {"payment_id": payment_id})).fetchone()
    event = await _event(conn, operation, payment_id, subject_id, payment)
    if event is None:
        return None
    particulars = {"cancellationReason": cancellation_reason} if operation is Operation.CANCEL else None
    await send(conn, QUEUES[operation], event, particulars)
    return QUEUES[operation]


async def _event(
    conn: Connection, operation: Operation, payment_id: UUID, subject_id: UUID, payment: tuple[Any, ...]
) -> Event | None:
    order_id, customer_id, amount, currency, _, capture_id, amount_to_capture, created_at, now = payment
    match operation:
        case Operation.CREATE:
            return PaymentRequested(
                payment_id=payment_id,
                order_id=order_id,
                customer_id=customer_id,
                amount=amount,
                currency=currency,
                requested_at=created_at,
            )
        case Operation.CAPTURE:
            if capture_id != subject_id:
                return None
            return CaptureRequested(
                payment_id=payment_id,
                capture_id=capture_id,
                order_id=order_id,
                amount=amount_to_capture,
                currency=currency,
                requested_at=now,
            )
        case Operation.CANCEL:
            return VoidRequested(
                payment_id=payment_id, order_id=order_id, amount=amount, currency=currency, requested_at=now
            )
        case Operation.REFUND:
            refund: Any = await (await conn.execute(_QUERIES["find_refund"], {"refund_id": subject_id})).fetchone()
            if refund is None:
                return None
            return RefundRequested(
                payment_id=payment_id,
                refund_id=subject_id,
                order_id=order_id,
                amount=refund[0],
                currency=refund[1],
                reason=refund[2],
                requested_at=refund[3],
            )
        case _:
            assert_never(operation)
