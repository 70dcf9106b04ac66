"""What a run of the audit looks at: whatever changed, however late it commits, and in laps the rest; and its cost."""

import math
from dataclasses import replace
from typing import Any
from unittest.mock import AsyncMock
from uuid import UUID

import psycopg
import pytest

from bench.audit import settle
from payments.database.queries import load_queries
from payments.reconciler import audit as audit_module
from payments.reconciler.audit import audit
from payments.settings import Settings
from tests.audit.driving import ROLE, Auditor
from tests.audit.sound_books import PAYMENTS, id_of, past_the_triggers
from tests.audit.spoilt_books import PLACES, moved, moved_otherwise
from tests.database import rows
from tests.development.databases import Database

pytestmark = pytest.mark.anyio
HISTORY = 12_000
SLICE = 20
# A handful of index lookups a rule, and three pages each; the whole of these books are some 4,000 pages.
LOOKING_MAX = 80 * SLICE
CHOOSING_MAX = 200


@pytest.fixture
def only_what_it_is_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    """And slices of one: no lap finds by chance what a run should have looked at."""
    monkeypatch.setattr(audit_module, "SLICE_MIN", 1)
    monkeypatch.setattr(audit_module, "LAP_RUNS_MAX", 1_000_000)


def misnumber(conn: psycopg.Connection[Any]) -> UUID:
    """The last payment's next event has a number too high."""
    ((changed,),) = conn.execute("select aggregate_id from payments.outbox order by outbox_id desc limit 1").fetchall()
    conn.execute("set local session_replication_role = replica")
    conn.execute("update payments.payments set last_sequence = 4 where payment_id = %s", (changed,))
    conn.execute(
        "insert into payments.outbox (event_id, event_type, aggregate_id, sequence, payload, headers)"
        " values (gen_random_uuid(), 'payment-authorized', %s, 3, '{}', '{}')",
        (changed,),
    )
    return UUID(str(changed))


@pytest.mark.usefixtures("only_what_it_is_told_of")
async def test_a_change_that_commits_late_is_looked_at(database: Database) -> None:
    async with Auditor.on(database) as auditor:
        settle(auditor.conn, 1, 50)
        await audit(auditor.around)
        with database.connect(autocommit=False) as slow:
            changed = misnumber(slow)
            settle(auditor.conn, 51, 60)  # later ids, later transactions, committed before
            await audit(auditor.around)
            assert auditor.findings() == []
            slow.commit()
        await audit(auditor.around)
        assert auditor.findings() == [(changed, "events_misnumbered")]


