"""One API process for each module of tests, on a database of its own."""

from collections.abc import Iterator

import httpx
import pytest

from tests.api.driving import ApiProcess, running_api
from tests.development.databases import Database


@pytest.fixture(scope="module")
def api(module_database: Database, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiProcess]:
    with running_api(module_database, tmp_path_factory.mktemp("api") / "api.log") as process:
        yield process


@pytest.fixture(scope="module")
def shop(api: ApiProcess) -> Iterator[httpx.Client]:
    with api.client() as client:
        yield client
