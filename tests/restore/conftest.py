"""Two clusters to restore out of and into: the session's own, and one whose transaction ids are all higher."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.development.databases import TestServer
from tests.restore.clusters import HighServer


@pytest.fixture(scope="package")
def high_server() -> Iterator[TestServer]:
    with tempfile.TemporaryDirectory(prefix="payments-high-") as home:
        server = HighServer(Path(home))
        yield server
        server.postgres.kill()


@pytest.fixture(params=["into lower", "into higher"])
def ways(
    request: pytest.FixtureRequest, postgres_server: TestServer, high_server: TestServer
) -> tuple[TestServer, TestServer]:
    """Where the database was made, and where it is restored: transaction ids there are lower, or higher."""
    old, new = (high_server, postgres_server) if request.param == "into lower" else (postgres_server, high_server)
    return old, new
