from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import msgspec
import psycopg
import pytest

from payments.database.connections import connect
from payments.outbox.events import PaymentRequested, PaymentVoided, encode, rfc3339
from payments.outbox.rows import append
from tests.development.databases import Database
from tests.relay.outbox_rows import insert_payment

pytestmark = pytest.mark.anyio
AT = datetime(2026, 8, 1, 12, 0, 0, 7, tzinfo=UTC)


def voided(payment_id: UUID) -> PaymentVoided:
    return PaymentVoided(payment_id=payment_id, order_id=UUID(int=2), amount=1, currency="EUR", voided_at=AT)


async def publish(conn: Any, payment_id: UUID, traceparent: str | None = None) -> UUID:
    """Appends the second event of a payment, numbered as the guard of the outbox wants it."""
    async with conn.transaction():
        await conn.execute("update payments.payments set last_sequence = 2 where payment_id = %s", (payment_id,))
        return await append(conn, payment_id, 2, voided(payment_id), AT, traceparent)


async def test_append_writes_the_row_and_its_headers(database: Database) -> None:
    with database.connect() as admin:
        payment_id = insert_payment(admin)
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    async with await connect(database.dsn("payments_worker"), "payments_worker") as conn:
        event_id = await publish(conn, payment_id, trace)
        cursor = await conn.execute(
            "select event_id, event_type, sequence, payload, headers, occurred_at"
            " from payments.outbox where sequence = 2"
        )
        row: Any = await cursor.fetchone()
    assert row[:3] == (event_id, "payment-voided", 2)
    assert row[3] == msgspec.json.decode(encode(voided(payment_id)))
    assert row[5] == AT
    assert row[4]["ce-id"] == str(event_id)
    assert row[4]["ce-time"] == rfc3339(AT)
    assert row[4]["ce-sequence"] == "0000000002"
    assert row[4]["ce-dataschema"] == "urn:payments:event:payment-voided:1"
    assert row[4]["traceparent"] == trace


async def test_append_goes_on_in_the_trace_that_the_payment_began_in(database: Database) -> None:
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    with database.connect() as admin:
        traced, untraced = insert_payment(admin), insert_payment(admin)
        admin.execute("set session_replication_role = replica")  # the outbox is append-only, also for an administrator
        admin.execute(
            "update payments.outbox set headers = headers || jsonb_build_object('traceparent', %s::text)"
            " where aggregate_id = %s",
            (trace, traced),
        )
    async with await connect(database.dsn("payments_worker"), "payments_worker") as conn:
        for payment_id in (traced, untraced):
            await publish(conn, payment_id)
        cursor = await conn.execute(
            "select aggregate_id, headers ->> 'traceparent' from payments.outbox where sequence = 2"
        )
        found = dict(await cursor.fetchall())
    assert found == {traced: trace, untraced: None}


async def test_append_refuses_a_sequence_or_an_outcome_twice(database: Database) -> None:
    with database.connect() as admin:
        payment_id = insert_payment(admin)
    again = PaymentRequested(payment_id=payment_id, order_id=UUID(int=2), amount=1, currency="EUR", requested_at=AT)
    async with await connect(database.dsn("payments_worker"), "payments_worker") as conn:
        await publish(conn, payment_id)
        for sequence, event in ((2, voided(payment_id)), (3, voided(payment_id)), (3, again)):
            with pytest.raises(psycopg.errors.UniqueViolation):
                await append(conn, payment_id, sequence, event, AT)
