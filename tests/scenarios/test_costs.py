"""A transaction that stays open, and a backlog: a look costs as much as without them."""

from statistics import median

import pytest

from payments.inbox.low_water import TRAIL_S
from tests.development.databases import Database
from tests.scenarios.costs import BATCH, WAYS, Clock, Kind, OnLane, measuring, pinned

ROUND_ROWS = 600
ROUNDS = 12
BACKLOG_ROWS = 100_000  # for the million: `python -m bench.backlog`
GROWN = 1.3  # a B-tree grows by a level; a walk over what is dead, or waits, would be many times the first figure


@pytest.fixture
def short_trail(monkeypatch: pytest.MonkeyPatch) -> None:
    """The floor for what was put off goes by the database's clock, of which little passes here."""
    monkeypatch.setattr("payments.inbox.waiting.TRAIL_S", 0.01)


@pytest.mark.parametrize("kind", WAYS)
@pytest.mark.anyio
@pytest.mark.usefixtures("short_trail")
async def test_54_transaction_stays_open(database: Database, kind: Kind) -> None:
    clock = Clock()
    async with measuring(database, kind, clock) as meter:
        way = meter.way
        await meter.settle_plans()
        with pinned(database):
            costs = []
            for _ in range(ROUNDS):
                clock.now_s += 5.0
                await meter.drain()  # a sweep may be due: now and then, never for more than a twentieth of the time
                way.fill(ROUND_ROWS)
                costs.append(sum([await meter.batch() for _ in range(ROUND_ROWS // BATCH)]))
    assert costs[-1] < GROWN * costs[3], costs


@pytest.mark.parametrize("kind", WAYS)
@pytest.mark.anyio
@pytest.mark.usefixtures("short_trail")
async def test_55_backlog(database: Database, kind: Kind) -> None:
    clock = Clock()
    async with measuring(database, kind, clock) as meter:
        way = meter.way
        await meter.settle_plans()
        way.fill(4 * BATCH)
        await way.work(meter.pool)
        with_little = max([await meter.batch() for _ in range(3)])
        await meter.drain()
        if kind is not OnLane:
            way.fill(BACKLOG_ROWS // 2, due_s=3_600.0)
        way.fill(BACKLOG_ROWS // 2)
        for pause_s in (0.0, TRAIL_S + 1, 0.0):  # and a sweep, which costs what it costs, now and then
            clock.now_s += pause_s
            await way.work(meter.pool)
        with_much = [await meter.batch() for _ in range(5)]
    # The median: one of them may sweep again, while what waits would be in the way of every one.
    assert median(with_much) < GROWN * with_little, (with_little, with_much)
