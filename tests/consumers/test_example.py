"""examples/ordering_consumer.py: what docs/consumers.md shows does what it promises."""

import importlib.util
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType
from typing import Any
from uuid import UUID

import psycopg
import pytest
from pgmq import PGMQueue
from psycopg.types.json import Jsonb

from payments.domain.identifiers import new_id
from payments.outbox.events import (
    Event,
    PaymentAuthorized,
    PaymentSucceeded,
    RefundFailed,
    RefundProcessed,
    encode,
)
from tests.consumers.driving import add, reading
from tests.development.databases import Database, TestServer
from tests.relay.outbox_rows import Connection

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "examples" / "ordering_consumer.py"
Eventually = Callable[..., Any]


@pytest.fixture(scope="module")
def example() -> ModuleType:
    spec = importlib.util.spec_from_file_location("ordering_consumer", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def orders(postgres_server: TestServer, example: ModuleType) -> Iterator[Connection]:
    """Ordering's own database."""
    with postgres_server.fresh_database(migrated=False) as fresh, fresh.connect() as conn:
        conn.execute(example.SCHEMA)
        yield conn


@pytest.fixture
def queue(database: Database) -> Iterator[PGMQueue]:
    with reading(add(database, "ordering")) as opened:
        yield opened


@pytest.fixture
def admin(database: Database) -> Iterator[Connection]:
    with database.connect() as conn:
        yield conn


MONEY: dict[str, Any] = {"order_id": new_id(), "amount": 1999, "currency": "EUR"}
AT = datetime(2026, 8, 1, 12, tzinfo=UTC)


def send(conn: Connection, event: Event, sequence: int, event_id: UUID | None = None, **headers: object) -> UUID:
    """A message as the relay sends it; `headers` replaces some of them."""
    event_id = event_id or new_id()
    conn.execute(
        """
        select pgmq.send(
          'ordering', %s::jsonb, payments.event_headers(%s, %s, %s, %s, %s, null) || %s::jsonb
        )
        """,
        (encode(event).decode(), event_id, event.event_type, event.payment_id, sequence, AT, Jsonb(headers)),
    )
    return event_id


def end_leases(conn: Connection) -> None:
    conn.execute("update pgmq.q_ordering set vt = now()")


def latest(conn: Connection) -> dict[UUID, tuple[int, str]]:
    return {row[0]: (row[1], row[2]) for row in conn.execute("select subject, sequence, event from latest")}


def outcomes(example: ModuleType, queue: PGMQueue, orders: Connection, count: int) -> list[str]:
    """What becomes of the next messages, each handled but not yet archived: as before a crash."""
    messages = queue.read("ordering", qty=count)
    assert len(messages) == count
    return [example.handle(orders, example.Contract(), one) for one in sorted(messages, key=lambda one: one.msg_id)]


def test_news_are_applied_once_and_the_latest_stays(
    example: ModuleType, queue: PGMQueue, orders: Connection, admin: Connection
) -> None:
    payment, first, second = new_id(), new_id(), new_id()
    refund: dict[str, Any] = {"payment_id": payment, **MONEY}
    send(admin, PaymentSucceeded(payment_id=payment, **MONEY, succeeded_at=AT), 3)
    send(admin, PaymentAuthorized(payment_id=payment, **MONEY, authorized_at=AT), 2)  # overtaken
    send(admin, RefundProcessed(**refund, refund_id=first, processed_at=AT), 6)
    send(admin, RefundFailed(**refund, refund_id=first, failed_at=AT), 8)
    send(admin, RefundProcessed(**refund, refund_id=second, processed_at=AT), 7)  # another refund: not stale
    assert outcomes(example, queue, orders, 5) == ["applied", "stale", "applied", "applied", "applied"]
    told = {payment: (3, "payment-succeeded"), first: (8, "refund-failed"), second: (7, "refund-processed")}
    assert latest(orders) == told
    # It died before it could archive anything: all of it comes again, and changes nothing.
    end_leases(admin)
    assert outcomes(example, queue, orders, 5) == ["repeated"] * 5
    assert latest(orders) == told


def test_a_broken_message_is_set_aside_and_the_others_go_on(
    example: ModuleType, queue: PGMQueue, orders: Connection, admin: Connection
) -> None:
    payment = new_id()
    good = PaymentSucceeded(payment_id=payment, **MONEY, succeeded_at=AT)
    send(admin, good, 2, **{"ce-sequence": "2"})
    send(admin, good, 2, **{"ce-id": "no uuid"})
    admin.execute("select pgmq.send('ordering', '{}')")
    admin.execute("select pgmq.send('ordering', 'null', '[]'::jsonb)")
    send(admin, good, 3, **{"ce-type": "payment-failed", "ce-dataschema": "urn:payments:event:payment-failed:1"})
    send(admin, good, 4, **{"ce-type": "payment-teleported"})  # of a later release: nothing is wrong with it
    send(admin, good, 5)
    assert example.work(queue, orders, example.Contract()) == 7
    assert latest(orders) == {payment: (5, "payment-succeeded")}
    why = [row[0] for row in orders.execute("select why from set_aside order by queue_id")]
    assert [text.split(":")[0] for text in why] == [
        "headers",
        "headers",
        "no ce-type in the headers",
        "no ce-type in the headers",
        "payload",
    ]
    assert "reason" in why[-1]
    assert admin.execute("select count(*) from pgmq.q_ordering").fetchone() == (0,)
    assert admin.execute("select count(*) from pgmq.a_ordering").fetchone() == (7,)


def test_what_fails_again_and_again_is_set_aside(
    example: ModuleType, queue: PGMQueue, orders: Connection, admin: Connection
) -> None:
    payment = new_id()
    orders.execute("alter table latest add constraint bug check (sequence <> 2)")
    send(admin, PaymentSucceeded(payment_id=payment, **MONEY, succeeded_at=AT), 2)
    for _ in range(example.READS_MAX):
        message = queue.read("ordering")
        with pytest.raises(psycopg.errors.CheckViolation):
            example.handle(orders, example.Contract(), message)
        assert orders.execute("select count(*) from heard").fetchone() == (0,), "nothing of it stays behind"
        end_leases(admin)
    assert example.work(queue, orders, example.Contract()) == 1
    assert orders.execute("select why from set_aside").fetchone() == (
        f"read {example.READS_MAX + 1} times without success",
    )
    assert admin.execute("select count(*) from pgmq.q_ordering").fetchone() == (0,)


def test_the_script_runs_until_told_to_stop_through_a_restart_of_its_database(
    database: Database, orders: Connection, admin: Connection, eventually: Eventually
) -> None:
    access = add(database, "ordering")
    orders_dsn = database.server.admin_dsn(orders.info.dbname)
    environment = {**os.environ, "PAYMENTS_DSN": access["dsn"], "ORDERS_DSN": orders_dsn}
    process = subprocess.Popen([sys.executable, str(SCRIPT)], env=environment, stderr=subprocess.PIPE, text=True)
    try:
        payment = new_id()
        send(admin, PaymentAuthorized(payment_id=payment, **MONEY, authorized_at=AT), 2)
        eventually(lambda: latest(orders) == {payment: (2, "payment-authorized")}, 30)
        admin.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity where pid <> pg_backend_pid() and datname = %s",
            (orders.info.dbname,),
        )
        send(admin, PaymentSucceeded(payment_id=payment, **MONEY, succeeded_at=AT), 3)
        with psycopg.connect(orders_dsn, autocommit=True) as again:
            eventually(lambda: latest(again) == {payment: (3, "payment-succeeded")}, 60)
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=30)
        assert process.returncode == 0, said
        assert "Traceback" not in said
    finally:
        process.kill()
        process.wait()


def test_the_page_shows_the_example_word_by_word() -> None:
    page = (ROOT / "docs" / "consumers.md").read_text()
    shown = re.findall(r"^```python\n(.+?)^```", page, re.MULTILINE | re.DOTALL)
    assert shown
    for block in shown:
        assert block in SCRIPT.read_text()
