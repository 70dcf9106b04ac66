"""SIGKILL at the commits and calls of the main lives; and no commit, query or call without a crash point."""

import asyncio
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from crashes.driver import Driver, Round
from crashes.lives import BY_NAME
from crashes.plan import every_pair
from crashes.points import Spec
from tests.crashes.completeness import (
    OPERATORS,
    UNREACHED_PLACES,
    UNREACHED_QUERIES,
    commit_places,
    gateway_methods,
    named_queries,
    unreached,
)

pytestmark = pytest.mark.timeout(900)  # a whole system, many lives, a crash after the other
MAIN = ("charged", "hold captured", "hold voided", "refunded")
# Of `make crashes`: the intent, the call, the answer, and what follows from it, each in four lives.
AT_STAKE = re.compile(
    r"api commit \S*(api\.(accept|capture|void|refund)|inbox\.receive) "
    r"|relay commit relay\.dispatch "
    r"|worker call POST \S+ (sent|half)"
    r"|worker commit \S*(worker\.begin_attempt|queues\.ack) "
    r"|worker commit \S*inbox\.change_payment\+outbox\.append\+inbox\.add_history\+inbox\.finish "
)


class Run:
    """One system for the module, and its driver."""

    def __init__(self, driver: Driver, runner: asyncio.Runner) -> None:
        self.driver = driver
        self._runner = runner

    def pass_by(self) -> None:
        """Every life, while nobody dies."""
        assert self._runner.run(self.driver.pass_by(list(BY_NAME))) == []
        assert self.driver.system.problems == []

    def rounds(self) -> list[Round]:
        """What is at stake in the main lives, each point of each once."""
        reached = self._runner.run(self.driver.record(MAIN))
        rounds: list[Round] = []
        done: set[Spec] = set()
        for life, specs in every_pair(reached):
            new = tuple(spec for spec in specs if AT_STAKE.match(str(spec)) and spec not in done)
            done.update(new)
            rounds += [Round(life, new)] if new else []
        return rounds

    def crash(self, round_: Round) -> None:
        result = self._runner.run(self.driver.crash(round_))
        assert (result.faults, result.missed, self.driver.system.problems) == ([], [], []), round_


@pytest.fixture(scope="module")
def run() -> Iterator[Run]:
    with tempfile.TemporaryDirectory(prefix="payments-crashes-") as home, asyncio.Runner() as runner:
        Path(home).chmod(0o755)  # as root, PostgreSQL runs as another user

        async def start() -> Driver:
            return Driver(Path(home))

        driver = runner.run(start())
        try:
            yield Run(driver, runner)
        finally:
            runner.run(driver.close())


def test_no_commit_query_or_call_is_without_a_crash_point(run: Run) -> None:
    run.pass_by()
    reached = [spec.point for spec in run.driver.points.reached()]
    assert [point for point in reached if "unknown" in point or "unnamed" in point] == []
    words = {word for point in reached for word in re.split(r"[ +/]", point)}
    assert named_queries() - words - set(UNREACHED_QUERIES) == set()
    sites = run.driver.points.sites()
    assert unreached(commit_places(), sites, ("commit",)) - set(UNREACHED_PLACES) == set()
    assert unreached(gateway_methods(), sites, ("passed",)) == set()
    assert {name for name, why in UNREACHED_QUERIES.items() if why == OPERATORS} & words == set()


def test_exceptions_are_still_there() -> None:
    assert set(UNREACHED_QUERIES) <= named_queries()
    assert set(UNREACHED_PLACES) <= {place.name for place in commit_places()}


def test_crash_loses_nothing_and_doubles_nothing(run: Run) -> None:
    rounds = run.rounds()
    assert len(rounds) > 20
    for round_ in rounds:
        run.crash(round_)
