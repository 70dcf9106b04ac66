"""Each story through the real database, its words mixed with all others' and weighed by two recorders at once."""

import asyncio
import random
from collections import Counter
from dataclasses import dataclass
from itertools import count
from typing import Any
from uuid import UUID

import pytest

from payments.domain.identifiers import new_id
from tests.domain.stories import stories
from tests.domain.story import Story, Word, expanded
from tests.domain.stripe_objects import answered, intent
from tests.inbox.conftest import Desk
from tests.inbox.rows import insert_message, insert_payment

ROUNDS_MAX = 60
COPIES = 2  # of each story, in another order each
REPEATED = frozenset({"payment-requested", "refund-processed", "payment-action-required"})
WISHES = {
    "capture": """
        update payments.payments set status = 'CAPTURING', capture_id = %(capture_id)s, amount_to_capture = %(amount)s
        where payment_id = %(payment_id)s and status = 'AUTHORIZED' returning payment_id
    """,
    "void": """
        update payments.payments set status = 'VOIDING', next_action = null
        where payment_id = %(payment_id)s and status in ('REQUESTED', 'ACTION_REQUIRED', 'PROCESSING', 'AUTHORIZED')
        returning payment_id
    """,
    "wait": "select from payments.payments where payment_id = %(payment_id)s and status = 'ACTION_REQUIRED'",
}
INSERT_REFUND = "insert into payments.refunds (refund_id, payment_id, amount, currency) values (%s, %s, %s, 'EUR')"
FOUND = """
select
  p.status, p.amount_captured, p.disputed, p.amount_reserved,
  array(select event_type from payments.outbox where aggregate_id = p.payment_id order by sequence) as events,
  (select coalesce(json_agg(json_build_array(amount, status, external) order by amount, status), '[]')
   from payments.refunds r where r.payment_id = p.payment_id) as refunds
from payments.payments p where payment_id = %s
"""


@dataclass
class Telling:
    """A story under way: the words that are still to come, and whether our wish was made."""

    story: Story
    words: list[Word]
    is_wished: bool

    def next_word(self) -> Word | None:
        """Any word that can come now."""
        for number, word in enumerate(self.words):
            if self.is_wished or not word.because:
                return self.words.pop(number)
        return None


def begin(desk: Desk, story: Story) -> None:
    insert_payment(desk.admin, story.payment_id, story.capture_method, story.payment_method)
    show(desk, story, wished=False)
    if story.is_paid:
        (intent_id,) = (name for name in story.truth if name.startswith("pi_"))
        desk.answer(answered(expanded(intent(story.payment_id, "succeeded", id=intent_id))), story.payment_id, 999)


def show(desk: Desk, story: Story, *, wished: bool) -> None:
    for object_id, thing in story.shown(wished=wished).items():
        things = {"payment_intent": desk.truth.intents, "refund": desk.truth.refunds, "dispute": desk.truth.disputes}
        things.get(thing["object"], {})[object_id] = thing


def wish(desk: Desk, story: Story) -> bool:
    name, _, amount = (story.wish or "").partition(" ")
    values = {"payment_id": story.payment_id, "capture_id": story.capture_id}
    if name == "capture":
        values["amount"] = int(amount)  # type: ignore[assignment]
    is_taken = bool(desk.admin.execute(WISHES[name], values).fetchall())
    show(desk, story, wished=is_taken)
    return is_taken


def tell(desk: Desk, telling: Telling, number: int) -> None:
    word = telling.next_word()
    if word is not None:
        is_event = word.source == "stripe-webhook"
        # The same event again, or another that says the same.
        message_id = f"{word.payload['id']}{number % 2}" if is_event else f"req_{telling.story.payment_id}/{number}"
        payment_id = None if is_event else telling.story.payment_id
        insert_message(desk.admin, word.source, message_id, word.kind, payment_id, word.payload)


def assert_ended_as_told(desk: Desk, story: Story) -> None:
    status, captured, disputed, reserved, events, refunds = desk.one(FOUND, story.payment_id)
    what = (story.name, desk.history(story.payment_id))
    assert (status, captured, disputed) == (story.ends_as, story.captured, story.disputed), what
    assert [tuple(refund) for refund in refunds] == sorted(story.ends_refunds), what
    assert reserved == sum(amount for amount, state, _ in refunds if state != "FAILED"), what
    told = Counter(events)
    for name in story.published:
        expected = sum(state == "PROCESSED" for _, state, _ in refunds) if name == "refund-processed" else 1
        assert told[name] == expected, (told, what)
    assert all(number == 1 or name in REPEATED for name, number in told.items()), (told, what)


@pytest.mark.anyio
@pytest.mark.every_postgres
async def test_two_recorders_end_every_story_as_told_in_any_order(desk: Desk) -> None:
    chance = random.Random(3)
    numbers = count(1)
    ids = (new_id() for _ in iter(int, 1))
    told = [story for _ in range(COPIES) for story in stories(ids, (f"pi_story{next(numbers)}" for _ in iter(int, 1)))]
    for story in told:
        begin(desk, story)
    await desk.settle()
    for story in told:
        for refund_id in story.refunds:
            desk.sql(INSERT_REFUND, refund_id, story.payment_id, story.refund_amount)
    tellings = []
    for story in told:
        words = [word for word in story.words for _ in range(chance.randint(1, 3))]
        tellings.append(Telling(story, chance.sample(words, len(words)), story.wish is None))
    recorders = [desk.recorder, desk.another_recorder()]
    for _ in range(ROUNDS_MAX):
        if not any(telling.words for telling in tellings):
            break
        for telling in tellings:
            if not telling.is_wished and (chance.random() < 0.5 or all(word.because for word in telling.words)):
                telling.is_wished = wish(desk, telling.story)
            tell(desk, telling, next(numbers))
        await asyncio.gather(*(recorder.run_once() for recorder in recorders))
    assert [telling.story.name for telling in tellings if telling.words] == [], "never told to the end"
    await asyncio.gather(*(desk.settle(recorder) for recorder in recorders))
    for story in told:
        assert_ended_as_told(desk, story)
    assert desk.sql("select * from payments.imbalances where kind not like '%%_unowned'") == []
    assert desk.sql("select error from payments.dead_letters") == []


def test_stories_have_ids_of_their_own() -> None:
    ids = (UUID(int=number) for number in count(1))
    names = (f"pi_{number}" for number in count(1))
    found: list[Any] = [story.payment_id for story in stories(ids, names) + stories(ids, names)]
    assert len(set(found)) == len(found)
