"""Whose a row of the inbox is."""

from uuid import uuid4

import pytest

from payments.inbox.reading import InboxRow, read_row
from payments.settings import Settings
from tests.domain.stripe_objects import answered, fetched, intent

SETTINGS = Settings.load({})


@pytest.mark.parametrize("source", ["stripe-api", "reconciler"])
def test_answer_is_about_the_payment_that_was_asked_for_whatever_it_shows(source: str) -> None:
    """So that another's object is a contradiction of ours, and not that one's news."""
    asked_for, shown = uuid4(), uuid4()
    thing = intent(shown, "succeeded")
    payload = answered(thing) if source == "stripe-api" else fetched(thing, 0)
    message = read_row(InboxRow(1, source, "m", "t", asked_for, payload, 0), SETTINGS)
    assert (message.payment_id, message.intent_id) == (asked_for, thing["id"])
    nobodys = read_row(InboxRow(1, source, "m", "t", None, payload, 0), SETTINGS)
    assert nobodys.payment_id == shown
