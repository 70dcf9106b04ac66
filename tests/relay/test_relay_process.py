"""The process `payments relay`: real ones, killed for real."""

import contextlib
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.development.databases import Database, TestServer
from tests.relay.outbox_rows import (
    INITIAL_LANES,
    assert_delivered_exactly_once,
    create_lane,
    delivered,
    insert_event,
    insert_lone_event,
    insert_payment,
    owed,
)
from tests.relay.relays import Relays, lag_is_nil

Eventually = Callable[..., Any]
LANE = "payment_requested"
LATER = ("payment-authorized", "capture-requested", "refund-requested", "refund-processed", "dispute-opened")


@pytest.fixture
def relays(database: Database, tmp_path: Path) -> Iterator[Relays]:
    found = Relays(database, tmp_path)
    yield found
    for process in found.processes:
        process.kill()
        process.wait()


def write(database: Database, until: threading.Event, number: int, faults: list[BaseException]) -> None:
    """Payments of six events each; some are rolled back, some partly, some stay open for long."""
    try:
        with database.connect(autocommit=False) as conn:
            payments = []
            for turn in range(100_000):
                if until.is_set():
                    break
                payments.append(insert_payment(conn))
                if turn % 5 == number:
                    conn.rollback()
                    payments.pop()
                    continue
                conn.commit()
                payment = payments[turn % len(payments)]
                for event_type in LATER:
                    insert_event(conn, payment, event_type)
                    if turn % 3 == number % 3:
                        conn.execute("savepoint s")
                        insert_event(conn, payment, event_type)
                        conn.execute("rollback to s" if turn % 2 else "release s")
                if turn % 10 == 9:
                    until.wait(0.2)  # held open: others commit meanwhile
                conn.commit()
                time.sleep(0.002)  # leaves a core to the relays
    except BaseException as error:  # noqa: BLE001 - handed to the test
        faults.append(error)


def test_relays_deliver_exactly_once_while_they_are_killed_and_a_queue_is_locked(
    database: Database, relays: Relays, eventually: Eventually
) -> None:
    stop, faults = threading.Event(), list[BaseException]()
    writers = [threading.Thread(target=write, args=(database, stop, number, faults)) for number in range(4)]
    for _ in range(2):
        relays.start()
    for writer in writers:
        writer.start()
    with database.connect() as admin, database.connect(autocommit=False) as locker:
        eventually(lambda: delivered(admin, "ordering"))
        locker.execute("lock table pgmq.q_ordering in share row exclusive mode")
        eventually(
            lambda: relays.says("lane.stopped", queue="ordering") or relays.says("lane.stopped", 1, queue="ordering")
        )
        for victim in range(4):
            before = len(delivered(admin, LANE))
            eventually(lambda before=before: len(delivered(admin, LANE)) > before)
            relays.processes[victim].send_signal(signal.SIGKILL)
            relays.start()
        locker.rollback()
        before = len(delivered(admin, "ordering"))
        eventually(lambda: len(delivered(admin, "ordering")) > before)
    stop.set()
    for writer in writers:
        writer.join()
    assert faults == []
    eventually(lambda: lag_is_nil(database), 60)
    assert assert_delivered_exactly_once(database) > 100


def test_locked_and_dropped_queue_stops_its_lane_alone_until_it_is_mended(
    database: Database, relays: Relays, eventually: Eventually
) -> None:
    with database.connect() as admin:
        admin.execute("alter table pgmq.q_capture_requested rename to q_away")
        admin.execute("revoke insert on pgmq.q_void_requested from payments_relay")
        relays.start()
        for event_type in ("capture-requested", "void-requested", "refund-requested"):
            insert_lone_event(admin, event_type)
        eventually(lambda: len(delivered(admin, "refund_requested")) == 1)
        eventually(lambda: relays.says("lane.stopped", queue="capture_requested", sqlstate="42P01"))
        eventually(lambda: relays.says("lane.stopped", queue="void_requested", sqlstate="42501"))
        insert_lone_event(admin, "refund-requested")
        eventually(lambda: len(delivered(admin, "refund_requested")) == 2)
        lag = dict(admin.execute("select queue_name, waiting from payments.outbox_lag where waiting > 0").fetchall())
        assert lag == {"capture_requested": 1, "void_requested": 1}
        admin.execute("alter table pgmq.q_away rename to q_capture_requested")
        admin.execute("grant insert on pgmq.q_void_requested to payments_relay")
        eventually(lambda: lag_is_nil(database))
        eventually(lambda: relays.says("lane.resumed", queue="void_requested"))
    assert assert_delivered_exactly_once(database) == 4
    stops = [line["queue"] for line in relays.events() if line["event"] == "lane.stopped"]
    assert sorted(stops) == ["capture_requested", "void_requested"], "one line a change, not one a try"


