"""Where a point is sought, and where once more."""

from collections import Counter

from crashes.driver import IDLE, Round
from crashes.plan import FURTHER_LIVES_MAX, further_rounds
from crashes.points import read_spec

SPEC = read_spec("worker commit inbox.supersede+inbox.receive after")


def test_point_that_nobody_came_to_is_sought_again_where_it_is_met_most_often() -> None:
    lives = {f"life {number}": Counter({SPEC: number}) for number in range(1, 7)}
    lives["another"] = Counter({read_spec("worker commit inbox.supersede after"): 9})
    lives[IDLE] = Counter({SPEC: 9})
    rounds = further_rounds(SPEC, "life 5", lives)
    assert rounds == [Round(f"life {number}", (SPEC,)) for number in (5, 6, 4, 3)]
    assert len(rounds) == 1 + FURTHER_LIVES_MAX


def test_point_of_one_life_alone_is_sought_there_once_more() -> None:
    assert further_rounds(SPEC, "refunded", {}) == [Round("refunded", (SPEC,))]
