"""What the service's roles can do with pgmq: PUBLIC may execute every function, each with its caller's rights."""

import contextlib
from typing import Any

import psycopg
import pytest

from tests.development.databases import Database

pytestmark = pytest.mark.every_postgres
DENIED = psycopg.errors.InsufficientPrivilege
SERVICE = ["payments_api", "payments_relay", "payments_worker", "payments_readonly"]
QUEUES = ["payment_requested", "refund_requested", "capture_requested", "void_requested", "ordering"]
# Each in the form in which an attacker would call it.
POWERS = [
    "pgmq.create('mine')",
    "pgmq.create_unlogged('mine')",
    "pgmq.create_non_partitioned('mine')",
    "pgmq.drop_queue({queue})",
    "pgmq.purge_queue({queue})",
    "pgmq.detach_archive({queue})",
    "pgmq.bind_topic('#', {queue})",
    "pgmq.unbind_topic('payment.requested', 'payment_requested')",
    "pgmq.enable_notify_insert({queue}, 0)",
    "pgmq.disable_notify_insert({queue})",
    "pgmq.update_notify_insert({queue}, 1)",
    "pgmq.create_fifo_index({queue})",
    "pgmq.create_fifo_indexes_all()",
    "pgmq.archive({queue}, 1)",
    "pgmq.metrics_all()",
]
MESSAGES = [
    "pgmq.send({queue}, '{{}}'::jsonb)",
    "pgmq.send({queue}, '{{}}'::jsonb, '{{}}'::jsonb, 0)",
    "pgmq.send_batch({queue}, array['{{}}'::jsonb])",
    "pgmq.read({queue}, 30, 1)",
    "pgmq.read_grouped({queue}, 30, 1)",
    "pgmq.read_with_poll({queue}, 30, 1, 1, 100)",
    "pgmq.pop({queue})",
    "pgmq.delete({queue}, 1)",
    "pgmq.set_vt({queue}, 1, 3600)",
    "pgmq.metrics({queue})",
]


@pytest.mark.parametrize("role", SERVICE)
@pytest.mark.parametrize("call", POWERS)
def test_no_role_makes_drops_empties_or_binds_a_queue(module_database: Database, role: str, call: str) -> None:
    """Every function of pgmq may be executed by PUBLIC; what holds is that each acts with its caller's rights."""
    with module_database.connect() as admin, module_database.connect(role) as conn:
        before = queues(admin)
        for queue in QUEUES:
            # To whoever may not see a queue, pgmq says that there is none; detach_archive does nothing any more.
            with contextlib.suppress(DENIED, psycopg.errors.RaiseException):
                row = conn.execute("select " + call.format(queue=f"'{queue}'")).fetchone()
                assert "detach" in call or ("drop" in call and row == (False,))
        assert queues(admin) == before


def queues(admin: psycopg.Connection[Any]) -> list[Any]:
    return admin.execute(
        """
        select m.queue_name, t.pattern, c.relname from pgmq.meta m left join pgmq.topic_bindings t using (queue_name)
        left join pg_class c on c.relname in ('q_' || m.queue_name, 'a_' || m.queue_name) order by 1, 2, 3
        """
    ).fetchall()


@pytest.mark.parametrize("role", ["payments_api", "payments_readonly"])
@pytest.mark.parametrize("call", MESSAGES)
def test_the_api_and_the_dbas_touch_no_message(module_database: Database, role: str, call: str) -> None:
    with module_database.connect(role) as conn:
        for queue in QUEUES:
            if role == "payments_readonly" and "metrics(" in call:
                continue  # looking is theirs
            with pytest.raises(DENIED):
                conn.execute("select " + call.format(queue=f"'{queue}'"))


@pytest.mark.parametrize("call", MESSAGES)
def test_the_worker_touches_only_the_queues_of_commands(module_database: Database, call: str) -> None:
    with module_database.connect("payments_worker") as conn, pytest.raises(DENIED):
        conn.execute("select " + call.format(queue="'ordering'"))


@pytest.mark.parametrize("call", [call for call in MESSAGES if "send" not in call])
def test_the_relay_sends_and_never_reads(module_database: Database, call: str) -> None:
    with module_database.connect("payments_relay") as conn:
        for queue in QUEUES:
            with pytest.raises(DENIED):
                conn.execute("select " + call.format(queue=f"'{queue}'"))


@pytest.mark.parametrize("role", ["payments_api", "payments_worker", "payments_readonly"])
def test_nobody_sends_by_topic(module_database: Database, role: str) -> None:
    for key in ("payment.succeeded", "dispute.opened"):
        with module_database.connect(role) as conn, pytest.raises(DENIED):
            conn.execute("select pgmq.send_topic(%s, '{}'::jsonb)", (key,))
