"""Rows put in place by hand, as a superuser, for tests that begin in the middle of a payment's life."""

from typing import Any
from uuid import UUID, uuid4

import psycopg

from payments.domain.identifiers import new_id

INSERT_PAYMENT = """
insert into payments.payments (
  payment_id, cart_id, order_id, amount, currency, capture_method, payment_method, client_id, fingerprint
)
values (%(payment_id)s, %(cart_id)s, %(cart_id)s, %(amount)s, 'EUR', %(capture_method)s, 'pm_card_visa', 'tests',
  sha256('tests'::bytea))
"""


def insert_payment(conn: psycopg.Connection[Any], amount: int = 1000, capture_method: str = "automatic") -> UUID:
    """Insert a payment as it stands right after it was accepted, its `payment-requested` event included."""
    payment_id = new_id()
    values = {"payment_id": payment_id, "cart_id": uuid4(), "amount": amount, "capture_method": capture_method}
    with conn.transaction():
        conn.execute(INSERT_PAYMENT, values)
        insert_event(conn, payment_id, "payment-requested", 1)
    return payment_id


def insert_event(conn: psycopg.Connection[Any], payment_id: UUID, event_type: str, sequence: int) -> None:
    """Insert one outbox row with its CloudEvents headers."""
    conn.execute(
        """
        insert into payments.outbox (event_id, event_type, aggregate_id, sequence, payload, headers)
        values (%(event_id)s, %(event_type)s, %(payment_id)s, %(sequence)s,
          jsonb_build_object('paymentId', %(payment_id)s::uuid),
          payments.event_headers(%(event_id)s, %(event_type)s, %(payment_id)s, %(sequence)s, now(), null))
        """,
        {"event_id": new_id(), "event_type": event_type, "payment_id": payment_id, "sequence": sequence},
    )
