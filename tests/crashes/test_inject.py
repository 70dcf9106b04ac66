"""The injection itself: whoever reaches what is armed dies there, one process only; nothing armed kills nobody."""

import contextlib
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from crashes.inject.crash_points import _call
from crashes.points import Points, Spec, read_spec
from tests.conftest import wait_until
from tests.development.databases import Database
from tests.system.running import surroundings

LOOK = "commit relay.look before"
Relay = subprocess.Popen[bytes]


@pytest.fixture
def points(tmp_path: Path) -> Points:
    return Points(tmp_path / "points")


@contextlib.contextmanager
def relays(points: Points, database: Database, count: int = 1) -> Iterator[list[Relay]]:
    environment = surroundings() | points.environment | {"DATABASE_URL": database.dsn("payments_relay")}
    command = [sys.executable, "-m", "payments", "relay"]
    running = [subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL) for _ in range(count)]
    try:
        yield running
    finally:
        for relay in running:
            relay.kill()
            relay.wait()


def looks(points: Points, since: int = 0) -> int:
    return points.reached(since)[Spec("relay", LOOK)]


def test_nothing_armed_kills_nobody(points: Points, database: Database) -> None:
    points.arm([Spec("worker", LOOK), Spec("api", LOOK)])
    with relays(points, database) as (relay,):
        wait_until(lambda: looks(points) > 3)
        assert relay.poll() is None
    assert len(points.disarm()) == 2


def test_armed_point_kills_one_process_of_its_kind(points: Points, database: Database) -> None:
    with relays(points, database, 2) as running:
        wait_until(lambda: looks(points) > 3)
        points.arm([Spec("relay", LOOK)])
        (dead,) = wait_until(lambda: [relay for relay in running if relay.poll() is not None])
        assert dead.returncode == -signal.SIGKILL
        assert points.waiting() == []
        mark = points.mark()
        wait_until(lambda: looks(points, mark) > 3)  # the other one passes the armed point all the same
        assert [relay for relay in running if relay.poll() is not None] == [dead]


def test_point_kills_the_nth_time(points: Points, database: Database) -> None:
    points.arm([Spec("relay", LOOK, 3)])
    with relays(points, database) as (relay,):
        wait_until(lambda: relay.poll() is not None)
        assert looks(points) == 3
        assert points.reached()[Spec("relay", "commit relay.look after")] == 2


def test_points_are_named_and_know_the_line_that_leads_to_them(points: Points, database: Database) -> None:
    with relays(points, database):
        wait_until(lambda: looks(points) > 1)
    reached = points.reached()
    assert [spec for spec in reached if "unknown" in spec.point or "unnamed" in spec.point] == []
    assert {
        Spec("relay", "statement relay.look before"),
        Spec("relay", "commit relay.look after"),
        Spec("relay", "commit connections.act_as before"),
        Spec("relay", "commit listen before"),
    } <= set(reached)
    relay = (Path(__file__).parents[2] / "payments/relay/relay.py").read_text().splitlines()
    line = next(number for number, text in enumerate(relay, start=1) if "async with transaction(self._pool)" in text)
    assert f"commit payments/relay/relay.py:{line}" in points.sites()


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("http://127.0.0.1:1/v1/payment_intents/pi_3AbCdEfGhIjKlMnO/capture", "/v1/payment_intents/{id}/capture"),
        ("https://api.stripe.com/v1/refunds?limit=100&payment_intent=pi_3AbCdEfGh", "/v1/refunds"),
    ],
)
def test_call_is_named_by_its_path(url: str, name: str) -> None:
    assert _call("post", url) == f"call POST {name}"


@pytest.mark.parametrize(
    "spec", [Spec("api", "commit api.accept before"), Spec("worker", "call GET /v1/events sent", 2)]
)
def test_spec_is_read_as_it_is_written(spec: Spec) -> None:
    assert read_spec(str(spec)) == spec
    with pytest.raises(ValueError, match="expected"):
        read_spec("postgres " + spec.point)
