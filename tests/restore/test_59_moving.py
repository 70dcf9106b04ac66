"""Scenario 59: a dump is restored into another cluster; the relay neither loses nor repeats."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import psycopg
import pytest

from payments.database import rebase as rebasing
from payments.database.rebase import Rebased, is_home, rebase
from payments.errors import ClusterMoved, RebaseRefused
from tests.conftest import wait_until
from tests.development.databases import Database, TestServer
from tests.relay.outbox_rows import (
    Connection,
    create_lane,
    delivered,
    dispatch,
    drain,
    insert_event,
    insert_lone_event,
    insert_many,
    insert_payment,
    owed,
)
from tests.relay.relays import Relays, lag_is_nil
from tests.restore.clusters import dump, payments, restored

AHEAD, OPEN, STRAGGLING, BEHIND, FRESH, LATE = (
    "payment_requested",
    "ordering",
    "void_requested",
    "capture_requested",
    "everything",
    "latecomer",
)
LANES = (AHEAD, OPEN, STRAGGLING, BEHIND, FRESH, LATE)
NOTHING = Rebased(has_moved=False, sent={}, restamped=0, unlisted_since=None)
Ways = tuple[TestServer, TestServer]


def add_lane(conn: Connection, lane: str, patterns: list[str], *, from_beginning: bool) -> None:
    conn.execute("set role payments_owner")
    create_lane(conn, lane, patterns, from_beginning=from_beginning)
    conn.execute("reset role")


def make_history(database: Database) -> dict[str, list[int]]:
    """Six lanes, each dispatched to another point; the outbox ids that each queue still has to get or to keep.

    One is caught up, and its messages are read; one is inside a window; one was overtaken by a transaction that
    committed after its last batch; one has got nothing; one hears everything from the beginning, one from now on.
    """
    with database.connect() as conn, database.connect(autocommit=False) as late:
        add_lane(conn, FRESH, ["#"], from_beginning=True)
        first = [insert_payment(conn) for _ in range(5)]
        straggler = insert_lone_event(late, "void-requested")
        for payment_id in first:
            for kind in ("payment-authorized", "void-requested", "capture-requested", "dispute-opened"):
                insert_event(conn, payment_id, kind)
        assert drain(conn, AHEAD) > 0
        conn.execute(f"delete from pgmq.q_{AHEAD}")
        assert dispatch(conn, OPEN, 4) == 4
        assert drain(conn, STRAGGLING) > 0
        add_lane(conn, LATE, ["dispute.*"], from_beginning=False)
        since = conn.execute("select max(outbox_id) from payments.outbox").fetchone()
        late.commit()
        last = insert_payment(conn)
        insert_event(conn, last, "dispute-opened")
        expected = {lane: owed(conn, lane) for lane in LANES}
        assert straggler in expected[STRAGGLING]
        assert straggler not in delivered(conn, STRAGGLING)
        assert since is not None
        consumed = [one for one in expected[AHEAD] if one <= since[0]]
    expected[AHEAD] = [one for one in expected[AHEAD] if one not in consumed]
    expected[LATE] = [one for one in expected[LATE] if one > since[0]]
    return expected


def assert_each_once(conn: Connection, expected: dict[str, list[int]]) -> None:
    for lane, ids in expected.items():
        got = delivered(conn, lane)
        assert sorted(got) == ids, lane
        assert len(set(got)) == len(got), lane


def all_dispatched(conn: Connection) -> bool:
    return conn.execute("select from payments.outbox_status where not dispatched").fetchall() == []


@pytest.fixture
def moved(ways: Ways, tmp_path: Path) -> Iterator[tuple[Database, dict[str, list[int]]]]:
    """A restored database, and what each of its queues has to hold once it is brought back."""
    old, new = ways
    with old.fresh_database() as database:
        expected = make_history(database)
        backup = dump(database, tmp_path)
    with restored(backup, new) as database:
        yield database, expected


def test_59_dump_with_rows_waiting_is_settled_and_goes_on(
    moved: tuple[Database, dict[str, list[int]]], tmp_path: Path
) -> None:
    database, expected = moved
    relays = Relays(database, tmp_path)
    assert relays.start().wait(timeout=30) == ClusterMoved.exit_code
    told = payments(database, "migrate")
    assert told.returncode == ClusterMoved.exit_code
    assert "payments migrate --rebase" in told.stderr

    done = payments(database, "migrate", "--rebase")
    assert done.returncode == 0, done.stderr
    with database.connect() as conn:
        assert_each_once(conn, expected)
        assert all_dispatched(conn)
        ordering = delivered(conn, OPEN)
        assert ordering == sorted(ordering), "in outbox order"
        # Told by lane: what was sent is what the queue holds beyond what was there.
        assert f"{BEHIND}: {len(expected[BEHIND])}" in done.stdout
        assert f"{STRAGGLING}: 1" in done.stdout
        assert conn.execute("select count(*) from payments.relay_batches").fetchone() == (len(LANES) + 1,), (
            "and refunds'"
        )

    # New events flow, beside none of the old ones.
    relay = relays.start()
    with database.connect() as conn:
        payment_id = insert_payment(conn)
        more = [insert_event(conn, payment_id, kind) for kind in ("payment-authorized", "dispute-opened")]
        wait_until(lambda: lag_is_nil(database))
        expected[OPEN] += more
        expected[LATE] += more[1:]
        expected[FRESH] = expected[AHEAD] = []
        for lane in (OPEN, LATE, STRAGGLING, BEHIND):
            assert sorted(delivered(conn, lane)) == expected[lane], lane
        assert sorted(delivered(conn, FRESH)) == owed(conn, FRESH)
        assert len(delivered(conn, AHEAD)) == 2
    relay.terminate()
    assert relay.wait(timeout=30) == 0


def test_59_rebase_twice_changes_nothing_the_second_time(moved: tuple[Database, dict[str, list[int]]]) -> None:
    database, expected = moved
    assert rebase(database.admin_dsn(), None).has_moved
    with database.connect() as conn:
        before = conn.execute("select * from payments.cluster").fetchone()
    assert rebase(database.admin_dsn(), None) == NOTHING
    assert is_home(database.admin_dsn())
    with database.connect() as conn:
        assert_each_once(conn, expected)
        assert conn.execute("select * from payments.cluster").fetchone() == before
        with pytest.raises(psycopg.errors.CheckViolation):  # append-only, as before
            conn.execute("update payments.outbox set xid = '3'")


def test_59_consumer_added_afterwards_gets_all_from_the_beginning(
    moved: tuple[Database, dict[str, list[int]]],
) -> None:
    database, _ = moved
    rebase(database.admin_dsn(), None)
    with database.connect() as conn:
        add_lane(conn, "later", ["#"], from_beginning=True)
        drain(conn, "later", 3)
        assert delivered(conn, "later") == owed(conn, "later")


def test_59_refuses_while_somebody_writes(
    moved: tuple[Database, dict[str, list[int]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    database, expected = moved
    monkeypatch.setattr(rebasing, "LOCK_TIMEOUT", "100ms")
    with database.connect(autocommit=False) as writer:
        insert_lone_event(writer, "dispute-opened")
        with pytest.raises(RebaseRefused) as refused:
            rebase(database.admin_dsn(), None)
        assert "Stop every api, relay and worker" in refused.value.advice
        writer.rollback()
    assert rebase(database.admin_dsn(), None).has_moved
    with database.connect() as conn:
        assert_each_once(conn, expected)


SHIFT = """
create function pg_temp.shifted(s pg_snapshot, by bigint) returns pg_snapshot language sql as $$
  select case when s::text = '3:3:' then s else (
    (pg_snapshot_xmin(s)::text::bigint + by) || ':' || (pg_snapshot_xmax(s)::text::bigint + by) || ':'
    || coalesce((select string_agg((x::text::bigint + by)::text, ',' order by x) from pg_snapshot_xip(s) x), '')
  )::pg_snapshot end
