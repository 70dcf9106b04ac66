"""Which rounds there are: every point once, or every point in every life that comes to it."""

from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import zip_longest

from crashes.driver import IDLE, Round
from crashes.points import KINDS, Spec

CHARGED, STARTED = "charged", "started anew"

Reached = Mapping[str, Counter[Spec]]


def every_point(reached: Reached) -> list[Round]:
    """Each point once, in the first life that comes to it; what happens all the time, while somebody is charged."""
    homes: dict[Spec, str] = {
        spec: STARTED if "connections." in spec.point or "listen" in spec.point else CHARGED
        for spec in reached.get(IDLE, ())
    }
    for life, points in reached.items():
        for spec in points:
            homes.setdefault(spec, life)
    return list(_packed((life, spec) for spec, life in homes.items()))


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
