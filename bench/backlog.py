"""What finding work costs with very many rows waiting, and under a pinned xmin: `python -m bench.backlog`, long.

The ways are those of tests/scenarios/costs.py: from the outbox to a queue, from a queue to the worker, from the inbox
to the recorder. Blocks are of the tables where the work waits; seconds are of this machine. Nothing is asserted.
"""

import argparse
import asyncio
import time

from rich.console import Console
from rich.table import Table

from payments.inbox.low_water import TRAIL_S
from tests.development.databases import EMBEDDED, TestServer, TestServers
from tests.scenarios.costs import BATCH, WAYS, Clock, Kind, Meter, OnLane, measuring, pinned

BATCHES = 20


async def measure(meter: Meter, clock: Clock) -> tuple[float, float]:
    """Blocks a row and milliseconds a batch, of the dearest of some batches; after a sweep."""
    for pause_s in (0.0, TRAIL_S + 1, 0.0):
        clock.now_s += pause_s
        await meter.way.work(meter.pool)
    blocks, seconds = 0.0, 0.0
    for _ in range(BATCHES):
        began = time.perf_counter()
        blocks = max(blocks, await meter.batch())
        seconds = max(seconds, time.perf_counter() - began)
    return blocks, seconds * 1_000


async def backlog(server: TestServer, kind: Kind, rows: int) -> tuple[float, float]:
    """With so many rows due, and as many that are not."""
    clock = Clock()
    with server.fresh_database() as database:
        async with measuring(database, kind, clock) as meter:
            await meter.settle_plans()
            if kind is not OnLane:
                meter.way.fill(rows, due_s=86_400.0)
            for _ in range(rows // 1_000):
                meter.way.fill(1_000)
            return await measure(meter, clock)


async def long_transaction(server: TestServer, kind: Kind, rows: int) -> tuple[float, float]:
    """After so many rows were worked on since a transaction began that is still open."""
    clock = Clock()
    with server.fresh_database() as database, pinned(database):
        async with measuring(database, kind, clock) as meter:
            await meter.settle_plans()
            for _ in range(rows // 10_000):
                clock.now_s += 1.0
                meter.way.fill(10_000)
                await meter.drain()
            meter.way.fill(BATCH * (BATCHES + 5))
            return await measure(meter, clock)


def main() -> None:
    """Measures every way, little against much."""
    parser = argparse.ArgumentParser(prog="python -m bench.backlog", description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    rows = parser.parse_args().rows
    table = Table("way", "what", "blocks a row", "ms a batch", box=None)
    servers = TestServers()
    try:
        server = servers.get(EMBEDDED)
        for kind in WAYS:
            for what, work, much in (
                ("10,000 waiting", backlog, 10_000),
                (f"{rows:,} waiting", backlog, rows),
                ("pinned for 10,000 rows", long_transaction, 10_000),
                (f"pinned for {rows // 4:,} rows", long_transaction, rows // 4),
            ):
                blocks, milliseconds = asyncio.run(work(server, kind, much))
                table.add_row(kind.__name__, what, f"{blocks:.1f}", f"{milliseconds:.1f}")
    finally:
        servers.close()
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
