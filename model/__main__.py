"""Checks the protocol, and that each of its broken variants is found out: `python -m model`, or `make model`."""

import argparse
import sys
import tempfile
from pathlib import Path

from model.checks import BROKEN, CHECKS, Check
from model.spin import SpinFailed, find_missing, tell_story, verify


def main() -> int:
    """0 when the protocol holds and every broken variant was found out, 1 when not, 2 when it could not be checked."""
    parser = argparse.ArgumentParser(prog="python -m model", description=__doc__)
    parser.add_argument("--all", action="store_true", help="also everything at once: hours, up to 12 GB")
    names = [check.name for check in BROKEN]
    parser.add_argument("--story", choices=names, metavar="VARIANT", help=f"how it goes wrong: {', '.join(names)}")
    chosen = parser.parse_args()
    missing = find_missing()
    if missing is not None:
        _say(f"error: {missing}")
        return 2
    if chosen.story:
        return _tell(next(check for check in BROKEN if check.name == chosen.story))
    checks = [check for check in CHECKS if chosen.all or not check.is_deep]
    faults = [check.name for check in checks if not _is_as_expected(check)]
    _say(f"{len(checks)} checks, {len(faults)} not as they should be{': ' if faults else '.'}{', '.join(faults)}")
    return 1 if faults else 0


def _is_as_expected(check: Check) -> bool:
    """Prints one line; whether the outcome is as it should be."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            result = verify(check, Path(folder))
        except SpinFailed as error:
            _say(f"{check.name}: not checked\n{error}")
            return False
    is_expected = check.is_met_by(result.broken)
    verdict = "all holds" if result.broken is None else f"broken: {result.broken}"
    _say(
        f"{'ok  ' if is_expected else 'BAD '} {check.name:22} {result.states:>10,} states {result.memory_mb:>6.0f} MB "
        f"{result.seconds:>6.1f} s  {verdict}"
    )
    return is_expected


def _tell(check: Check) -> int:
    with tempfile.TemporaryDirectory() as folder:
        for step in tell_story(check, Path(folder)):
            _say(step)
    return 0


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
