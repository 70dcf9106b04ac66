"""Relays for the tests of this room."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.development.databases import Database
from tests.relay.relays import Relays


@pytest.fixture
def relays(database: Database, tmp_path: Path) -> Iterator[Relays]:
    found = Relays(database, tmp_path)
    yield found
    for process in found.processes:
        process.kill()
        process.wait()
