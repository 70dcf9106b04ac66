"""One API process for each module of tests, on a database of its own."""

from collections.abc import Iterator
from typing import Any

import httpx
import psycopg
import pytest

from tests.api.driving import ApiProcess, rows_seen_by, running_api
from tests.development.databases import Database


@pytest.fixture(scope="module")
def api(module_database: Database, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiProcess]:
    with running_api(module_database, tmp_path_factory.mktemp("api") / "api.log") as process:
        yield process


@pytest.fixture(scope="module")
def shop(api: ApiProcess) -> Iterator[httpx.Client]:
    with api.client() as client:
        yield client


@pytest.fixture(scope="module")
def eye(api: ApiProcess) -> Iterator[psycopg.Connection[Any]]:
    """Looks into the API's database."""
    with api.database.connect() as conn:
        yield conn


@pytest.fixture
def nothing_is_written(eye: psycopg.Connection[Any]) -> Iterator[None]:
    """Whatever the test sent, no row came of it."""
    yield
    assert not any(rows_seen_by(eye).values())
