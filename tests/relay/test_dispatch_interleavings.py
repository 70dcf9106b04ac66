"""Random interleavings of transactions and batches, against a model that predicts every answer."""

import itertools
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.development.databases import Database
from tests.relay.outbox_rows import (
    REPEATABLE_TYPES,
    Connection,
    create_lane,
    delivered,
    dispatch,
    drain,
    insert_lone_event,
)

TYPES = REPEATABLE_TYPES[:5]
BOUND = {"all": set(TYPES), "two": set(TYPES[:2]), "one": {TYPES[4]}}
WRITERS = 3

_writer = st.integers(0, WRITERS - 1)
_step = st.one_of(
    st.tuples(st.just("insert"), _writer, st.sampled_from(TYPES)),
    st.tuples(st.sampled_from(["commit", "abort", "savepoint", "rollback to"]), _writer, st.none()),
    st.tuples(st.just("dispatch"), st.sampled_from(sorted(BOUND)), st.integers(1, 5)),
)
_numbers = itertools.count(1)


class ModelLane:
    """What a lane must do: windows of what has committed, each in the order of ids."""

    def __init__(self, name: str, types: set[str]) -> None:
        self.name = name
        self.types = types
        self.seen: set[int] = set()
        self.window: list[int] = []
        self.sent: list[int] = []

    def dispatch(self, committed: dict[int, str], rows_max: int) -> int:
        was_open = bool(self.window)
        if not was_open:
            self.window = sorted(committed.keys() - self.seen)
        batch, rest = self.window[:rows_max], self.window[rows_max:]
        sent = [row for row in batch if committed[row] in self.types]
        if not was_open and not sent and not rest:
            self.window = []
            return 0
        self.window = rest
        self.seen.update(batch)
        self.sent += sent
        return len(batch)


class Writer:
    """One connection whose transaction stays open until it is told; knows what a savepoint would take back."""

    def __init__(self, conn: Connection) -> None:
        self.conn = conn
        self.levels: list[dict[int, str]] = [{}]

    def do(self, verb: str, event_type: str) -> dict[int, str]:
        """Takes one step; returns what it committed."""
        match verb:
            case "insert":
                self.insert(event_type)
            case "savepoint":
                self.savepoint()
            case "rollback to":
                self.rollback_to()
            case "abort":
                self.abort()
            case "commit":
                return self.commit()
        return {}

    def insert(self, event_type: str) -> None:
        self.levels[-1][insert_lone_event(self.conn, event_type)] = event_type

    def savepoint(self) -> None:
        self.conn.execute("savepoint s")
        self.levels.append({})

    def rollback_to(self) -> None:
        if len(self.levels) > 1:
            self.conn.execute("rollback to s")
            self.levels[-1] = {}

    def commit(self) -> dict[int, str]:
        self.conn.commit()
        return self._end()

    def abort(self) -> None:
        self.conn.rollback()
        self._end()

    def _end(self) -> dict[int, str]:
        rows = {row: event_type for level in self.levels for row, event_type in level.items()}
        self.levels = [{}]
        return rows


@pytest.fixture(scope="module")
def connections(module_database: Database) -> Iterator[list[Connection]]:
    writers = [module_database.connect(autocommit=False) for _ in range(WRITERS)]
    admin, relay = module_database.connect(), module_database.connect("payments_relay")
    yield [admin, relay, *writers]
    for conn in (admin, relay, *writers):
        conn.close()


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(_step, max_size=40))
def test_dispatch_follows_the_model_under_any_interleaving(
    connections: list[Connection], steps: list[tuple[str, object, object]]
) -> None:
    admin, relay, *rest = connections
    run = next(_numbers)
    lanes = {key: ModelLane(f"run{run}_{key}", types) for key, types in BOUND.items()}
    for lane in lanes.values():
        create_lane(admin, lane.name, [event.replace("-", ".", 1) for event in lane.types], from_beginning=False)
    writers = [Writer(conn) for conn in rest]
    committed: dict[int, str] = {}
    try:
        for verb, subject, detail in steps:
            if verb == "dispatch":
                lane, rows_max = lanes[str(subject)], int(str(detail))
                assert dispatch(relay, lane.name, rows_max) == lane.dispatch(committed, rows_max)
                assert delivered(admin, lane.name) == lane.sent
            else:
                committed |= writers[int(str(subject))].do(verb, str(detail))
        for writer in writers:
            committed |= writer.commit()
        for lane in lanes.values():
            drain(relay, lane.name, rows_max=3)
            wanted = [row for row, event_type in committed.items() if event_type in lane.types]
            assert sorted(delivered(admin, lane.name)) == sorted(wanted)
    finally:
        for writer in writers:
            writer.abort()
        for lane in lanes.values():
            admin.execute("delete from payments.lanes where queue_name = %s", (lane.name,))
            admin.execute("select pgmq.drop_queue(%s)", (lane.name,))
