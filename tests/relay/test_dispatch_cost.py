"""What a dispatch touches depends on what is new, not on what was dispatched: counted in buffers, not in seconds."""

import pytest

from tests.development.databases import Database
from tests.relay.outbox_rows import Connection, dispatch, drain, insert_lone_event, insert_many

LANE = "payment_requested"
HISTORY_ROWS = 200_000
SLACK = 60  # a B-tree grows by a level, a batch falls across pages
VIEW_SLACK = 700  # up to a hundred rows of other queues a lane are not recorded as passed; the history has 8,000 pages

LOOK = "select * from payments.lanes_with_work()"
VIEWS = {
    "not dispatched": "select * from payments.outbox_status where not dispatched",
    "one event": "select * from payments.outbox_status where outbox_id = 10",
    "lag": "select * from payments.outbox_lag",
}


def buffers(conn: Connection, query: str, *values: object) -> int:
    row = conn.execute(f"explain (analyze, buffers, format json) {query}", values).fetchone()
    assert row is not None
    plan = row[0][0]["Plan"]
    return int(plan["Shared Hit Blocks"]) + int(plan["Shared Read Blocks"])


def costs(database: Database, admin: Connection, relay: Connection) -> dict[str, int]:
    """The buffers of each kind of look, taken from a state in which all lanes are caught up."""
    call = "select payments.dispatch(%s, 1000)"
    found: dict[str, int] = {}
    for _ in range(2):  # what is looked up in the catalogs for a first plan is not what a dispatch costs
        found["empty"] = buffers(relay, call, LANE)
        buffers(relay, call, "ordering")
        found["idle look"] = buffers(relay, LOOK)
        for what, query in VIEWS.items():
            found[what] = buffers(admin, query)
    for _ in range(50):
        insert_lone_event(admin, "payment-requested")
    found["fifty rows"] = buffers(relay, call, LANE)
    found["fifty rows of others"] = buffers(relay, call, "ordering")
    with database.connect(autocommit=False) as slow:
        insert_lone_event(slow, "payment-requested")
        insert_many(admin, 5_000, "payment-action-required")
        for _ in range(300):  # transactions of their own: the straggler's xid lies far behind
            insert_lone_event(admin, "payment-requested")
        drain(relay, LANE)
        found["look"] = buffers(relay, LOOK)
        slow.commit()
    found["straggler"] = buffers(relay, call, LANE)
    drain(relay, "ordering")
    return found


@pytest.mark.every_postgres
def test_cost_of_a_dispatch_is_independent_of_history(database: Database) -> None:
    with database.connect() as admin, database.connect("payments_relay") as relay:
        admin.execute("alter table payments.outbox set (autovacuum_enabled = off)")  # statistics change when we say so
        for lane in (LANE, "ordering"):
            for _ in range(8):  # plans are made while the outbox is empty
                dispatch(relay, lane)
        before = costs(database, admin, relay)
        for _ in range(100):
            insert_many(admin, HISTORY_ROWS // 100)
        for lane in ("ordering", "refund_requested", "capture_requested", "void_requested", LANE):
            drain(relay, lane)
        with_old_plans = costs(database, admin, relay)
        admin.execute("analyze")
        with_new_plans = costs(database, admin, relay)
    for after in (with_old_plans, with_new_plans):
        excess = {
            what: (before[what], after[what])
            for what in before
            if after[what] > before[what] + (VIEW_SLACK if what in VIEWS else SLACK)
        }
        assert not excess, f"(before, after): {excess}"
