"""`payments doctor` on healthy and on broken databases."""

import subprocess
import time
from argparse import Namespace
from pathlib import Path
from uuid import uuid4

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from payments.commands import doctor
from payments.doctor import checks
from payments.doctor.checks import examine
from payments.doctor.findings import Finding, Level
from payments.domain.states import PaymentStatus
from payments.settings import Settings
from tests.conftest import wait_until
from tests.database.rows import insert_payment, insert_refund, settle
from tests.development.databases import Database
from tests.postgres_faults.missing_standby import missing_standby

pytestmark = pytest.mark.every_postgres


def findings_of(database: Database, dsn: str | None = None, **settings: str) -> list[Finding]:
    return examine(dsn or database.admin_dsn(), Settings.load(settings))


def faults(database: Database, dsn: str | None = None, **settings: str) -> list[str]:
    findings = findings_of(database, dsn, **settings)
    return [f"{one.check}: {one.found}" for one in findings if one.level is Level.FAULT and one.check != "durability"]


def test_a_fresh_database_is_well(database: Database) -> None:
    assert faults(database) == []


def test_readonly_may_run_it(database: Database) -> None:
    assert faults(database, database.dsn("payments_readonly")) == []


def test_tests_run_without_fsync_and_it_says_so(database: Database) -> None:
    assert any(one.check == "durability" and one.level is Level.FAULT for one in findings_of(database))


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
    assert faults(database) == ["cluster: the database was restored from another cluster, and no process works on it"]


def test_an_unreachable_database_is_a_finding() -> None:
    findings = examine("postgresql://nobody@127.0.0.1:1/nothing", Settings.load({}))
    assert [one.check for one in findings] == ["database"]


def test_a_login_that_may_not_look_is_a_finding(database: Database) -> None:
    *before, found = findings_of(database, database.dsn("payments_relay"))
    assert {one.check for one in before} >= {"server", "roles", "schema"}, "what was found until then counts"
    assert (found.level, found.check) == (Level.FAULT, "database")
    assert "may not do this" in found.found
    assert "administrator" in (found.advice or "")


