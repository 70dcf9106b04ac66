"""Rows put in place by hand: payments as accepted, and what Stripe said about them."""

import json
from typing import Any
from uuid import UUID, uuid4

import psycopg

from payments.domain.identifiers import new_id
from tests.database.rows import insert_event
from tests.domain.stripe_lives import Life, Word

INSERT_PAYMENT = """
insert into payments.payments (
  payment_id, cart_id, order_id, amount, currency, capture_method, payment_method, client_id, fingerprint
)
values (%s, %s, %s, 1000, 'EUR', %s, %s, 'tests', sha256('tests'::bytea))
"""
INSERT_MESSAGE = """
insert into payments.inbox (source, message_id, message_type, payment_id, payload) values (%s, %s, %s, %s, %s)
on conflict do nothing
"""


def insert_payment(
    conn: psycopg.Connection[Any],
    payment_id: UUID | None = None,
    capture_method: str = "automatic",
    payment_method: str | None = "pm_card_visa",
) -> UUID:
    """Insert a payment of 10 EUR as it stands right after it was accepted."""
    payment_id, cart_id = payment_id or new_id(), uuid4()
    with conn.transaction():
        conn.execute(INSERT_PAYMENT, (payment_id, cart_id, cart_id, capture_method, payment_method))
        insert_event(conn, payment_id, "payment-requested", 1)
    return payment_id


def insert_life(conn: psycopg.Connection[Any], life: Life) -> UUID:
    """Insert the payment of a life, under the id that its snapshots carry."""
    return insert_payment(
        conn,
        payment_id=UUID(life.snapshots[0]["metadata"]["paymentId"]),
        capture_method="manual" if life.is_manual else "automatic",
        payment_method=None if life.is_attended else "pm_card_visa",
    )


def insert_message(  # noqa: PLR0917 - the columns of a row
    conn: psycopg.Connection[Any], source: str, message_id: str, kind: str, payment_id: UUID | None, payload: Any
) -> None:
    """Put a message into the inbox; a repetition meets the row that is there."""
    conn.execute(INSERT_MESSAGE, (source, message_id, kind, payment_id, json.dumps(payload)))


def insert_word(conn: psycopg.Connection[Any], word: Word, payment_id: UUID, number: int) -> None:
    """Put a word of a life into the inbox, an answer as that of call `number`."""
    message_id = word.payload["id"] if word.source == "stripe-webhook" else f"req_{payment_id}/{number}"
    insert_message(conn, word.source, message_id, word.kind, payment_id, word.payload)
