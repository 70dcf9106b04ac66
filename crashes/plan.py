"""Which rounds there are: every point once, or every point in every life that comes to it."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import zip_longest

from crashes.driver import IDLE, STARTED, Round
from crashes.points import KINDS, Spec

# How a process connects, and what a worker's reconciler does at once, and then every minute or hour.
AT_STARTS = re.compile(r"connections\.|listen|audit\.|retention\.|reconciler\.(first_payment_at|begin_progress)")

FURTHER_LIVES_MAX = 3

Reached = Mapping[str, Counter[Spec]]


def every_point(reached: Reached) -> list[Round]:
    """Each point once, in a life that comes to it again: what happens at a start, or every minute, when all start."""
    specs = dict.fromkeys(spec for points in reached.values() for spec in points)
    return list(_packed((_home(spec, reached), spec) for spec in specs))


def _home(spec: Spec, reached: Reached) -> str:
    """The first life that comes to a point at least half as often as any other: once may have been chance."""
    lives = {life: points[spec] for life, points in reached.items() if life != IDLE and spec in points}
    is_of_starts = spec in reached.get(IDLE, ()) or AT_STARTS.search(spec.point)
    if not lives or (is_of_starts and STARTED in lives):
        return STARTED
    most = max(lives.values())
    return next(life for life, count in lives.items() if 2 * count >= most)


def further_rounds(spec: Spec, life: str, reached: Reached) -> list[Round]:
    """Where else a point is sought that nobody came to: in its life once more, and in others that came to it often."""
    others = {name: points[spec] for name, points in reached.items() if spec in points and name not in {life, IDLE}}
    often = sorted(others, key=lambda name: -others[name])[:FURTHER_LIVES_MAX]
    return [Round(name, (spec,)) for name in (life, *often)]


def every_pair(reached: Reached) -> list[Round]:
    """Each life with each point of its own, at the last time that it comes there."""
    idle = reached.get(IDLE, Counter[Spec]())
    return list(
        _packed(
            (life, spec._replace(nth=count))
            for life, points in reached.items()
            for spec, count in points.items()
            if spec not in idle and not spec.point.endswith((" none before", " none after"))
        )
    )


def _packed(pairs: Iterator[tuple[str, Spec]]) -> Iterator[Round]:
    """In one round a process of each kind may die: whose life it was stays clear."""
    by_life: dict[str, dict[str, list[Spec]]] = {}
    for life, spec in pairs:
        by_life.setdefault(life, {kind: [] for kind in KINDS})[spec.kind].append(spec)
    for life, kinds in by_life.items():
        for specs in zip_longest(*(sorted(specs) for specs in kinds.values())):
            yield Round(life, tuple(spec for spec in specs if spec is not None))
