"""A consumer's role may read its own queue with pgmq's package, and do nothing else."""

import contextlib
from collections.abc import Iterator

import psycopg
import pytest

from tests.consumers.driving import add, connect, reading
from tests.development.databases import Database
from tests.relay.outbox_rows import Connection, drain, insert_many, insert_payment

pytestmark = pytest.mark.every_postgres
DENIED = psycopg.errors.InsufficientPrivilege


@pytest.fixture(scope="module")
def access(module_database: Database) -> dict[str, str]:
    return add(module_database, "curious", "--events", "dispute.*,payment.requested")


@pytest.fixture(scope="module")
def session(access: dict[str, str]) -> Iterator[Connection]:
    with connect(access) as conn:
        yield conn


def test_the_pgmq_package_does_all_that_reading_needs(database: Database) -> None:
    with database.connect() as admin:
        access = add(database, "fraud", "--events", "#")
        insert_many(admin, 20)
        drain(admin, "fraud")
    with reading(access) as queue:
        first = queue.read("fraud", vt=30)
        assert first is not None
        assert len(queue.read("fraud", vt=30, qty=3)) == 3
        assert len(queue.read_with_poll("fraud", vt=30, qty=2, max_poll_seconds=1)) == 2
        assert queue.set_vt("fraud", first.msg_id, 0).msg_id == first.msg_id
        assert queue.archive("fraud", first.msg_id)
        assert queue.archive_batch("fraud", [2, 3]) == [2, 3]
        assert queue.delete("fraud", 4)
        assert queue.delete_batch("fraud", [5, 6]) == [5, 6]
        assert queue.pop("fraud").msg_id == 7
        assert queue.read_grouped("fraud", vt=30, qty=2)
        assert queue.metrics("fraud").queue_length == 13
    with connect(access) as conn:  # its archive is its own to tidy
        assert len(conn.execute("delete from pgmq.a_fraud returning msg_id").fetchall()) == 3


@pytest.mark.parametrize(
    "statement",
    [
        # other queues
        "select * from pgmq.read('ordering', 1, 1)",
        "select * from pgmq.read('payment_requested', 1, 1)",
        "select * from pgmq.pop('payment_requested')",
        "select pgmq.delete('ordering', 1)",
        "select pgmq.archive('ordering', 1)",
        "select * from pgmq.set_vt('payment_requested', 1, 0)",
        "select * from pgmq.a_ordering",
        "select * from pgmq.metrics('ordering')",
        "select * from pgmq.metrics_all()",
        "select * from pgmq.read_grouped('ordering', 1, 1)",
        "lock table pgmq.q_ordering in access share mode",
        # sending, changing, emptying
        "select pgmq.send('curious', '{}')",
        "select pgmq.send('payment_requested', '{}')",
        "select pgmq.send_batch('ordering', array['{}']::jsonb[])",
        "select pgmq.send_topic('payment.requested', '{}')",
        "update pgmq.q_curious set message = '{}'",
        "update pgmq.a_curious set message = '{}'",
        "select pgmq.purge_queue('curious')",
        # queues and topics
        "select pgmq.create('mine')",
        "select pgmq.create_unlogged('mine')",
        "select pgmq.drop_queue('curious')",
        "select pgmq.drop_queue('ordering')",
        "select pgmq.bind_topic('payment.*', 'curious')",
        "select pgmq.unbind_topic('payment.requested', 'curious')",
        "select pgmq.unbind_topic('payment.requested', 'payment_requested')",
        "select * from pgmq.list_topic_bindings()",
        "select * from pgmq.list_queues()",
        "delete from pgmq.meta",
        "select pgmq.enable_notify_insert('curious')",
        "select pgmq.create_fifo_index('curious')",
        "alter table pgmq.q_curious add column mine int",
        "create index on pgmq.q_curious (vt)",
        "create trigger mine before insert on pgmq.q_curious execute function pgmq.notify_queue_listeners()",
        "create table pgmq.mine (a int)",
        # payments
        "select * from payments.payments",
        "select * from payments.outbox",
        "select * from payments.lanes",
        "select * from payments.audit_imbalances",
        "select payments.dispatch('curious', 1)",
        "select payments.create_lane('mine', 'x', '{#}', true)",
        "select * from payments.queue_lengths()",
        "select payments.rfc3339(now())",
        # the server
        "create role mine",
        "create schema mine",
        "alter role consumer_curious superuser",
        "alter role consumer_curious createdb",
        "alter role consumer_curious connection limit -1",
        "set role payments_owner",
        "set role payments_worker",
        "select pg_read_file('/etc/passwd')",
        "copy pgmq.q_curious to program 'true'",
    ],
)
def test_nothing_else_is_allowed(session: Connection, statement: str) -> None:
    with pytest.raises(DENIED), session.transaction():
        session.execute(statement)


def test_no_function_of_pgmq_lends_its_owners_rights(module_database: Database) -> None:
    with module_database.connect() as admin:
        lending = admin.execute(
            "select proname from pg_proc where pronamespace = 'pgmq'::regnamespace and prosecdef"
        ).fetchall()
    assert lending == [], "PUBLIC may execute pgmq's functions: safe only while each runs with its caller's rights"


def test_public_may_execute_nothing_of_payments(module_database: Database) -> None:
    with module_database.connect() as admin:
        open_to_all = admin.execute(
            """
            select p.proname from pg_proc p, lateral aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) a
            where p.pronamespace = 'payments'::regnamespace and a.grantee = 0 and a.privilege_type = 'EXECUTE'
              and p.prorettype <> 'trigger'::regtype
            """
        ).fetchall()
    assert open_to_all == []


def test_one_consumer_cannot_use_up_the_servers_connections(database: Database) -> None:
    access = add(database, "fraud", "--events", "#")
    with contextlib.ExitStack() as opened:
        for _ in range(20):
            opened.enter_context(connect(access))
        with pytest.raises(psycopg.OperationalError, match="too many connections for role"):
            connect(access)


def test_the_services_own_roles_still_work(database: Database) -> None:
    add(database, "fraud", "--events", "#")
    with database.connect() as admin, database.connect("payments_relay") as relay:
        insert_payment(admin)
        assert drain(relay, "fraud") == 1
    with database.connect("payments_readonly") as dba:
        assert dba.execute("select count(*) from pgmq.q_fraud").fetchone() == (1,)
