"""Putting rows into the inbox; everybody who hears from Stripe does it through here."""

from typing import Literal
from uuid import UUID

from payments.database.connections import Connection
from payments.database.queries import load_queries

Source = Literal["stripe-webhook", "stripe-api", "reconciler"]

# Legal in JSON, impossible in jsonb: no word of Stripe's may get lost for it.
_NUL, _REPLACEMENT = r"\u0000", r"\ufffd"

_QUERIES = load_queries("inbox")


async def receive(  # noqa: PLR0913, PLR0917 - the columns of a row
    conn: Connection, source: Source, message_id: str, message_type: str, payment_id: UUID | None, payload: bytes
) -> bool:
    """Keeps a message, JSON bytes of an object, once; False when this source and id are known already.

    Joins the caller's transaction. A second delivery that arrives at the same moment waits for the first to commit.
    """
    values = {
        "source": source,
        "message_id": message_id,
        "message_type": message_type,
        "payment_id": payment_id,
        "payload": payload.decode().replace(_NUL, _REPLACEMENT),
    }
    return (await conn.execute(_QUERIES["receive"], values)).rowcount == 1
