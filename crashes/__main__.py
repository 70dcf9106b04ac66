"""`make crashes`: records which points each life comes to, then has processes die at every one of them."""

import argparse
import asyncio
import re
import shlex
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from crashes.driver import IDLE, Driver, Result, Round
from crashes.lives import BY_NAME
from crashes.plan import Reached, every_pair, every_point, further_rounds
from crashes.points import read_spec
from soak.books import DOUBLED, LOST, UNBALANCED

MISSED_SHARE_MAX = 0.05  # lives are races now and then: a point may stay out of reach in one round, and in the next


def main() -> int:
    """Records, kills, compares, tells; exit code 0: nothing lost or doubled."""
    parser = argparse.ArgumentParser(prog="python -m crashes", description=__doc__)
    parser.add_argument("--life", action="append", choices=BY_NAME, metavar="NAME", help="this life (again for more)")
    parser.add_argument("--at", action="append", type=read_spec, metavar="POINT", help="one round: die here (and here)")
    parser.add_argument("--only", type=re.compile, default=re.compile(""), metavar="REGEX", help="points like this")
    parser.add_argument("--pairs", action="store_true", help="every point in every life, not in one alone: hours")
    args = parser.parse_args()
    if args.at and len(args.life or ()) != 1:
        parser.error("--at needs one --life")
    home = Path(tempfile.mkdtemp(prefix="payments-crashes-"))
    home.chmod(0o755)  # as root, PostgreSQL runs as another user
    print(f"diary, points and logs in {home}", flush=True)
    began = time.monotonic()
    driver, results = asyncio.run(run(home, args))
    return report(driver, results, time.monotonic() - began)


async def run(home: Path, args: argparse.Namespace) -> tuple[Driver, list[Result]]:
    """Every round; a point that nobody died at is sought again alone, also in other lives, until somebody does."""
    driver = Driver(home)
    reached: Reached = {}
    try:
        if args.at:
            rounds = [Round(args.life[0], tuple(args.at))]
        else:
            reached = await driver.record([IDLE, *(args.life or BY_NAME)])
            rounds = planned(reached, args)
        print(f"{len(rounds)} rounds", flush=True)
        results = await go_through(driver, rounds)
        for result in list(results):
            for spec in result.missed:
                results += await seek(driver, further_rounds(spec, result.round.life, reached))
        return driver, results
    finally:
        await driver.close()


async def seek(driver: Driver, rounds: Sequence[Round]) -> list[Result]:
    """One after the other, until somebody dies as planned."""
    results: list[Result] = []
    for round_ in rounds:
        results += await go_through(driver, [round_])
        if not results or not results[-1].missed:
            break
    return results


async def go_through(driver: Driver, rounds: Sequence[Round]) -> list[Result]:
    """One after the other; no further when something is under way for ever, for that would be in every later round."""
    results: list[Result] = []
    for round_ in rounds:
        if driver.is_stuck:
            break
        results.append(await tell(driver, round_))
    return results


def planned(reached: Reached, args: argparse.Namespace) -> list[Round]:
    """All rounds that there are, or those asked for."""
    rounds = (every_pair if args.pairs else every_point)(reached)
    asked = [Round(one.life, tuple(spec for spec in one.specs if args.only.search(str(spec)))) for one in rounds]
    return [one for one in asked if one.specs]


async def tell(driver: Driver, round_: Round) -> Result:
    """Goes through a round, and says at once what was wrong with it."""
    problems = len(driver.system.problems)
    result = await driver.crash(round_)
    found = [f"{fault.kind} {fault.what}" for fault in result.faults] + driver.system.problems[problems:]
    for text in found:
        print(f"  {text}", flush=True)
    if found:
        print(f"    again: {again(round_)}", flush=True)
    return result


def again(round_: Round) -> str:
    """The command that goes through a round alone."""
    words = ["python", "-m", "crashes", "--life", round_.life]
    return shlex.join(words + [word for spec in round_.specs for word in ("--at", str(spec))])


def report(driver: Driver, results: Sequence[Result], took_s: float) -> int:
    """What came of it; the last line is the verdict."""
    armed = {spec for result in results for spec in result.round.specs}
    fired = [spec for result in results for spec in result.round.specs if spec not in result.missed]
    missed = sorted(armed.difference(fired))
    for spec in missed:
        print(f"  missed: {spec}")
    kinds = Counter(fault.kind for result in results for fault in result.faults)
    problems = driver.system.problems
    is_well = not kinds and not problems and len(missed) <= max(1, MISSED_SHARE_MAX * len(armed))
    print(
        f"{'AGREE' if is_well else 'DISAGREE'}: {len(armed)} points, {len(fired)} crashes in {took_s:.0f} s; "
        f"{kinds[LOST]} lost, {kinds[DOUBLED]} doubled, {kinds[UNBALANCED]} unbalanced, "
        f"{len(problems)} other problems, {len(missed)} points missed"
    )
    return 0 if is_well else 1


if __name__ == "__main__":
    sys.exit(main())
