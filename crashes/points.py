"""The directory through which the driver and the processes talk: what is armed, what was reached, who has died."""

import os
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

INJECT = Path(__file__).parent / "inject"
KINDS = ("api", "relay", "worker")
_SPEC = re.compile(r"(?P<kind>api|relay|worker) (?P<point>.+?)(?: #(?P<nth>\d+))?")


class Spec(NamedTuple):
    """Where one process of a kind is to die: the n-th time that any of them comes to a point."""

    kind: str
    point: str
    nth: int = 1

    def __str__(self) -> str:
        return f"{self.kind} {self.point}" + (f" #{self.nth}" if self.nth > 1 else "")


def read_spec(text: str) -> Spec:
    """The same as `str` has made of one; raises ValueError."""
    found = _SPEC.fullmatch(text)
    if found is None:
        raise ValueError(f"expected `api|relay|worker POINT [#N]`, got {text!r}")
    return Spec(found["kind"], found["point"], int(found["nth"] or 1))


class Points:
    """One directory; `environment` is what processes need to find it."""

    def __init__(self, home: Path) -> None:
        self.home = home
        home.mkdir(parents=True, exist_ok=True)
        self._journal = home / "journal"
        self._journal.touch()
        self._tokens: dict[str, Spec] = {}
        self._number = 0

    @property
    def environment(self) -> dict[str, str]:
        """Added to the environment of `payments up`, which hands it on."""
        paths = (str(INJECT), *filter(None, [os.environ.get("PYTHONPATH")]))
        return {"PYTHONPATH": os.pathsep.join(paths), "CRASH_POINTS_DIR": str(self.home)}

    def arm(self, specs: Iterable[Spec]) -> None:
        """From now on processes die there; whatever else was armed is not any more."""
        self._tokens = {}
        lines: dict[str, list[str]] = {kind: [] for kind in KINDS}
        for spec in specs:
            self._number += 1
            self._tokens[str(self._number)] = spec
            lines[spec.kind].append(f"{self._number}\t{spec.point}\t{spec.nth}\n")
        for kind in KINDS:
            draft = self.home / f"armed.{kind}.draft"
            draft.write_text("".join(lines[kind]), encoding="utf-8")
            draft.rename(self.home / f"armed.{kind}")

    def waiting(self) -> list[Spec]:
        """What is armed, and nobody has died of yet."""
        return [spec for token, spec in self._tokens.items() if not (self.home / f"fired.{token}").exists()]

    def disarm(self) -> list[Spec]:
        """Nobody dies any more; what nobody has died of."""
        left = self.waiting()
        self.arm(())
        return left

    def mark(self) -> int:
        """This moment, for `reached`."""
        return self._journal.stat().st_size

    def reached(self, since: int = 0) -> Counter[Spec]:
        """The points that were passed since a moment, and how often."""
        return Counter(Spec(kind, point) for kind, point in self._lines(since) if kind in KINDS)

    def sites(self) -> set[str]:
        """The lines of the product that lead to points: `commit payments/…py:12` where one commits, else `passed …`."""
        return {site for kind, site in self._lines(0) if kind == "site"}

    def _lines(self, since: int) -> Iterable[tuple[str, str]]:
        with self._journal.open("rb") as journal:
            journal.seek(since)
            for line in journal.read().decode().splitlines():
                kind, _, rest = line.partition("\t")
                yield kind, rest
