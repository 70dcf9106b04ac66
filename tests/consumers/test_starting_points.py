"""Where a consumer starts: each event from there on, exactly once, in outbox order, whoever writes meanwhile."""

import contextlib
import threading
import time
from collections.abc import Callable
from datetime import datetime
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from payments.consumers import registry
from tests.consumers.driving import add, consumers
from tests.development.databases import Database
from tests.relay.outbox_rows import (
    Connection,
    assert_delivered_exactly_once,
    delivered,
    dispatch,
    drain,
    insert_lone_event,
    insert_payment,
    owed,
)
from tests.relay.relays import Relays, lag_is_nil

Eventually = Callable[..., Any]
TYPE = "dispute-opened"
# Committed after the consumer was added.
LATE = """
select o.outbox_id from payments.outbox o, payments.relay_batches b
where b.queue_name = %s and b.previous_batch_id is null and not pg_visible_in_snapshot(o.xid, b.upto_snapshot)
"""


def lane_has_work(conn: Connection, lane: str) -> bool:
    return (lane, True) in conn.execute("select * from payments.lanes_with_work()").fetchall()


def clock(conn: Connection) -> datetime:
    row = conn.execute("select clock_timestamp()").fetchone()
    assert row is not None
    moment: datetime = row[0]
    return moment


@pytest.mark.every_postgres
def test_each_start_is_owed_what_comes_behind_it(database: Database) -> None:
    with database.connect() as admin, database.connect("payments_relay") as relay:
        before = [insert_lone_event(admin, TYPE) for _ in range(5)]
        moment = clock(admin)
        after = [insert_lone_event(admin, TYPE) for _ in range(5)]
        with database.connect(autocommit=False) as slow:
            late = [insert_lone_event(slow, TYPE) for _ in range(2)]
            for start in ("now", "beginning", moment.isoformat()):
                name = {"now": "newcomer", "beginning": "historian"}.get(start, "latecomer")
                add(database, name, "--events", "dispute.opened", "--from", start)
            add(database, "by_default", "--events", "dispute.opened")
            new = [insert_lone_event(admin, TYPE)]
            for name in ("newcomer", "historian", "latecomer", "by_default"):
                drain(relay, name, rows_max=3)
            slow.commit()
        new += [insert_lone_event(admin, TYPE)]
        for name in ("newcomer", "historian", "latecomer", "by_default"):
            drain(relay, name, rows_max=3)
        assert delivered(admin, "historian") == [*before, *after, new[0], *late, new[1]]
        assert delivered(admin, "latecomer") == [*after, new[0], *late, new[1]]
        assert delivered(admin, "newcomer") == delivered(admin, "by_default") == [new[0], *late, new[1]]
        assert admin.execute(
            "select sum(waiting) from payments.outbox_lag where queue_name <> 'ordering'"
        ).fetchone() == (0,)


def test_a_time_before_or_behind_everything_is_taken_for_what_it_says(database: Database) -> None:
    with database.connect() as admin, database.connect("payments_relay") as relay:
        rows = [insert_lone_event(admin, TYPE) for _ in range(3)]
        add(database, "first", "--events", "#", "--from", "2000-01-01T00:00:00+02:00")
        add(database, "last", "--events", "#", "--from", clock(admin).isoformat())
        drain(relay, "first")
        drain(relay, "last")
        assert delivered(admin, "first") == rows
        assert delivered(admin, "last") == []
        rows.append(insert_lone_event(admin, TYPE))
        drain(relay, "last")
        assert delivered(admin, "last") == rows[-1:]


def test_an_empty_outbox_is_a_start_like_any_other(database: Database) -> None:
    with database.connect() as admin, database.connect("payments_relay") as relay:
        for name, start in (("a", "beginning"), ("b", "2000-01-01T00:00:00Z"), ("c", "now")):
            add(database, name, "--events", "#", "--from", start)
        row = insert_lone_event(admin, TYPE)
        for name in ("a", "b", "c"):
            drain(relay, name)
            assert delivered(admin, name) == [row]


