"""Commands to the worker that no outbox row stands for: nothing is published by them, so no consumer hears of them.

The worker decides under the payment's lock whether there is anything to do, so a command too many does no harm.
"""

from datetime import datetime
from typing import Any

import msgspec

from payments.database.connections import Connection
from payments.database.queries import load_queries
from payments.domain.decisions import Cancel
from payments.domain.identifiers import new_id
from payments.domain.payment import Payment
from payments.outbox.events import Event, VoidRequested, encode

CANCELS = "void_requested"

_QUERIES = load_queries("inbox")


async def send(conn: Connection, queue: str, event: Event, particulars: dict[str, Any] | None = None) -> None:
    """Puts a message with an event's payload, and `particulars` beside it, into a worker's queue.

    Joins the caller's transaction. After the commit: `notifier.notify(wakeup.QUEUE, queue)`.
    """
    message = {**msgspec.json.decode(encode(event)), **(particulars or {})}
    headers = {
        "ce-id": str(new_id()),
        "ce-type": event.event_type.value,
        "x-pgmq-group": str(event.payment_id),
    }
    values = {"queue": queue, "message": _json(message), "headers": _json(headers)}
    await conn.execute(_QUERIES["send"], values)


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()


async def send_cancel(conn: Connection, payment: Payment, cancel: Cancel, at: datetime) -> str:
    """Asks the worker to cancel a payment's PaymentIntent; returns the queue that is to be notified."""
    event = VoidRequested(
        payment_id=payment.payment_id,
        order_id=payment.order_id,
        amount=payment.amount,
        currency=payment.currency,
        requested_at=at,
    )
    await send(conn, CANCELS, event, {"cancellationReason": cancel.reason})
    return CANCELS
