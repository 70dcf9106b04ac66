"""Whatever Stripe says, in whatever order and however often: the payment ends as what is true, and tells it once."""

from collections import Counter

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from payments.domain.payment import Payment
from payments.domain.signals import Kind, Signal
from payments.domain.states import EventType
from tests.domain.machine import Machine, heard_fetched
from tests.domain.stripe_lives import Life, Word, lives, possible_order

ONCE_IN_A_LIFE = {
    EventType.PAYMENT_SUCCEEDED,
    EventType.PAYMENT_FAILED,
    EventType.PAYMENT_VOIDED,
    EventType.PAYMENT_EXPIRED,
}
COPIES_MAX = 3


def final_row(payment: Payment) -> Payment:
    return msgspec.structs.replace(payment, last_history_id=0, was_customer_asked=False)


def in_order(life: Life) -> Payment:
    """What the words lead to when each is heard once, as it is said, and doubts are settled at once."""
    machine = Machine(life.payment())
    for word in sorted(life.words, key=lambda word: word.step):
        signal: Signal = word.signal
        while machine.weigh(signal):
            signal = heard_fetched(Kind.PAYMENT_INTENT, life.snapshots[word.step], machine.history_id)
    return machine.payment


@st.composite
def deliveries(draw: st.DrawFn) -> tuple[Life, list[Word]]:
    life = draw(lives())
    copies = [word for word in life.words for _ in range(draw(st.integers(1, COPIES_MAX)))]
    return life, possible_order(draw(st.permutations(copies)))


def assert_ended_well(life: Life, machine: Machine) -> None:
    assert machine.payment.status == life.ends_as
    assert final_row(machine.payment) == final_row(in_order(life))
    counts = Counter(machine.published)
    assert all(counts[event] <= 1 for event in ONCE_IN_A_LIFE)
    ending = f"payment-{life.ends_as.lower()}"
    if ending in {event.value for event in ONCE_IN_A_LIFE}:
        assert counts[EventType(ending)] == 1
        assert machine.published[-1] == ending


@settings(max_examples=400, deadline=None)
@given(deliveries())
def test_every_order_and_repetition_ends_alike(delivered: tuple[Life, list[Word]]) -> None:
    life, words = delivered
    machine = Machine(life.payment())
    for word in words:
        signal: Signal = word.signal
        rounds = 0
        while machine.weigh(signal):
            signal = heard_fetched(Kind.PAYMENT_INTENT, life.snapshots[-1], machine.history_id)
            rounds += 1
            assert rounds <= 1, "a fetch that nothing came between settles the doubt"
    assert_ended_well(life, machine)


@settings(max_examples=500, deadline=None)
@given(lives(), st.data())
def test_it_ends_alike_while_stripe_goes_on_and_fetches_are_under_way(life: Life, data: st.DataObject) -> None:
    """Truth moves on between word, doubt, fetch and answer; several fetches run at once and come back in any order."""
    machine = Machine(life.payment())
    now = 0  # Stripe's truth: life.snapshots[now]
    unsaid = list(life.words)
    waiting: list[Word] = []
    asking: list[int] = []  # begun: the history id before
    coming: list[tuple[int, int]] = []  # read at Stripe: the history id before, the snapshot
    while unsaid or waiting or asking or coming or now < len(life.snapshots) - 1:
        may = ["stripe"] if now < len(life.snapshots) - 1 else []
        may += [name for name, pile in (("hear", waiting), ("read", asking), ("weigh", coming)) if pile]
        said = [word for word in unsaid if word.step <= now]
        for word in said:
            unsaid.remove(word)
            waiting += [word] * data.draw(st.integers(1, COPIES_MAX))
        if not may:
            continue
        doubt = None
        match data.draw(st.sampled_from(may)):
            case "stripe":
                # The browser acts only once it holds the secret.
                blocked = any(
                    word.step == now + 1 and word.from_browser and not machine.payment.was_customer_asked
                    for word in unsaid
                )
                if not blocked or not (waiting or asking or coming):
                    now += 1
            case "hear":
                doubt = machine.weigh(waiting.pop(data.draw(st.integers(0, len(waiting) - 1))).signal)
            case "read":
                coming.append((asking.pop(data.draw(st.integers(0, len(asking) - 1))), now))
            case _:
                after, snapshot = coming.pop(data.draw(st.integers(0, len(coming) - 1)))
                doubt = machine.weigh(heard_fetched(Kind.PAYMENT_INTENT, life.snapshots[snapshot], after))
        if doubt:
            asking.append(machine.history_id)
    assert_ended_well(life, machine)