@pytest.mark.usefixtures("only_what_it_is_told_of")
async def test_a_run_that_breaks_off_has_not_looked(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    async with Auditor.on(database) as auditor:
        settle(auditor.conn, 1, 50)
        await audit(auditor.around)
        with auditor.conn.transaction():
            changed = misnumber(auditor.conn)
        with monkeypatch.context() as broken:
            broken.setattr(audit_module, "_look", AsyncMock(side_effect=psycopg.OperationalError("gone")))
            with pytest.raises(psycopg.OperationalError):
                await audit(auditor.around)
        await audit(auditor.around)
        assert auditor.findings() == [(changed, "events_misnumbered")]


async def test_what_nobody_told_of_is_found_within_a_lap(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit_module, "SLICE_MIN", 3)
    async with Auditor.on_sound_books(database) as auditor:
        await audit(auditor.around)
        with past_the_triggers(auditor.conn):
            auditor.conn.execute(
                "update payments.payments set last_sequence = last_sequence + 1"
                " where status in ('SUCCEEDED', 'FAILED', 'VOIDED')"
            )
        expected = [(id_of(name), "events_misnumbered") for name in ("paid", "disputed", "failed", "late", "lost")]
        assert auditor.view() == expected
        for _ in range(2 * math.ceil(len(PAYMENTS) / 3)):
            await audit(auditor.around)
        assert auditor.findings() == expected
        row = auditor.conn.execute("select last_lap_began_at is not null from payments.audit_progress").fetchone()
        assert row == (True,)


async def test_a_lap_counts_from_its_beginning_once_it_is_whole(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A lap that stands still must show: until the next one is whole, the time of the last one stands."""
    monkeypatch.setattr(audit_module, "SLICE_MIN", 3)
    async with Auditor.on_sound_books(database) as auditor:
        query = "select lap_at is null, lap_began_at, last_lap_began_at from payments.audit_progress"
        last_whole = None
        for _ in range(2):
            is_whole, began = False, None
            while not is_whole:
                await audit(auditor.around)
                ((is_whole, lap_began, last_began),) = auditor.conn.execute(query).fetchall()
                began = began or lap_began
                assert lap_began == began
                assert last_began == (began if is_whole else last_whole)
            assert began != last_whole
            last_whole = began


@pytest.mark.usefixtures("only_what_it_is_told_of")
@pytest.mark.parametrize(("read_every_s", "minutes"), [("30", 3), ("3600", 65)])
async def test_what_the_balance_brings_is_looked_at_until_it_may_be_compared(
    database: Database, read_every_s: str, minutes: int
) -> None:
    """It has to be at rest first, so the runs that follow at once find nothing, and must not be the last."""
    async with Auditor.on_sound_books(database) as auditor:
        auditor.around = replace(auditor.around, settings=Settings.load({"PAYMENTS_EVENTS_BACKFILL_S": read_every_s}))
        await audit(auditor.around)
        with past_the_triggers(auditor.conn):
            auditor.conn.execute(moved("failed", "charge", "ch_9", 1000), PLACES)
            just_now = "(select updated_at from payments.reconciler_progress where job = 'balance')"
            auditor.conn.execute(moved_otherwise("ch_9", f"seen_at = {just_now}"))
            await audit(auditor.around)
            assert auditor.findings() == []
            auditor.conn.execute(moved_otherwise("ch_9", f"seen_at = now() - interval '{minutes} minutes'"))
        await audit(auditor.around)
        assert auditor.findings() == [(id_of("failed"), "balance_captured_off")]


@pytest.mark.parametrize(("status", "kind"), [("REQUESTED", "refund_unowned"), ("PENDING", "refund_unwatched")])
async def test_open_refunds_are_looked_at_by_every_run(database: Database, status: str, kind: str) -> None:
    """Whoever should work on one may be lost without a word, and its payment is settled: no turn of its for long."""
    async with Auditor.on(database) as auditor:
        with past_the_triggers(auditor.conn):
            payment_id = rows.insert_payment(auditor.conn)
            rows.settle(auditor.conn, payment_id, "SUCCEEDED")
            refund_id = rows.insert_refund(auditor.conn, payment_id, 100)
            auditor.conn.execute(
                "update payments.refunds set status = %s, processor_reference = 're_1' where refund_id = %s",
                (status, refund_id),
            )
        auditor.conn.execute(
            "insert into payments.audit_progress (seen, lap_at) values (pg_current_snapshot(), %s)",
            (UUID(int=2**128 - 1),),
        )
        await audit(auditor.around)
        assert auditor.findings() == [(payment_id, kind)]


@pytest.mark.parametrize("cluster", ["with higher ids", "with lower ids"])
async def test_a_snapshot_of_another_cluster_misleads_nobody(database: Database, cluster: str) -> None:
    seen = {"with higher ids": "9999999:9999999:", "with lower ids": "3:3:"}[cluster]
    async with Auditor.on_sound_books(database) as auditor:
        await audit(auditor.around)
        auditor.conn.execute("update payments.audit_progress set seen = %s, lap_at = %s", (seen, UUID(int=2**128 - 1)))
        with past_the_triggers(auditor.conn):
            auditor.conn.execute(
                "update payments.payments set disputed = true where payment_id = %s", (id_of("failed"),)
            )
        await audit(auditor.around)
        assert auditor.findings() == [(id_of("failed"), "disputed_off")]
        row = auditor.conn.execute("select pg_snapshot_xmax(seen) < '9999999' from payments.audit_progress").fetchone()
        assert row == (True,)


def cost(database: Database) -> dict[str, int]:
    """The buffers that each statement of a run touches, as the worker runs them."""
    queries = load_queries("audit")
    values = {
        "slice_min": SLICE,
        "lap_runs_max": 1_000_000,
        "open_max": SLICE,
        "told_max": 1_000,
        "balance_every_s": 30,
    }
    found: dict[str, int] = {}
    with database.connect(ROLE) as conn, conn.transaction():
        conn.execute("set local enable_seqscan = off")  # as guard_plans does
        row = conn.execute(queries["list_due"], values).fetchone()
        assert row is not None
        assert len(row[0]) == SLICE
        looking = {"payment_ids": row[0]}
        for what, query, asked in (("choosing", "list_due", values), ("looking", "look", looking)):
            conn.execute(queries[query], asked)  # what is looked up in the catalogs for a first plan is not counted
            row = conn.execute(b"explain (analyze, buffers, format json) " + queries[query], asked).fetchone()
            assert row is not None
            plan = row[0][0]["Plan"]
            found[what] = plan["Shared Hit Blocks"] + plan["Shared Read Blocks"]
    return found


@pytest.mark.every_postgres
async def test_cost_of_a_run_is_independent_of_how_many_are_settled(database: Database) -> None:
    with database.connect() as conn:
        for table in ("payments", "outbox", "inbox", "payment_history", "stripe_requests"):
            conn.execute(f"alter table payments.{table} set (autovacuum_enabled = off)")
        settle(conn, 1, 100)
        conn.execute("analyze")
        settle(conn, 101, HISTORY)
        conn.execute(
            "insert into payments.audit_progress (seen, lap_at) values"
            " (pg_current_snapshot(), '018f0000-0000-7000-8000-000000000007')"
        )
        by_statistics_of_long_ago = cost(database)
        conn.execute("vacuum analyze")
        for found in (by_statistics_of_long_ago, cost(database)):
            assert found["looking"] <= LOOKING_MAX, found
            assert found["choosing"] <= CHOOSING_MAX, found


@pytest.mark.usefixtures("only_what_it_is_told_of")
async def test_every_payment_of_a_large_run_is_looked_at(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit_module, "CHUNK", 3)
    looked_at: list[UUID] = []
    async with Auditor.on(database) as auditor:
        settle(auditor.conn, 1, 10)

        async def look(_: object, payment_ids: list[UUID], alerts: int) -> int:
            looked_at.extend(payment_ids)
            return alerts

        monkeypatch.setattr(audit_module, "_look", look)
        monkeypatch.setattr(audit_module, "SLICE_MIN", 10)
        await audit(auditor.around)
        everybody = [row[0] for row in auditor.conn.execute("select payment_id from payments.payments").fetchall()]
    assert sorted(looked_at) == sorted(everybody)


@pytest.mark.usefixtures("only_what_it_is_told_of")
async def test_what_was_mended_is_gone_by_the_next_run_though_something_else_is_off(database: Database) -> None:
    """And is looked at though nothing tells of it."""
    async with Auditor.on_sound_books(database) as auditor:
        await audit(auditor.around)
        payment_id = id_of("failed")  # at rest, and without money: no other reason to look at it
        with past_the_triggers(auditor.conn):
            auditor.conn.execute(
                "update payments.payments set last_sequence = last_sequence + 1, disputed = true where payment_id = %s",
                (payment_id,),
            )
        while not auditor.findings():
            await audit(auditor.around)
        ((_, first),) = auditor.findings()
        mended = "disputed = false" if first == "disputed_off" else "last_sequence = last_sequence - 1"
        with past_the_triggers(auditor.conn):
            auditor.conn.execute(f"update payments.payments set {mended} where payment_id = %s", (payment_id,))
        await audit(auditor.around)
        ((_, second),) = auditor.findings()
        assert {first, second} == {"disputed_off", "events_misnumbered"}
