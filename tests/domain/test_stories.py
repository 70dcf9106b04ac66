"""Every order and repetition of what Stripe says ends each story alike, and tells each outcome at most once."""

import random
from collections import Counter
from itertools import count, islice, permutations
from uuid import UUID

import msgspec
import pytest

from payments.domain.decisions import Wait
from payments.domain.payment import Payment
from payments.domain.signals import Signal
from payments.domain.states import PaymentStatus
from tests.domain.machine import Machine
from tests.domain.stories import MAKERS, stories
from tests.domain.story import Story, Word
from tests.domain.stripe_objects import CHARGE, Json

_S = PaymentStatus
_VOIDABLE = (_S.REQUESTED, _S.ACTION_REQUIRED, _S.PROCESSING, _S.AUTHORIZED)
ORDERS_MAX = 800  # six words have 720 orders; of more, as many at random
ROUNDS_MAX = 10

STORIES = stories((UUID(int=number) for number in count(1_000_000)), (f"pi_story{number}" for number in count(1)))
each_story = pytest.mark.parametrize("story", STORIES, ids=[story.name for story in STORIES])


def begin(story: Story) -> Machine:
    machine = Machine(story.payment())
    if story.is_paid:
        (intent_id,) = (name for name in story.truth if name.startswith("pi_"))
        machine.payment = msgspec.structs.replace(
            machine.payment,
            status=_S.SUCCEEDED,
            amount_authorized=1000,
            amount_captured=1000,
            processor_payment_intent=intent_id,
            processor_reference=CHARGE,
        )
    for refund in story.asked_refunds():
        machine.keep(refund)
    return machine


def wish(story: Story, payment: Payment) -> Payment | None:
    """The payment once the API has taken our wish; None while the API would refuse it."""
    change = msgspec.structs.replace
    match (story.wish or "").split():
        case ["capture", amount] if payment.status is _S.AUTHORIZED:
            return change(payment, status=_S.CAPTURING, capture_id=story.capture_id, amount_to_capture=int(amount))
        case ["void"] if payment.status in _VOIDABLE:
            return change(payment, status=_S.VOIDING, next_action=None)
        case ["wait", *_] if payment.status is _S.ACTION_REQUIRED:
            return payment
        case []:
            return payment
        case _:
            return None


def hear(machine: Machine, truth: dict[str, Json], signal: Signal) -> list[Signal]:
    """Weighs a signal, asking Stripe where it is in doubt; the signals that have to wait."""
    todo: list[Signal] = [signal]
    waiting: list[Signal] = []
    for _ in range(ROUNDS_MAX):
        if not todo:
            return waiting
        left = machine.weigh(todo[0])
        if isinstance(left, Wait):
            waiting.append(todo[0])
        todo[:1] = machine.fetched(left, truth) if left is not None and not isinstance(left, Wait) else []
    raise AssertionError(f"asked and asked again about {todo}")


def play(story: Story, words: list[Word], wish_at: int | None) -> Machine | None:
    """The machine at the end, hearing these words; None when the wish cannot be made at that point, or is not due."""
    machine = begin(story)
    wished = story.wish is None
    waiting: list[Signal] = []
    for number, word in enumerate(words):
        if not wished and (number == wish_at or word.because):
            after = wish(story, machine.payment)
            if after is None:
                return None
            machine.payment, wished = after, True
        waiting += hear(machine, story.shown(wished=wished), word.signal)
    for _ in range(ROUNDS_MAX):
        waiting = [left for signal in waiting for left in hear(machine, story.truth, signal)]
    assert not waiting
    return machine if wished else None


def outcome(machine: Machine) -> tuple[object, ...]:
    """All that is left at the end, ids of what the machine made by itself aside."""
    row = msgspec.structs.replace(machine.payment, last_history_id=0, was_customer_asked=False)
    refunds = sorted(
        (r.amount, r.status.value, r.external, r.reason, r.processor_reference, r.failure_reason)
        for r in machine.refunds.values()
    )
    disputes = [(d.status, d.closed_at is None) for d in machine.disputes.values()]
    return row, refunds, disputes


def assert_ended_as_told(story: Story, machine: Machine) -> None:
    payment = machine.payment
    assert (payment.status, payment.amount_captured) == (story.ends_as, story.captured)
    assert payment.disputed is story.disputed
    refunds = sorted((r.amount, r.status.value, r.external) for r in machine.refunds.values())
    assert refunds == sorted(story.ends_refunds)
    told = Counter(event.value for event in machine.published)
    for name in story.published:
        expected = sum(refund[1] == "PROCESSED" for refund in refunds) if name == "refund-processed" else 1
        assert told[name] == expected, (name, told)
    assert all(number == 1 or name in {"refund-processed", "payment-action-required"} for name, number in told.items())


def orders(story: Story) -> list[list[Word]]:
    chance = random.Random(story.name)
    if len(story.words) <= 6:
        alike = [list(order) for order in islice(permutations(story.words), ORDERS_MAX)]
    else:
        alike = [chance.sample(story.words, len(story.words)) for _ in range(ORDERS_MAX)]
    copied = [word for word in story.words for _ in range(3)]
    return alike + [chance.sample(copied, len(copied)) for _ in range(ORDERS_MAX // 4)]


@each_story
def test_every_order_and_repetition_ends_alike(story: Story) -> None:
    ends = []
    chance = random.Random(story.name)
    for words in orders(story):
        machine = play(story, words, chance.randrange(len(words)) if story.wish == "void" else None)
        if machine is not None:
            assert_ended_as_told(story, machine)
            ends.append(outcome(machine))
    assert len(ends) >= 20, "enough orders are possible"
    assert all(end == ends[0] for end in ends)


def test_every_story_has_a_name_of_its_own() -> None:
    assert len({story.name for story in STORIES}) == len(MAKERS)