def test_a_connection_that_breaks_takes_no_finding_along(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    def cut(conn: psycopg.Connection) -> None:
        with database.connect() as other:
            other.execute("select pg_terminate_backend(%s, 5000)", (conn.info.backend_pid,))
        conn.execute("select 1")

    monkeypatch.setattr(checks, "_imbalances", cut)
    *before, found = findings_of(database)
    assert {one.check for one in before} >= {"server", "roles", "schema", "outbox", "inbox", "reconciler"}
    assert (found.level, found.check) == (Level.FAULT, "database")


def test_what_others_said_is_printed_as_it_is(
    database: Database, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(checks, "_imbalances", lambda _: [("p1", "payment_method_data[card] [/red] :bug:")])
    doctor.run(Namespace(), Settings.load({"DATABASE_URL": database.admin_dsn()}))
    assert "balance: p1: payment_method_data[card] [/red] :bug:" in capsys.readouterr().out


def test_commits_that_wait_in_vain_are_named(database: Database) -> None:
    readonly = database.dsn("payments_readonly")
    with missing_standby(database):
        assert faults(database, readonly) == ["standby: commits wait for a synchronous standby, and none is there"]
        with database.connect(dbname="postgres") as conn:
            conn.execute("set synchronous_commit = off")
            conn.execute(f'alter database "{database.name}" set synchronous_commit = local')
        assert faults(database) == ["standby: commits do not wait for the synchronous standby"]


def standby_as_seen(database: Database, dsn: str | None = None) -> list[str]:
    return [one.found for one in findings_of(database, dsn) if one.check == "standby"]


def test_commits_that_wait_for_another_standby_than_is_there_are_named(database: Database) -> None:
    with missing_standby(database), database.connect(replication="true", application_name="somebody"):
        assert standby_as_seen(database) == ["commits wait for a synchronous standby, and none is there"]
        readonly = database.dsn("payments_readonly")
        assert standby_as_seen(database, readonly) == ["commits wait for it"], "it may not see of which kind it is"


def test_a_standby_that_commits_wait_for_is_well(database: Database, tmp_path: Path) -> None:
    dsn = make_conninfo(database.admin_dsn(), application_name="nobody")
    receive = [database.server.postgres.bin_dir / "pg_receivewal", "--synchronous", "--directory", tmp_path]
    with missing_standby(database), subprocess.Popen([*receive, "--dbname", dsn]) as standby:
        try:
            wait_until(lambda: standby_as_seen(database) == ["commits wait for it"])
        finally:
            standby.terminate()


def test_an_audit_that_does_not_run_is_named(database: Database) -> None:
    def stale() -> list[str]:
        return [one.found for one in findings_of(database) if one.check == "audit"]

    with database.connect() as conn:
        insert_payment(conn)
        assert stale() == []
        conn.execute(
            "insert into payments.audit_progress (seen, ran_at) values ('3:3:', now() - interval '11 minutes')"
        )
        assert stale() == ["our books were last compared 11 minutes ago"]
        conn.execute("update payments.audit_progress set ran_at = now()")
        assert stale() == []


def test_books_too_long_to_be_read_are_told_of_by_the_last_audit(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checks, "AUDIT_WAIT_MS", 1)
    with database.connect() as conn:
        conn.execute(
            "create or replace view payments.audit_imbalances as"
            " select payment_id, 'x' as imbalance, 'y' as kind, array['z'] as also from payments.payments, pg_sleep(1)"
        )
        conn.execute(
            "insert into payments.audit_findings (kind, subject, payment_id, finding)"
            " select 'history_off', i::text, i, 'SUCCEEDED, its history says FAILED' from gen_random_uuid() i"
        )
    assert [one.endswith("its history says FAILED") for one in faults(database)] == [True]


@pytest.mark.parametrize("off_s", [40, 400])
def test_a_host_whose_clock_is_off_is_named(database: Database, monkeypatch: pytest.MonkeyPatch, off_s: int) -> None:
    """Long before the API refuses Stripe's webhooks for it."""
    assert [one for one in findings_of(database) if one.check == "clock"] == []
    real = time.time
    monkeypatch.setattr("payments.doctor.checks.time.time", lambda: real() - off_s)
    (found,) = (one for one in findings_of(database) if one.check == "clock")
    assert (found.level, found.found) == (Level.WARNING, f"this host is {off_s} s behind the database")


def test_every_kind_of_trouble_shows(database: Database) -> None:
    with database.connect() as conn:
        lost = insert_payment(conn)
        conn.execute("select payments.dispatch('payment_requested', 10)")
        conn.execute("select pgmq.purge_queue('payment_requested')")
        late = insert_payment(conn)
        conn.execute("alter table payments.outbox disable trigger user")
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
        conn.execute("insert into payments.watches values (%s, 1, now() - interval '6 minutes')", (late,))
        for number, state in enumerate(("to_reconcile", "parked")):
            conn.execute(
                "insert into payments.stripe_requests"
                " (payment_id, subject_id, operation, idempotency_key, parameters, state, created_at)"
                " values (%s, %s, 'create_payment_intent', %s, '{}', %s, now() - interval '16 minutes')",
                (late, uuid4(), str(number), state),
            )
    assert faults(database) == [
        "outbox: payment_requested waits for 1 events, for 120 s",
        "inbox: 1 messages older than a minute",
        "reconciler: 1 payments should have been looked at five minutes ago",
        "reconciler: 1 calls in doubt for a quarter of an hour",
        "stripe: 1 calls are parked",
        "dead letters: 1 unsettled",
        f"balance: {lost}: nobody is working on it",
    ]


def test_what_hangs_in_a_state_that_should_pass_is_named(database: Database) -> None:
    def hanging() -> set[str]:
        return {one.found for one in findings_of(database) if one.check == "payments"}

    with database.connect() as conn:
        for status in PaymentStatus:
            payment_id = insert_payment(conn)
            settle(conn, payment_id, status)
            if status is PaymentStatus.SUCCEEDED:
                insert_refund(conn, payment_id, 100)
        assert hanging() == set()
        conn.execute("set session_replication_role = replica")  # or the guards would set the time anew
        for table in ("payments", "refunds"):
            conn.execute(f"update payments.{table} set updated_at = now() - interval '6 minutes'")
    passing = ("REQUESTED", "PROCESSING", "CAPTURING", "VOIDING", "CONFLICTED", "refund REQUESTED")
    assert hanging() == {f"1 in {status} for five minutes or more" for status in passing}


def test_a_parked_call_that_was_discarded_is_no_trouble_any_more(database: Database) -> None:
    with database.connect() as conn:
        payment_id = insert_payment(conn)
        conn.execute(
            "insert into payments.stripe_requests"
            " (payment_id, subject_id, operation, idempotency_key, parameters, state)"
            " values (%s, %s, 'create_payment_intent', 'x', '{}', 'parked')",
            (payment_id, payment_id),
        )
        assert "stripe: 1 calls are parked" in faults(database)
        conn.execute(
            "insert into payments.dead_letters (origin, message_id, payment_id, payload, attempts, error, resolved_at,"
            " resolution) values ('queue:payment_requested', 'x', %s, '{}', 1, 'x', '-infinity', 'discarded: known')",
            (payment_id,),
        )
        assert "stripe: 1 calls are parked" in faults(database), "what was discarded before was another trouble"
        conn.execute("update payments.dead_letters set resolved_at = now()")
    assert faults(database) == []


def test_what_the_settings_let_wait_is_not_overdue(database: Database) -> None:
    """A first look that is due after an hour, and a day between two looks at Stripe's events."""
    with database.connect() as conn:
        payment_id = insert_payment(conn)
        conn.execute("delete from payments.watches")
        conn.execute("insert into payments.watches values (%s, 0, now() - interval '50 minutes')", (payment_id,))
        conn.execute(
            "insert into payments.stripe_requests"
            " (payment_id, subject_id, operation, idempotency_key, parameters, state, created_at)"
            " values (%s, %s, 'create_payment_intent', 'x', '{}', 'to_reconcile', now() - interval '50 minutes')",
            (payment_id, payment_id),
        )
        conn.execute(
            "insert into payments.reconciler_progress (job, position, updated_at)"
            " values ('events', now(), now() - interval '20 hours')"
        )

    def overdue(**settings: str) -> list[str]:
        return [one.found for one in findings_of(database, **settings) if one.check == "reconciler"]

    assert overdue(PAYMENTS_RECONCILE_AFTER_S="3600", PAYMENTS_EVENTS_BACKFILL_S="86400") == ["nothing is overdue"]
    assert overdue() == [
        "1 payments should have been looked at five minutes ago",
        "1 calls in doubt for a quarter of an hour",
        "Stripe's events were last compared 1200 minutes ago",
    ]


def test_events_that_are_far_behind_are_named(database: Database) -> None:
    """Though they are compared all the time; at Stripe's present ten minutes are in doubt, and not behind."""

    def behind(minutes: int) -> list[str]:
        with database.connect() as conn:
            conn.execute(
                "insert into payments.reconciler_progress (job, position)"
                " values ('events', now() - make_interval(mins => %s))"
                " on conflict (job) do update set position = excluded.position",
                (minutes,),
            )
        settings = {"PAYMENTS_EVENTS_BACKFILL_S": "300"}
        return [one.found for one in findings_of(database, **settings) if one.check == "reconciler"]

    assert behind(29) == ["nothing is overdue"]
    assert behind(31) == ["Stripe's events are compared up to 31 minutes ago only"]
