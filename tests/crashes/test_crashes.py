"""SIGKILL at the commits and calls of the main lives; and no commit, query or call without a crash point."""

import asyncio
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from crashes.__main__ import MISSED_SHARE_MAX
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
# Without webhooks: else they would tell what a retry must find out, and hide one under another key.
MAIN = ("charged unheard", "captured unheard", "voided unheard", "refunded unheard")
# They come to no line of ours that others do not come to.
ALIKE = {"waited for", "declined, waited for", "no funds", "card expired", "sent thrice without a key", "hold kept"}
ALIKE |= {"hold captured in part", "refunded twice alike", "refunded too much", "held in browser", "3-D Secure failed"}
ALIKE |= {"paid with a second card", "left at 3-D Secure", "request lost", "answer lost", "key in use", *MAIN}
PASSES_MAX = 3  # whoever is quicker settles a payment, and one pass may go by what another comes to
INTENTS = "/v1/payment_intents"
CALLS = {
    f"call POST {path} sent"
    for path in (INTENTS, f"{INTENTS}/{{id}}/capture", f"{INTENTS}/{{id}}/cancel", "/v1/refunds")
}
# Of `make crashes`: the intent, the call, the answer, and what follows from it, each in four lives.
AT_STAKE = re.compile(
    r"api commit (.*[+])?(api\.(accept|capture|void|refund)) "
    r"|relay commit relay\.dispatch "
    r"|worker call POST \S+ sent"
    r"|worker commit .*(worker\.begin_attempt|queues\.ack) "
    r"|worker commit .*inbox\.change_payment\+outbox\.append\+inbox\.add_history\+inbox\.finish "
)


class Run:
    """One system for the module, and its driver."""

    def __init__(self, driver: Driver, runner: asyncio.Runner) -> None:
        self.driver = driver
        self._runner = runner

    def pass_by(self) -> None:
        """Every kind of life, while nobody dies."""
        assert self._runner.run(self.driver.pass_by([life for life in BY_NAME if life not in ALIKE])) == []
        assert self.driver.system.problems == []

    def words(self) -> set[str]:
        """Whatever the points that were reached are named by."""
        return {word for spec in self.driver.points.reached() for word in re.split(r"[ +/]", spec.point)}

    def gaps(self) -> set[str]:
        """Commits, queries and calls that no process has come to so far, and that nobody excuses."""
        sites = self.driver.points.sites()
        return (
            (named_queries() - self.words() - set(UNREACHED_QUERIES))
            | (unreached(commit_places(), sites, ("commit",)) - set(UNREACHED_PLACES))
            | unreached(gateway_methods(), sites, ("passed",))
        )

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

    def crash(self, round_: Round) -> list[Round]:
        """Goes through a round; those of its points, each alone, at which nobody died this time."""
        result = self._runner.run(self.driver.crash(round_))
        assert (result.faults, self.driver.system.problems) == ([], []), round_
        return [Round(round_.life, (spec,)) for spec in result.missed]


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
    for _ in range(PASSES_MAX):
        run.pass_by()
        if not (gaps := run.gaps()):
            break
    assert gaps == set()
    reached = [spec.point for spec in run.driver.points.reached()]
    assert [point for point in reached if "unknown" in point or "unnamed" in point] == []
    assert {name for name, why in UNREACHED_QUERIES.items() if why == OPERATORS} & run.words() == set()


def test_exceptions_are_still_there() -> None:
    assert set(UNREACHED_QUERIES) <= named_queries()
    assert set(UNREACHED_PLACES) <= {place.name for place in commit_places()}


def test_52_crash_loses_nothing_and_doubles_nothing(run: Run) -> None:
    rounds = run.rounds()
    points = {spec.point for round_ in rounds for spec in round_.specs}
    assert {point for point in points if point.startswith("call ")} == CALLS
    assert len(points) >= 20
    missed = [again for round_ in rounds for again in run.crash(round_)]
    # Lives are races: whoever is quicker settles a payment, and another point is passed by.
    missed = [again for round_ in missed for again in run.crash(round_)]
    assert len(missed) <= MISSED_SHARE_MAX * sum(len(round_.specs) for round_ in rounds), missed