STEPS = st.sampled_from(["write", "write", "commit", "commit", "note", "dispatch"])


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_interleaving_of_writers_and_a_consumer_delivers_exactly_once(
    module_database: Database, data: st.DataObject
) -> None:
    """Writers that stay open across the addition and across batches; whatever was committed is compared at the end."""
    name = f"c_{time.monotonic_ns()}"
    with contextlib.ExitStack() as stack:
        writers = [stack.enter_context(module_database.connect(autocommit=False)) for _ in range(3)]
        admin = stack.enter_context(module_database.connect())
        relay = stack.enter_context(module_database.connect("payments_relay"))
        moments = [clock(admin)]

        def play(steps: list[str]) -> None:
            for step in steps:
                match step:
                    case "write":
                        insert_lone_event(data.draw(st.sampled_from(writers)), TYPE)
                    case "commit":
                        data.draw(st.sampled_from(writers)).commit()
                    case "note":
                        moments.append(clock(admin))
                    case _:
                        dispatch(relay, name, rows_max=data.draw(st.integers(1, 3)))

        play(data.draw(st.lists(STEPS.filter(lambda step: step != "dispatch"), max_size=12)))
        start = data.draw(st.sampled_from(moments))
        with module_database.connect(autocommit=False) as operator:
            registry.add(operator, name, ["dispute.opened"], start)
        play(data.draw(st.lists(STEPS, max_size=12)))
        for writer in writers:
            writer.commit()
        while lane_has_work(relay, name):
            dispatch(relay, name, rows_max=2)
        got = delivered(admin, name)
        first = admin.execute("select min(outbox_id) from payments.outbox where occurred_at >= %s", (start,)).fetchone()
        query = "select outbox_id from payments.outbox where occurred_at >= %s"
        since = {row[0] for row in admin.execute(query, (start,))}
        assert len(got) == len(set(got)), "nothing twice"
        assert since <= set(got), "nothing missed"
        early = set(got) - since
        # Only what stood open when the consumer came, or lies behind the first event from the time on.
        late = {row[0] for row in admin.execute(LATE, (name,))}
        assert first is not None
        assert all(row in late or row > first[0] for row in early)
        with module_database.connect(autocommit=False) as operator:
            registry.remove(operator, name, keep_queue=False)


def test_consumers_added_while_relays_and_writers_work_miss_nothing(
    database: Database, relays: Relays, eventually: Eventually
) -> None:
    stop, faults = threading.Event(), list[BaseException]()

    def write(number: int) -> None:
        try:
            with database.connect(autocommit=False) as conn:
                turn = 0
                while not stop.is_set():
                    turn += 1
                    insert_lone_event(conn, TYPE)
                    if turn % 7 == number:
                        stop.wait(0.1)  # held open while others commit
                    if turn % 5 == number:
                        conn.rollback()
                    conn.commit()
                    time.sleep(0.003)
        except BaseException as error:  # noqa: BLE001 - handed to the test
            faults.append(error)

    with database.connect() as admin:
        with admin.transaction():
            for _ in range(1_500):  # more than a batch
                insert_lone_event(admin, TYPE)
        for _ in range(2):
            relays.start()
        writers = [threading.Thread(target=write, args=(number,)) for number in range(3)]
        for writer in writers:
            writer.start()
        try:
            eventually(lambda: len(delivered(admin, "ordering")) > 1_520)
            moment = clock(admin)
            eventually(lambda: len(owed(admin, "ordering")) > 1_580)
            add(database, "historian", "--events", "dispute.*", "--from", "beginning")
            add(database, "latecomer", "--events", "dispute.*", "--from", moment.isoformat())
            count = len(owed(admin, "ordering"))
            eventually(lambda: len(owed(admin, "ordering")) > count + 60)
        finally:
            stop.set()
            for writer in writers:
                writer.join()
        assert faults == []
        eventually(lambda: lag_is_nil(database), 60)
        assert assert_delivered_exactly_once(database, ("ordering", "historian")) > 3_000
        got = delivered(admin, "latecomer")
        query = "select outbox_id from payments.outbox where occurred_at >= %s"
        since = {row[0] for row in admin.execute(query, (moment,))}
        assert len(got) == len(set(got))
        assert since <= set(got)
        # Nothing from before but what was written, or committed, in the same moment.
        assert len(set(got) - since) < 50


def test_whoever_starts_in_a_past_that_is_forgotten_is_told(database: Database) -> None:
    def told(name: str, start: str) -> bool:
        done = consumers(database.admin_dsn(), "add", name, "--events", "payment.requested", "--from", start)
        assert done.returncode == 0, done.stderr
        return "forgotten" in done.stderr

    assert not told("first", "beginning")
    with database.connect() as conn:
        payment_id = insert_payment(conn)
        conn.execute("insert into payments.forgotten (payment_id, events) values (%s, 1)", (payment_id,))
    assert told("second", "beginning")
    assert told("third", "2026-01-31T12:00:00Z")
    assert not told("fourth", "now")