$$;
alter table payments.outbox disable trigger user;
update payments.outbox set xid = (xid::text::bigint + %(by)s)::text::xid8;
alter table payments.outbox enable trigger user;
update payments.relay_batches
set after_snapshot = pg_temp.shifted(after_snapshot, %(by)s), upto_snapshot = pg_temp.shifted(upto_snapshot, %(by)s);
update payments.cluster set system_identifier = 'another';
"""


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_59_ids_on_both_sides_of_this_clusters(database: Database, share: float) -> None:
    """A part of the ids that are stored this cluster has come past, a part not: as of a cluster about as old."""
    expected = make_history(database)
    with database.connect() as conn:
        query = "select percentile_disc(%s) within group (order by xid::text::bigint) from payments.outbox"
        (middle,) = conn.execute(query, (share,)).fetchone() or ()
        (now,) = conn.execute("select pg_snapshot_xmin(pg_current_snapshot())::text::bigint").fetchone() or ()
    with database.connect() as conn:
        psycopg.ClientCursor(conn).execute(SHIFT, {"by": now - middle})
    assert 0 < rebase(database.admin_dsn(), None).restamped < 27
    with database.connect() as conn:
        assert_each_once(conn, expected)
        for _ in range(300):  # past all ids that were stored
            conn.execute("select pg_current_xact_id()")
        for _ in range(10):
            insert_lone_event(conn, "dispute-opened")
        for lane in LANES:
            drain(conn, lane, 4)
        expected = {lane: owed(conn, lane) for lane in (OPEN, BEHIND, STRAGGLING, FRESH)}
        assert_each_once(conn, expected)


def test_an_id_that_a_transaction_here_bears_just_then_is_not_taken_for_a_new_one(database: Database) -> None:
    """What was dispatched long ago would look like its news, once it ends."""
    with database.connect() as conn, database.connect(autocommit=False) as bystander:
        sent = insert_lone_event(conn, "payment-requested")
        assert drain(conn, AHEAD) == 1
        query = "select pg_current_xact_id()::text::bigint - (select xid::text::bigint from payments.outbox)"
        (by,) = bystander.execute(query).fetchone() or ()
        psycopg.ClientCursor(conn).execute(SHIFT, {"by": by})
        assert rebase(database.admin_dsn(), None).has_moved
        bystander.commit()
        assert drain(conn, AHEAD) == 0
        assert delivered(conn, AHEAD) == [sent]


def test_59_large_outbox_is_sent_in_order(database: Database) -> None:
    """More than fits into one batch of messages, and no end of them a whole one."""
    with database.connect() as conn:
        for _ in range(3):
            insert_many(conn, 1_111, "dispute-opened")
        conn.execute("update payments.cluster set system_identifier = 'another'")
    assert rebase(database.admin_dsn(), None).sent["ordering"] == 3_333
    with database.connect() as conn:
        count = conn.execute("select count(*), max(msg_id) from pgmq.q_ordering").fetchone()
        assert count == (3_333, 3_333)
        assert drain(conn, "ordering") == 0


def test_59_database_at_home_is_left_alone(database: Database) -> None:
    with database.connect() as conn:
        insert_payment(conn)
    told = payments(database, "migrate", "--rebase")
    assert told.returncode == 0
    assert "nothing to rebase" in told.stdout
    assert "--since" in told.stdout
    with database.connect() as conn:
        assert conn.execute("select rebased_at, stripe_unlisted_since from payments.cluster").fetchone() == (None, None)
        assert drain(conn, AHEAD) == 1


def test_59_dump_on_its_own_server_is_no_other_cluster_and_its_time_has_to_be_said(
    postgres_server: TestServer, tmp_path: Path
) -> None:
    """Nothing looks different, though Stripe has gone on since."""
    with postgres_server.fresh_database() as database:
        backup = dump(database, tmp_path)
    with restored(backup, postgres_server) as database:
        told = payments(database, "migrate", "--rebase")
        assert told.returncode == 0, told.stderr
        assert "a dump restored on this very server, or a physical restore to an earlier time: payments" in told.stdout
        taken_at = datetime.now(UTC)
        assert payments(database, "migrate", "--rebase", "--since", taken_at.isoformat()).returncode == 0
        with database.connect() as conn:
            row = conn.execute("select stripe_unlisted_since from payments.cluster").fetchone()
    assert row == (taken_at - rebasing.MARGIN,)
