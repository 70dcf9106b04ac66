"""The conformance suite's target: the sandbox as a real process, or Stripe itself when `STRIPE_TEST_KEY` is set.

Tests that need the sandbox's steering ask for `steer` (or `receiver`) and are skipped on Stripe.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.sandbox.driver import KEY, Driver, Process, Receiver, Steer

REAL_KEY = os.environ.get("STRIPE_TEST_KEY", "")


@pytest.fixture(scope="session")
def _receiver() -> Iterator[Receiver]:
    receiver = Receiver()
    receiver.start()
    yield receiver
    receiver.stop()


@pytest.fixture(scope="session")
def _sandbox(_receiver: Receiver, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    process = Process(tmp_path_factory.mktemp("sandbox") / "state.db", _receiver.url)
    process.start()
    yield process
    process.stop()


@pytest.fixture(scope="session")
def base_url(request: pytest.FixtureRequest) -> str:
    """Where the API is."""
    if REAL_KEY:
        return "https://api.stripe.com"
    process: Process = request.getfixturevalue("_sandbox")
    return process.base_url


@pytest.fixture(scope="session")
def _driver(base_url: str) -> Iterator[Driver]:
    assert not REAL_KEY or REAL_KEY.startswith(("sk_test_", "rk_test_")), "STRIPE_TEST_KEY must be a test key"
    driver = Driver(base_url, REAL_KEY or KEY)
    yield driver
    driver.close()


@pytest.fixture
def api(_driver: Driver, base_url: str) -> Driver:
    """The official client; on the sandbox the account is empty."""
    if not REAL_KEY:
        Steer(base_url).post("reset")
    return _driver


@pytest.fixture
def steer(api: Driver) -> Steer:
    """The sandbox's steering."""
    if REAL_KEY:
        pytest.skip("needs the sandbox's steering")
    return Steer(api.base_url)


@pytest.fixture
def receiver(steer: Steer, _receiver: Receiver) -> Receiver:
    """The webhook endpoint, empty; asked for together with `steer`, which has emptied the account."""
    _receiver.answers.clear()
    _receiver.hits.clear()
    return _receiver


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """A state file for a process of the test's own."""
    return tmp_path / "made" / "state.db"
