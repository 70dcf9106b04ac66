"""Putting events into the outbox, in the transaction of the change that they tell of."""

from datetime import datetime
from uuid import UUID

from payments.database.connections import Connection
from payments.database.queries import load_queries
from payments.domain.identifiers import new_id
from payments.outbox.events import Event, encode

_QUERIES = load_queries("outbox")


async def append(  # noqa: PLR0913, PLR0917 - the columns of a row
    conn: Connection,
    payment_id: UUID,
    sequence: int,
    event: Event,
    occurred_at: datetime,
    traceparent: str | None = None,
) -> UUID:
    """Adds one event and returns its id, by which consumers recognise repetitions.

    Joins the caller's transaction. `sequence` is the payment's last_sequence, raised under its row lock. `occurred_at`
    is when we recorded the change. Without `traceparent` the event goes on in the trace that the payment began in.
    After the commit, wake the relay: `notifier.notify(wakeup.OUTBOX)`.
    Raises psycopg.errors.UniqueViolation when the sequence is taken or the event happened to this payment before.
    """
    assert event.payment_id == payment_id
    event_id = new_id()
    values = {
        "event_id": event_id,
        "event_type": event.event_type.value,
        "payment_id": payment_id,
        "sequence": sequence,
        "payload": encode(event).decode(),
        "occurred_at": occurred_at,
        "traceparent": traceparent,
    }
    await conn.execute(_QUERIES["append"], values)
    return event_id
