"""The worker's world serves here, too: a database, the sandbox as a process, and workers that reconcile."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.development.databases import Database
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
