"""Fixtures that every room's tests share: real PostgreSQL servers, fresh databases, waiting for conditions.

`PAYMENTS_TEST_POSTGRES` (or `--postgres`) chooses the servers. Unset: everything on the embedded PostgreSQL, and the
tests marked `every_postgres` also on PostgreSQL 15. `embedded` or `15`: every test on that one. `all`: each on both.

Their data lie in memory where there is room for it: a fresh database is some hundred files, and making and removing
those can take several times as long on a disk. `TMPDIR` puts them, and all other passing files of a run, elsewhere.
"""

import functools
import inspect
import os
import shutil
import ssl
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import TypeVar

import anyio
import psutil
import pytest
import structlog
from hypothesis import HealthCheck, settings

from tests.development.databases import EMBEDDED, OLDEST, OLDEST_BIN_DIR, Database, TestServer, TestServers

T = TypeVar("T")
POLL_S = 0.02
POLL_S_MAX = 0.05
DEADLINE_S = 15.0
TESTS = Path(__file__).parent
LONGEST_FIRST = ("crashes", "model", "scenarios", "lint", "system", "stateful", "restore", "postgres_faults")
PROCESSES_MAX = 5  # each has servers of its own
MEMORY = Path("/dev/shm")
MEMORY_BYTES_MIN = 4 * 1024**3  # a whole run keeps about one at a time


# How long an example takes says how busy the machine is, and nothing about the product.
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")


def pytest_configure() -> None:
    _use_memory()
    os.environ["no_proxy"] = os.environ["NO_PROXY"] = "127.0.0.1,localhost"  # a developer's proxy does not lead here
    # One TLS context for all HTTP clients: no test speaks TLS, and making each takes 40 ms of computing.
    ssl.create_default_context = functools.cache(ssl.create_default_context)  # type: ignore[assignment]
    # As structlog would without a word, but for its tracebacks with every variable: half a second of computing each.
    plain = structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
    structlog.configure(processors=[*structlog.get_config()["processors"][:-1], plain])


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """For `-n auto`: one process more than there are cores, since a third of a process's time is waiting."""
    return min(PROCESSES_MAX, (psutil.cpu_count() or 1) + 1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes longest begins first, or one core waits for it at the end."""
    rooms = [TESTS / room for room in LONGEST_FIRST]
    ranks = {room: rank for rank, room in enumerate(rooms)}
    items.sort(key=lambda item: min((ranks[room] for room in item.path.parents if room in ranks), default=len(rooms)))


def _use_memory() -> None:
    if "TMPDIR" in os.environ or not MEMORY.is_dir():
        return
    if min(shutil.disk_usage(MEMORY).free, psutil.virtual_memory().available) >= MEMORY_BYTES_MIN:
        os.environ["TMPDIR"] = str(MEMORY)  # for the processes that tests start, too
        tempfile.tempdir = None


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--postgres",
        choices=["default", EMBEDDED, OLDEST, "all"],
        default=os.environ.get("PAYMENTS_TEST_POSTGRES") or "default",
        help="which PostgreSQL the tests use (default: see tests/conftest.py)",
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "postgres_server" not in metafunc.fixturenames:
        return
    chosen = metafunc.config.getoption("postgres")
    both = chosen == "all" or (chosen == "default" and metafunc.definition.get_closest_marker("every_postgres"))
    if both:
        metafunc.parametrize("postgres_server", [EMBEDDED, OLDEST], indirect=True, scope="session")
    elif chosen == OLDEST:
        metafunc.parametrize("postgres_server", [OLDEST], indirect=True, scope="session")


@pytest.fixture(scope="session")
def _postgres_servers() -> Iterator[TestServers]:
    servers = TestServers()
    yield servers
    servers.close()


@pytest.fixture(scope="session")
def postgres_server(request: pytest.FixtureRequest, _postgres_servers: TestServers) -> TestServer:
    """The session's PostgreSQL server: `.admin_dsn(dbname)`, `.fresh_database()`, `.postgres` to stop and kill it."""
    version = getattr(request, "param", EMBEDDED)
    if version == OLDEST and not OLDEST_BIN_DIR.exists():
        pytest.skip(f"PostgreSQL {OLDEST} is not installed (on Debian 12: apt-get install postgresql-{OLDEST})")
    return _postgres_servers.get(version)


@pytest.fixture
def database(postgres_server: TestServer) -> Iterator[Database]:
    """A fresh migrated database: `.admin_dsn()`, `.dsn(role)`, `.connect(role)`."""
    with postgres_server.fresh_database() as fresh:
        yield fresh


@pytest.fixture(scope="module")
def module_database(postgres_server: TestServer) -> Iterator[Database]:
    """A fresh migrated database that the tests of one module share."""
    with postgres_server.fresh_database() as fresh:
        yield fresh


@pytest.fixture
def empty_database(postgres_server: TestServer) -> Iterator[Database]:
    """A fresh database with nothing in it."""
    with postgres_server.fresh_database(migrated=False) as fresh:
        yield fresh


@pytest.fixture(scope="session")
def eventually() -> Callable[..., object]:
    """`eventually(predicate, deadline_s=15)`: poll until it returns something true, and return that."""
    return wait_until


@pytest.fixture(scope="session")
def eventually_async() -> Callable[..., Awaitable[object]]:
    """`await eventually_async(predicate, deadline_s=15)`: the same inside an event loop; the predicate may be async."""
    return wait_until_async


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """Async tests (`@pytest.mark.anyio`) run on asyncio, as the processes do."""
    return "asyncio"


def wait_until(predicate: Callable[[], T], deadline_s: float = DEADLINE_S) -> T:
    deadline, pause_s = time.monotonic() + deadline_s, POLL_S
    while True:
        value = predicate()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"nothing true within {deadline_s:g} s; the last value was {value!r}")
        time.sleep(pause_s)
        pause_s = min(POLL_S_MAX, 1.1 * pause_s)


async def wait_until_async(predicate: Callable[[], T | Awaitable[T]], deadline_s: float = DEADLINE_S) -> T:
    deadline = time.monotonic() + deadline_s
    while True:
        answer = predicate()
        value: T = await answer if inspect.isawaitable(answer) else answer  # type: ignore[assignment]
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"nothing true within {deadline_s:g} s; the last value was {value!r}")
        await anyio.sleep(POLL_S)
