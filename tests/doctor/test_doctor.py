"""`payments doctor` on healthy and on broken databases."""

import pytest

from payments.doctor.checks import examine
from payments.doctor.findings import Level
from tests.database.rows import insert_payment
from tests.development.databases import Database

pytestmark = pytest.mark.every_postgres


def faults(database: Database, dsn: str | None = None) -> list[str]:
    findings = examine(dsn or database.admin_dsn())
    return [f"{one.check}: {one.found}" for one in findings if one.level is Level.FAULT and one.check != "durability"]


def test_a_fresh_database_is_well(database: Database) -> None:
    assert faults(database) == []


def test_readonly_may_run_it(database: Database) -> None:
    assert faults(database, database.dsn("payments_readonly")) == []


def test_tests_run_without_fsync_and_it_says_so(database: Database) -> None:
    assert any(one.check == "durability" and one.level is Level.FAULT for one in examine(database.admin_dsn()))


def test_an_empty_database_needs_migrate(empty_database: Database) -> None:
    assert "schema: there is none" in faults(empty_database)


def test_an_older_and_a_newer_schema_are_named(database: Database) -> None:
    with database.connect() as conn:
        conn.execute("insert into payments.schema_migrations values (9999, 'future')")
        assert faults(database) == ["schema: version 9999, later than this release's"]
        conn.execute("delete from payments.schema_migrations")
        assert "schema: version 0, this release needs" in faults(database)[0]


def test_another_cluster_is_named(database: Database) -> None:
    with database.connect() as conn:
        conn.execute("update payments.cluster set system_identifier = '1'")
    assert faults(database) == ["cluster: the database was made in another cluster"]


def test_an_unreachable_database_is_a_finding() -> None:
    findings = examine("postgresql://nobody@127.0.0.1:1/nothing")
    assert [one.check for one in findings] == ["database"]


def test_every_kind_of_trouble_shows(database: Database) -> None:
    with database.connect() as conn:
        lost = insert_payment(conn)
        conn.execute("select payments.dispatch('payment_requested', 10)")
        conn.execute("select pgmq.purge_queue('payment_requested')")
        late = insert_payment(conn)
        conn.execute(
            "update payments.outbox set occurred_at = now() - interval '2 minutes' where aggregate_id = %s", (late,)
        )
        conn.execute(
            "insert into payments.inbox (source, message_id, message_type, payload, received_at, attempts) "
            "values ('stripe-webhook', 'evt_1', 'x', '{}', now() - interval '2 minutes', 3)"
        )
        conn.execute(
            "insert into payments.dead_letters (origin, message_id, payload, attempts, error) "
            "values ('inbox', '1', '{}', 5, 'x')"
        )
    assert faults(database) == [
        "outbox: payment_requested waits for 1 events, for 120 s",
        "inbox: 1 messages older than a minute",
        "dead letters: 1 unsettled",
        f"balance: {lost}: nobody is working on it",
    ]
