"""docs/life-of-a-payment.md draws the state machines of the code, and names only what is there."""

import re
from pathlib import Path

from payments.demo.stories import STORIES
from payments.domain.refunds import REFUND_TRANSITIONS
from payments.domain.states import TRANSITIONS
from payments.outbox.asyncapi import QUEUES
from tests.docs.diagrams import PAGE, diagrams, drawn

ROOT = Path(__file__).parents[2]
TEXT = PAGE.read_text(encoding="utf-8")


def test_the_page_draws_the_state_machines_of_the_code() -> None:
    assert drawn() == diagrams(), "draw them anew: python -m tests.docs.diagrams"


def test_the_pictures_leave_out_no_way() -> None:
    edges = re.findall(r"^    ([A-Z_]+) --> ([A-Z_]+)(?:: ([a-z-]+))?$", "".join(diagrams().values()), re.MULTILINE)
    known = [
        (old.value, new.value, event.value if event else "")
        for machine in (TRANSITIONS, REFUND_TRANSITIONS)
        for old, ways in machine.items()
        for new, event in ways.items()
    ]
    assert sorted(edges) == sorted(known)


def test_every_folder_and_file_on_the_page_exists() -> None:
    named = set(re.findall(r"`((?:payments|sql|stripe_sandbox|examples)/[\w/.]*)`", TEXT))
    assert len(named) > 20
    assert [one for one in sorted(named) if not (ROOT / one).exists()] == []


def test_every_link_on_the_page_leads_somewhere() -> None:
    links = re.findall(r"\]\(([^)#]+)", TEXT)
    assert [link for link in links if "://" not in link and not (PAGE.parent / link).exists()] == []


def test_every_table_view_and_queue_on_the_page_exists() -> None:
    schema = (ROOT / "sql" / "schema.sql").read_text(encoding="utf-8")
    for name in set(re.findall(r"`payments\.(\w+)`", TEXT)):
        assert re.search(rf"create (table|view|function) payments\.{name}\b", schema), name
    for queue in QUEUES:
        assert f"`{queue}`" in TEXT, queue


def test_the_page_tells_what_each_story_of_the_demo_shows() -> None:
    assert [story.name for story in STORIES if f"*{story.name}*" not in " ".join(TEXT.split())] == []
