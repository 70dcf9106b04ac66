"""The worker's world serves here, too: a database, the sandbox as a process, and workers that reconcile."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from payments.database.connections import open_pool
from payments.reconciler.jobs import Surroundings
from payments.settings import Settings
from tests.development.databases import Database
from tests.reconciler.bench import Bench, Notices, Stripe
from tests.reconciler.table import Table
from tests.worker.world import Sandbox, World, sandbox_process


@pytest.fixture(scope="package")
def _sandbox() -> Iterator[Sandbox]:
    with sandbox_process() as sandbox:
        yield sandbox


@pytest.fixture
def world(database: Database, _sandbox: Sandbox, tmp_path: Path) -> Iterator[World]:
    """A fresh database and an empty Stripe that sends no webhooks."""
    _sandbox.steer("POST", "reset")
    world = World(database, _sandbox, tmp_path)
    yield world
    world.close()


@pytest.fixture
async def bench(database: Database, anyio_backend: str) -> AsyncIterator[Bench]:
    """A fresh database and a Stripe without anything, for looks that are called one by one."""
    role = "payments_worker"
    async with open_pool(database.dsn(role), role, 6) as pool:
        stripe = Stripe()
        around = Surroundings(pool, stripe, Notices(), Settings.load({}))  # type: ignore[arg-type]  # all it is asked here
        with database.connect() as conn:
            yield Bench(conn, around, stripe)


@pytest.fixture
def table(database: Database) -> Iterator[Table]:
    """A fresh database, and what nobody works on laid out by hand."""
    table = Table(database)
    yield table
    table.conn.close()
