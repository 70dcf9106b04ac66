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


def insert_refund(conn: psycopg.Connection[Any], payment_id: UUID, amount: int, reason: str | None = None) -> UUID:
    """Insert a refund as it stands when it is asked for; its event is left out."""
    refund_id = new_id()
    conn.execute(
        "insert into payments.refunds (refund_id, payment_id, amount, currency, reason) values (%s, %s, %s, 'EUR', %s)",
        (refund_id, payment_id, amount, reason),
    )
    return refund_id


# What a status needs beside its name.
_COLUMNS = {
    "FAILED": "failure_reason = 'CARD_DECLINED'",
    "ACTION_REQUIRED": "next_action = '{}'",
    "SUCCEEDED": "amount_authorized = amount, amount_captured = amount",
    "AUTHORIZED": "amount_authorized = amount",
    "CAPTURING": "amount_authorized = amount, capture_id = gen_random_uuid(), amount_to_capture = amount",
}
_BLANK = ("failure_reason = null", "next_action = null", "amount_authorized = 0", "amount_captured = 0")


def settle(conn: psycopg.Connection[Any], payment_id: UUID, status: str) -> None:
    """Set a payment's status with the columns that belong to it, by legal steps, and nothing else."""
    if status == "REQUESTED":
        return
    for step in ["AUTHORIZED", "CAPTURING"] if status == "CAPTURING" else [status]:
        wanted = _COLUMNS.get(step, "")
        rest = [part for part in _BLANK if part.split(" =")[0] not in wanted]
        columns = ", ".join(filter(None, [*rest, wanted]))
        conn.execute(
            f"update payments.payments set status = %s, {columns} where payment_id = %s",
            (step, payment_id),
        )