def test_relay_polls_when_no_notification_comes(database: Database, relays: Relays, eventually: Eventually) -> None:
    relays.start()
    with database.connect() as admin:
        for _ in range(3):  # nobody sends a notification here at all
            row = insert_lone_event(admin, "payment-requested")
            eventually(lambda row=row: row in delivered(admin, LANE))


def test_relay_outlives_its_connections(database: Database, relays: Relays, eventually: Eventually) -> None:
    relays.start()
    with database.connect() as admin:
        for _ in range(3):
            admin.execute(
                "select pg_terminate_backend(pid) from pg_stat_activity"
                " where datname = current_database() and pid <> pg_backend_pid()"
            )
            row = insert_lone_event(admin, "payment-requested")
            eventually(lambda row=row: row in delivered(admin, LANE))
            admin.execute("notify payments_outbox")
        assert delivered(admin, LANE) == owed(admin, LANE)
    assert relays.processes[0].poll() is None


def test_relay_serves_new_lanes_and_forgets_those_that_are_gone(
    database: Database, relays: Relays, eventually: Eventually
) -> None:
    relays.start()
    with database.connect() as admin:
        old = insert_lone_event(admin, "refund-requested")
        eventually(lambda: lag_is_nil(database))
        create_lane(admin, "archive", ["#"], from_beginning=True)
        create_lane(admin, "fraud", ["refund.requested"], from_beginning=False)
        new = insert_lone_event(admin, "refund-requested")
        eventually(lambda: delivered(admin, "archive") == [old, new])
        eventually(lambda: delivered(admin, "fraud") == [new])
        admin.execute("delete from payments.lanes where queue_name = 'fraud'")
        eventually(lambda: relays.says("lane.removed", queue="fraud"))
    assert relays.processes[0].poll() is None


def test_relay_wakes_the_consumers_of_a_queue_after_the_commit(
    database: Database, relays: Relays, eventually: Eventually
) -> None:
    relays.start()
    with database.connect() as admin, database.connect() as listener:
        listener.execute("listen payments_queue")
        eventually(lambda: relays.says("lane.started", queue=LANE))
        insert_lone_event(admin, "payment-requested")
        admin.execute("notify payments_outbox")
        heard = {queue for one in listener.notifies(timeout=10, stop_after=1) for queue in one.payload.split(",")}
    assert heard == {LANE}


def test_relay_ends_within_a_moment_on_sigterm(database: Database, relays: Relays, eventually: Eventually) -> None:
    process = relays.start()
    eventually(lambda: relays.says("lane.started", queue=LANE))
    with database.connect() as admin:
        insert_lone_event(admin, "payment-requested")
        process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(10)  # a second on a machine that has time
    assert process.returncode == 0
    assert relays.says("process.stopped")


def test_relay_ends_on_sigterm_while_a_batch_hangs(database: Database, relays: Relays, eventually: Eventually) -> None:
    with database.connect() as admin:
        admin.execute(
            """create function public.hang() returns trigger language plpgsql as
            'begin perform pg_sleep(60); return new; end'"""
        )
        admin.execute(f"create trigger hang before insert on pgmq.q_{LANE} for each row execute function public.hang()")
        insert_lone_event(admin, "payment-requested")
        process = relays.start()
        eventually(lambda: admin.execute("select from pg_stat_activity where wait_event = 'PgSleep'").fetchall())
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0
        admin.execute(f"drop trigger hang on pgmq.q_{LANE}")
        assert delivered(admin, LANE) == []
    relays.start()
    eventually(lambda: lag_is_nil(database))
    assert assert_delivered_exactly_once(database, INITIAL_LANES) == 1


def test_relay_waits_for_a_database_that_is_away(
    postgres_server: TestServer, database: Database, relays: Relays, eventually: Eventually
) -> None:
    process = relays.start()
    eventually(lambda: relays.says("lane.started", queue=LANE))
    postgres_server.postgres.kill()
    try:
        eventually(lambda: relays.says("database.lost"))
    finally:
        postgres_server.postgres.start()
    with database.connect() as admin:
        row = insert_lone_event(admin, "payment-requested")
        eventually(lambda: row in delivered(admin, LANE), 60)
    eventually(lambda: relays.says("database.reached"))
    postgres_server.postgres.kill()
    try:
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0
    finally:
        postgres_server.postgres.start()
