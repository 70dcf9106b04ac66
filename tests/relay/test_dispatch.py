"""payments.dispatch, one call at a time."""

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from tests.development.databases import Database
from tests.relay.outbox_rows import (
    INITIAL_LANES,
    Connection,
    assert_delivered_exactly_once,
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

pytestmark = pytest.mark.every_postgres
LANE = "payment_requested"


@pytest.fixture
def admin(database: Database) -> Iterator[Connection]:
    with database.connect() as conn:
        yield conn


@pytest.fixture
def relay(database: Database) -> Iterator[Connection]:
    with database.connect("payments_relay") as conn:
        yield conn


def one(conn: Connection, query: str, *values: object) -> Any:
    row = conn.execute(query, values).fetchone()
    assert row is not None
    return row[0]


def test_dispatch_sends_each_row_once_to_bound_queues_only(
    database: Database, admin: Connection, relay: Connection
) -> None:
    for _ in range(10):
        payment = insert_payment(admin)
        for event_type in ("payment-authorized", "capture-requested", "payment-succeeded", "refund-requested"):
            insert_event(admin, payment, event_type)
    for lane in INITIAL_LANES:
        drain(relay, lane, rows_max=7)
        assert dispatch(relay, lane) == 0
    assert assert_delivered_exactly_once(database) == 50


def test_dispatch_passes_a_row_that_commits_late_with_a_low_id(
    database: Database, admin: Connection, relay: Connection
) -> None:
    with database.connect(autocommit=False) as slow:
        late = [insert_lone_event(slow, "payment-requested") for _ in range(3)]
        early = [insert_lone_event(admin, "payment-requested") for _ in range(5)]
        drain(relay, LANE)
        assert delivered(admin, LANE) == early
        slow.commit()
    assert drain(relay, LANE, rows_max=2) == 3
    assert delivered(admin, LANE) == early + late


def test_dispatch_merges_stragglers_with_new_rows_by_id_across_batches(
    database: Database, admin: Connection, relay: Connection
) -> None:
    with database.connect(autocommit=False) as slow:
        rows = [insert_lone_event(slow, "payment-requested")]
        insert_lone_event(admin, "payment-requested")
        drain(relay, LANE)  # a window closes while `slow` is in progress
        first = delivered(admin, LANE)
        for _ in range(4):
            rows.append(insert_lone_event(admin, "payment-requested"))
            rows.append(insert_lone_event(slow, "payment-requested"))
        slow.commit()
    assert [dispatch(relay, LANE, rows_max=2) for _ in range(6)] == [2, 2, 2, 2, 1, 0]
    assert delivered(admin, LANE) == first + sorted(rows)


def test_dispatch_leaves_to_the_next_window_what_commits_while_one_is_open(
    database: Database, admin: Connection, relay: Connection
) -> None:
    """A straggler of the window before: sent from within the open one as well, it would be sent twice."""
    with database.connect(autocommit=False) as slow:
        late = [insert_lone_event(slow, "payment-requested")]
        early = [insert_lone_event(admin, "payment-requested")]
        drain(relay, LANE)
        early += [insert_lone_event(admin, "payment-requested") for _ in range(4)]
        late.append(insert_lone_event(slow, "payment-requested"))
        assert dispatch(relay, LANE, rows_max=2) == 2
        slow.commit()
    drain(relay, LANE)
    assert delivered(admin, LANE) == early + late


def test_dispatch_leaves_to_the_next_window_what_began_before_one_was_open_and_commits_within(
    database: Database, admin: Connection, relay: Connection
) -> None:
    """Its ids lie among those of the window, which did not see it: it is the next window's straggler."""
    early = [insert_lone_event(admin, "payment-requested")]
    drain(relay, LANE)
    with database.connect(autocommit=False) as slow:
        late = [insert_lone_event(slow, "payment-requested")]
        early += [insert_lone_event(admin, "payment-requested") for _ in range(4)]
        late.append(insert_lone_event(slow, "payment-requested"))
        early.append(insert_lone_event(admin, "payment-requested"))
        assert dispatch(relay, LANE, rows_max=2) == 2
        slow.commit()
    drain(relay, LANE)
    assert delivered(admin, LANE) == early + late


def test_settling_a_lane_sends_once_what_is_left_of_an_open_window(admin: Connection, relay: Connection) -> None:
    """As after a restore of a backup that was made between two batches."""
    ids = [insert_lone_event(admin, "payment-requested") for _ in range(5)]
    assert dispatch(relay, LANE, rows_max=2) == 2
    assert one(admin, "select payments.settle_lane(%s)", LANE) == 3
    assert delivered(admin, LANE) == ids


def test_dispatch_ignores_what_was_rolled_back(database: Database, admin: Connection, relay: Connection) -> None:
    with database.connect(autocommit=False) as writer:
        insert_lone_event(writer, "payment-requested")
        writer.rollback()
        kept = [insert_lone_event(writer, "payment-requested")]
        writer.execute("savepoint s")
        insert_lone_event(writer, "payment-requested")
        writer.execute("rollback to s")
        kept.append(insert_lone_event(writer, "payment-requested"))
        writer.execute("savepoint t")
        kept.append(insert_lone_event(writer, "payment-requested"))
        writer.execute("release t")
        assert dispatch(relay, LANE) == 0
        writer.commit()
    assert drain(relay, LANE) == 3
    assert delivered(admin, LANE) == kept


def test_dispatch_sees_a_prepared_transaction_only_once_it_is_committed(
    database: Database, admin: Connection, relay: Connection
) -> None:
    if one(admin, "select current_setting('max_prepared_transactions')::int") == 0:
        pytest.skip("this server allows no prepared transactions")
    with database.connect(autocommit=False) as writer:
        kept = insert_lone_event(writer, "payment-requested")
        writer.execute("prepare transaction 'later'")
    other = insert_lone_event(admin, "payment-requested")
    assert drain(relay, LANE) == 1
    admin.execute("commit prepared 'later'")
    assert drain(relay, LANE) == 1
    assert delivered(admin, LANE) == [other, kept]


def test_dispatch_finishes_an_open_window_before_what_came_later(admin: Connection, relay: Connection) -> None:
    for _ in range(5):
        insert_lone_event(admin, "payment-requested")
    assert dispatch(relay, LANE, rows_max=2) == 2
    insert_lone_event(admin, "payment-requested")
    assert [dispatch(relay, LANE, rows_max=2) for _ in range(4)] == [2, 1, 1, 0]
    assert delivered(admin, LANE) == owed(admin, LANE)


def test_dispatch_closes_a_window_that_ends_with_rows_of_other_queues(admin: Connection, relay: Connection) -> None:
    """Left open, it would hold back all that comes after it, and be answered as caught up for ever."""
    for event_type in ("payment-requested", "payment-requested", "dispute-opened"):
        insert_lone_event(admin, event_type)
    assert dispatch(relay, LANE, rows_max=2) == 2  # the window stays open for what it sends nothing of
    insert_lone_event(admin, "payment-requested")
    drain(relay, LANE)
    assert delivered(admin, LANE) == owed(admin, LANE)


def test_dispatch_answers_zero_only_when_caught_up(admin: Connection, relay: Connection) -> None:
    for _ in range(4):
        insert_lone_event(admin, "payment-requested")
    assert [dispatch(relay, LANE, rows_max=2) for _ in range(2)] == [2, 2]  # the window's end falls on a batch's
    assert one(admin, "select window_done from payments.last_batch(%s)", LANE)
    insert_lone_event(admin, "payment-requested")
    assert dispatch(relay, LANE, rows_max=2) == 1


def test_dispatch_records_no_batch_for_a_few_rows_of_others(admin: Connection, relay: Connection) -> None:
    insert_many(admin, 99)
    assert dispatch(relay, LANE) == 0
    assert one(admin, "select count(*) from payments.relay_batches where queue_name = %s", LANE) == 1
    insert_many(admin, 1)
    assert dispatch(relay, LANE) == 100, "many are not looked at again and again"
    assert dispatch(relay, LANE) == 0


def test_dispatch_is_refused_under_repeatable_read(database: Database, admin: Connection) -> None:
    insert_lone_event(admin, "payment-requested")
    with database.connect("payments_relay") as relay:
        relay.execute("set default_transaction_isolation = 'repeatable read'")
        with pytest.raises(psycopg.errors.RaiseException, match="READ COMMITTED"):
            dispatch(relay, LANE)


def test_dispatch_leaves_a_lane_to_the_relay_that_is_at_work(
    database: Database, admin: Connection, relay: Connection
) -> None:
    insert_lone_event(admin, "payment-requested")
    with database.connect("payments_relay", autocommit=False) as first:
        assert dispatch(first, LANE) == 1
        assert dispatch(relay, LANE) == -1
        assert dispatch(relay, "ordering") == 0
        first.rollback()
    assert dispatch(relay, LANE) == 1
    assert delivered(admin, LANE) == owed(admin, LANE)


def test_locked_dropped_and_forbidden_queues_stop_only_their_own_lane(
    database: Database, admin: Connection, relay: Connection
) -> None:
    payment = insert_payment(admin)
    insert_event(admin, payment, "payment-authorized")
    insert_event(admin, payment, "capture-requested")
    with database.connect(autocommit=False) as locker:
        locker.execute(f"lock table pgmq.q_{LANE}")
        with pytest.raises(psycopg.errors.LockNotAvailable):
            dispatch(relay, LANE)
    admin.execute("revoke insert on pgmq.q_capture_requested from payments_relay")
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        dispatch(relay, "capture_requested")
    admin.execute("alter table pgmq.q_ordering rename to q_away")
    with pytest.raises(psycopg.errors.UndefinedTable):
        dispatch(relay, "ordering")
    waiting = dict(admin.execute("select queue_name, waiting from payments.outbox_lag").fetchall())
    assert waiting == {lane: int(lane in {LANE, "capture_requested", "ordering"}) for lane in INITIAL_LANES}
    admin.execute("grant insert on pgmq.q_capture_requested to payments_relay")
    admin.execute("alter table pgmq.q_away rename to q_ordering")
    for lane in INITIAL_LANES:
        drain(relay, lane)
    assert assert_delivered_exactly_once(database) == 3


def test_new_lane_starts_at_the_beginning_or_from_now(admin: Connection, relay: Connection) -> None:
    before = insert_lone_event(admin, "dispute-opened")
    create_lane(admin, "archive", ["#"], from_beginning=True)
    create_lane(admin, "fraud", ["dispute.*"], from_beginning=False)
    after = insert_lone_event(admin, "dispute-opened")
    insert_lone_event(admin, "payment-requested")
    drain(relay, "archive", rows_max=1)
    drain(relay, "fraud")
    assert delivered(admin, "archive") == owed(admin, "archive")
    assert delivered(admin, "fraud") == [after]
    status = dict(admin.execute("select outbox_id, dispatched from payments.outbox_status").fetchall())
    assert status[before] is False, "ordering is bound to disputes and has not been served"
    drain(relay, "ordering")
    at = dict(admin.execute("select outbox_id, dispatched_at from payments.outbox_status").fetchall())
    last = one(admin, "select dispatched_at from payments.last_batch('ordering')")
    assert at[before] == last
    assert at[after] == last


def test_binding_decides_when_the_lane_reaches_a_row(admin: Connection, relay: Connection) -> None:
    create_lane(admin, "picky", ["dispute.opened"], from_beginning=False)
    insert_lone_event(admin, "refund-requested")
    opened = insert_lone_event(admin, "dispute-opened")
    drain(relay, "picky")
    admin.execute("select pgmq.bind_topic('refund.requested', 'picky')")
    refund = insert_lone_event(admin, "refund-requested")
    admin.execute("select pgmq.unbind_topic('dispute.opened', 'picky')")
    insert_lone_event(admin, "dispute-opened")
    drain(relay, "picky")
    assert delivered(admin, "picky") == [opened, refund]


def test_old_batches_can_be_deleted_without_harm(admin: Connection, relay: Connection) -> None:
    for _ in range(3):
        insert_lone_event(admin, "payment-requested")
        drain(relay, LANE)
    admin.execute(
        """delete from payments.relay_batches
        where queue_name = %s and batch_id < (select batch_id from payments.last_batch(%s))""",
        (LANE, LANE),
    )
    insert_lone_event(admin, "payment-requested")
    assert drain(relay, LANE) == 1
    assert delivered(admin, LANE) == owed(admin, LANE)


def test_status_and_lag_are_true_in_every_state(database: Database, admin: Connection, relay: Connection) -> None:
    def status() -> dict[int, bool]:
        rows = admin.execute("select outbox_id, dispatched, dispatched_at from payments.outbox_status").fetchall()
        assert all(is_dispatched == (at is not None) for _, is_dispatched, at in rows)
        some = dict(admin.execute("select outbox_id, true from payments.outbox_status where not dispatched").fetchall())
        assert set(some) == {outbox_id for outbox_id, is_dispatched, _ in rows if not is_dispatched}
        return {outbox_id: is_dispatched for outbox_id, is_dispatched, _ in rows}

    def waiting() -> int:
        return int(one(admin, "select waiting from payments.outbox_lag where queue_name = %s", LANE))

    def has_work() -> bool:
        return bool(one(relay, "select has_work from payments.lanes_with_work() where queue_name = %s", LANE))

    assert status() == {}
    assert not has_work()
    with database.connect(autocommit=False) as slow:
        late = insert_lone_event(slow, "payment-requested")
        ids = [insert_lone_event(admin, "payment-requested") for _ in range(3)]
        assert status() == dict.fromkeys(ids, False)
        assert waiting() == 3
        assert has_work()
        dispatch(relay, LANE, rows_max=2)  # a window is open, half way
        assert status() == {ids[0]: True, ids[1]: True, ids[2]: False}
        assert waiting() == 1
        assert has_work()  # nothing is new, and what is left of the window may be a dead relay's
        drain(relay, LANE)
        assert status() == dict.fromkeys(ids, True)
        assert not has_work()
        ids.append(insert_lone_event(admin, "payment-requested"))
        drain(relay, LANE)  # `slow` is in progress over several windows
        slow.commit()
    assert status() == {late: False, **dict.fromkeys(ids, True)}
    assert waiting() == 1
    assert has_work()
    drain(relay, LANE)
    assert status() == dict.fromkeys([late, *ids], True)
    assert waiting() == 0
    assert not has_work()


@pytest.mark.parametrize("role", ["payments_api", "payments_relay", "payments_worker", "payments_readonly"])
def test_lag_can_be_read_by_every_role(database: Database, admin: Connection, role: str) -> None:
    insert_lone_event(admin, "payment-requested")
    with database.connect(role) as conn:
        assert one(conn, "select sum(waiting) from payments.outbox_lag") == 1
