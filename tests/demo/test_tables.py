"""The tables that the demo ends in can be read on the narrowest of usual terminals."""

import io

import pytest
from rich.console import Console, RenderableType

from payments.demo.books import Books, Sums
from payments.demo.shop import Outcome
from payments.demo.stories import STORIES
from payments.demo.tables import table_of_books, table_of_stories

LARGE = 111_111_111


def shown(table: RenderableType) -> str:
    console = Console(width=80, file=io.StringIO(), force_terminal=False)
    with console.capture() as capture:
        console.print(table)
    return capture.get()


@pytest.fixture
def outcomes() -> list[Outcome]:
    return [Outcome(story, {"paymentId": story.name, "status": "ACTION_REQUIRED"}, []) for story in STORIES]


def test_table_of_stories_shows_every_name_and_sum_whole_in_80_columns(outcomes: list[Outcome]) -> None:
    books = Books({story.name: Sums(LARGE, LARGE + 1, LARGE + 2, 0) for story in STORIES}, {}, [])
    text = shown(table_of_stories(outcomes, books))
    assert "…" not in text
    for story in STORIES:
        assert f"\n{story.name} " in text
    for amount in (LARGE, LARGE + 1, LARGE + 2):
        assert text.count(str(amount)) == len(STORIES)


def test_table_of_stories_leaves_out_what_was_not_told(outcomes: list[Outcome]) -> None:
    books = Books({story.name: Sums() for story in STORIES}, {}, [])
    text = shown(table_of_stories(outcomes[:1], books))
    assert STORIES[0].name in text
    assert STORIES[-1].name not in text


def test_table_of_books_shows_the_difference() -> None:
    books = Books({"a": Sums(1, 200, 3, 4), "b": Sums(1, 0, 0, 0)}, {"a": Sums(2, 150, 3, 4)}, [])
    lines = [line.split() for line in shown(table_of_books(books)).splitlines()]
    assert ["still", "held", "2", "2", "0"] in lines
    assert ["charged", "200", "150", "50"] in lines
    assert ["given", "back", "3", "3", "0"] in lines
