"""docs/state-machines.md draws the tables of the code, whole and nothing else; PostgreSQL knows the same of refunds."""

import re
from pathlib import Path

from payments.domain.refunds import REFUND_TRANSITIONS, RefundStatus
from payments.domain.states import TRANSITIONS
from tests.development.databases import Database

PAGE = Path(__file__).parents[2] / "docs" / "state-machines.md"
ROW = re.compile(r"^\| ([A-Z_]+) \| ([A-Z_]+) \| ?([a-z-]*) ?\|$", re.MULTILINE)
REFUND_ROW = re.compile(r"^\| refund ([A-Z_]+) \| ([A-Z_]+) \| ?([a-z-]*) ?\|$", re.MULTILINE)


def test_the_page_draws_every_transition_and_what_it_publishes() -> None:
    drawn = ROW.findall(PAGE.read_text())
    known = [(old.value, new.value, event or "") for old, ways in TRANSITIONS.items() for new, event in ways.items()]
    assert sorted(drawn) == sorted(known)


def test_the_page_draws_every_way_of_a_refund_and_what_it_publishes() -> None:
    drawn = REFUND_ROW.findall(PAGE.read_text())
    ways = REFUND_TRANSITIONS.items()
    assert sorted(drawn) == sorted((old.value, new.value, event or "") for old, to in ways for new, event in to.items())


def test_sql_knows_the_same_ways_of_a_refund(database: Database) -> None:
    with database.connect() as conn:
        found = conn.execute(
            "select a, b from unnest(%(all)s::text[]) a, unnest(%(all)s::text[]) b"
            " where payments.refund_may_change(a, b)",
            {"all": [status.value for status in RefundStatus]},
        ).fetchall()
    assert sorted(found) == sorted((old.value, new.value) for old, ways in REFUND_TRANSITIONS.items() for new in ways)
