"""A consumer that locks, drops or breaks its own queue, or goes, stops nobody else. Real relays."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg

from tests.consumers.driving import add, connect, consumers, reading
from tests.development.databases import Database
from tests.relay.outbox_rows import Connection, assert_delivered_exactly_once, delivered, insert_lone_event, owed
from tests.relay.relays import Relays, lag_is_nil

Eventually = Callable[..., Any]
TYPE = "dispute-opened"


@contextmanager
def writing(database: Database) -> Iterator[None]:
    """Somebody writes events all the while."""
    stop = threading.Event()

    def write() -> None:
        with database.connect() as conn:
            while not stop.wait(0.005):
                insert_lone_event(conn, TYPE)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        yield
    finally:
        stop.set()
        writer.join()


def grows(conn: Connection, queue: str, eventually: Eventually) -> None:
    """All that is owed to a queue now, and more, gets there."""
    count = len(owed(conn, queue)) + 5
    eventually(lambda: len(delivered(conn, queue)) > count)


def test_consumers_that_misbehave_stop_nobody_else(database: Database, relays: Relays, eventually: Eventually) -> None:
    locker = add(database, "locker", "--events", "#")
    purger = add(database, "purger", "--events", "#")
    for name in ("dropper", "closer", "victim"):
        add(database, name, "--events", "#")
    for _ in range(2):
        relays.start()
    with database.connect() as admin, writing(database):
        with connect(locker, autocommit=False) as lock, connect(purger) as purge:
            grows(admin, "victim", eventually)
            lock.execute("lock table pgmq.q_locker in access exclusive mode")
            purge.execute("delete from pgmq.q_purger")
            admin.execute("alter table pgmq.q_dropper rename to q_away")
            admin.execute("revoke all on pgmq.q_closer from payments_relay")
            for name in ("locker", "dropper", "closer"):
                eventually(lambda name=name: any(relays.says("lane.stopped", nr, queue=name) for nr in (0, 1)))
            for name in ("victim", "ordering"):
                grows(admin, name, eventually)
            before = delivered(admin, "purger")
            eventually(lambda: delivered(admin, "purger")[-1] > before[-1])
        admin.execute("alter table pgmq.q_away rename to q_dropper")
        admin.execute("grant insert, select (msg_id) on pgmq.q_closer to payments_relay")
        for name in ("locker", "dropper", "closer"):
            grows(admin, name, eventually)
    eventually(lambda: lag_is_nil(database))
    assert_delivered_exactly_once(database, ("victim", "ordering", "locker", "dropper", "closer"))
    assert [process.poll() for process in relays.processes] == [None, None]


def test_a_queue_dropped_for_good_stops_its_lane_alone_and_can_be_removed(
    database: Database, relays: Relays, eventually: Eventually
) -> None:
    add(database, "dropped", "--events", "#")
    add(database, "victim", "--events", "#")
    relays.start()
    with database.connect() as admin, writing(database):
        grows(admin, "dropped", eventually)
        admin.execute("drop table pgmq.q_dropped")
        eventually(lambda: relays.says("lane.stopped", queue="dropped", sqlstate="42P01"))
        grows(admin, "victim", eventually)
        assert consumers(database.admin_dsn(), "remove", "dropped").returncode == 0
        eventually(lambda: relays.says("lane.removed", queue="dropped"))
        grows(admin, "victim", eventually)
    assert relays.processes[0].poll() is None


def test_consumers_come_and_go_while_relays_serve_them(
    database: Database, relays: Relays, eventually: Eventually
) -> None:
    add(database, "victim", "--events", "#")
    for _ in range(2):
        relays.start()
    with database.connect() as admin, writing(database):
        for turn in range(4):
            access = add(database, "guest", "--events", "dispute.*", "--from", "beginning")
            with reading(access) as queue, connect(access, autocommit=False) as busy:
                eventually(lambda: len(delivered(admin, "guest")) > 20)
                assert queue.read("guest", vt=60, qty=5)
                if turn % 2:
                    busy.execute("lock table pgmq.q_guest in access exclusive mode")  # removal ends its session
                gone = consumers(database.admin_dsn(), "remove", "guest")
                assert gone.returncode == 0, gone.stderr
                try:
                    busy.execute("select 1")
                except psycopg.OperationalError:
                    pass
                else:
                    raise AssertionError("the session of a consumer that is gone lives on")
        grows(admin, "victim", eventually)
    eventually(lambda: lag_is_nil(database))
    assert_delivered_exactly_once(database, ("victim", "ordering"))
    assert [process.poll() for process in relays.processes] == [None, None]
    for number in (0, 1):
        assert not relays.says("lane.stopped", number, queue="victim")
        stops = [line for line in relays.events(number) if line["event"] == "lane.stopped"]
        assert [line for line in stops if line["sqlstate"] != "55P03"] == [], "a removal alarms nobody"
