"""docs/state-machines.md draws the table of payments/domain/states.py, whole and nothing else."""

import re
from pathlib import Path

from payments.domain.states import TRANSITIONS

PAGE = Path(__file__).parents[2] / "docs" / "state-machines.md"
ROW = re.compile(r"^\| ([A-Z_]+) \| ([A-Z_]+) \| ?([a-z-]*) ?\|$", re.MULTILINE)


def test_the_page_draws_every_transition_and_what_it_publishes() -> None:
    drawn = ROW.findall(PAGE.read_text())
    known = [(old.value, new.value, event or "") for old, ways in TRANSITIONS.items() for new, event in ways.items()]
    assert sorted(drawn) == sorted(known)
