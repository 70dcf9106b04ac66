"""The proof of absence: only a whole sweep, begun when the call was over, and only by whoever brought it to its end."""

import asyncio
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest

from payments.domain.states import PaymentStatus
from payments.reconciler import calls
from payments.reconciler import sweep as sweeping
from payments.reconciler.asking import StripeAway
from payments.reconciler.calls import Case
from payments.reconciler.sweep import AHEAD_MAX, SKEW_MAX, Sweep, sweep
from payments.reconciler.verdicts import Doubtful, Operation
from payments.stripe_gateway.outcomes import Outcome, Unknown
from tests.database.rows import insert_payment
from tests.reconciler.bench import Bench

pytestmark = pytest.mark.anyio
NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)


async def test_many_sweeps_at_once_send_one_command(bench: Bench) -> None:
    payment_id = bench.doubtful()
    await asyncio.gather(*(sweep(bench.around) for _ in range(4)))
    assert bench.calls() == [("answered", "absent")]
    assert bench.commands() == [(str(payment_id),)]
    assert await sweep(bench.around) is False


async def test_who_was_overtaken_concludes_nothing(bench: Bench) -> None:
    """Two read the same part; the one that comes second has no say, whatever it has read."""
    bench.doubtful()
    bench.stripe.may_answer.clear()
    slow = asyncio.create_task(sweep(bench.around))
    while not bench.stripe.asked:
        await asyncio.sleep(0.01)
    bench.conn.execute("update payments.reconciler_progress set position = now() where job = 'sweep/position'")
    bench.stripe.may_answer.set()
    await slow
    assert bench.calls() == [("to_reconcile", None)]
    assert bench.commands() == []


async def test_part_by_part_nothing_is_absent_before_the_end(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweeping, "PAGES_MAX", 2)
    lost, made = bench.doubtful(), bench.doubtful()
    bench.stripe.add(0, made)
    for number in range(1, 6):
        bench.stripe.add(number)
    assert await sweep(bench.around) is True
    assert bench.calls() == [("to_reconcile", None)] * 2
    later = bench.doubtful()  # this sweep began too early for it to prove anything
    bench.conn.execute(
        "update payments.stripe_requests set last_attempt_at = now() + interval '1 day' where subject_id = %s", (later,)
    )
    bench.stripe.add(6)  # made while the sweep is under way: it is newer than any call in doubt
    while await sweep(bench.around):
        pass
    assert bench.calls() == [("answered", "absent"), ("answered", "settled"), ("to_reconcile", None)]
    assert bench.commands() == [(str(lost),)]
    rows = bench.conn.execute("select payment_id, message_id from payments.inbox").fetchall()
    assert rows == [(made, "pi_0/req_one")]


@pytest.mark.parametrize("calls_max", [200, 1], ids=["became doubtful then", "had no room before"])
async def test_who_joins_halfway_is_looked_for_from_the_top(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, calls_max: int
) -> None:
    """What was looked through without it proves nothing for it, though its last attempt be as old as the others'."""
    monkeypatch.setattr(sweeping, "PAGES_MAX", 3)
    monkeypatch.setattr(calls, "CALLS_MAX", calls_max)
    first = bench.doubtful()
    made = bench.doubtful() if calls_max == 1 else None
    bench.stripe.add(0)
    for number in range(1, 4):
        bench.stripe.add(number)
    joined = made or insert_payment(bench.conn)
    bench.stripe.add(4, joined)
    bench.stripe.add(5, first)
    assert await sweep(bench.around) is True  # past both
    if made is None:
        bench.doubtful(joined)
    while await sweep(bench.around) or bench.calls()[1][0] == "to_reconcile":
        pass
    assert bench.calls() == [("answered", "settled")] * 2
    assert bench.commands() == []


@pytest.mark.parametrize("below", [4, 8], ids=["in the last part", "some parts before it"])
async def test_who_joins_halfway_is_not_judged_with_the_others(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, below: int
) -> None:
    """The sweep goes on and proves something for another; what it looked through before counts for that one only."""
    monkeypatch.setattr(sweeping, "PAGES_MAX", 3)
    absent, joined = bench.doubtful(), insert_payment(bench.conn)
    for number in range(below):
        bench.stripe.add(number)
    bench.stripe.add(below, joined)
    assert await sweep(bench.around) is True  # past it
    bench.doubtful(joined)
    while await sweep(bench.around) or bench.calls()[1][0] == "to_reconcile":
        pass
    assert bench.calls() == [("answered", "absent"), ("answered", "settled")]
    assert bench.commands() == [(str(absent),)]


@pytest.mark.parametrize("pages_max", [50, 2], ids=["in one part", "part by part"])
async def test_a_payment_intent_that_stripe_does_not_show_holds_up_no_other_call(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, pages_max: int
) -> None:
    """Its own call stays in doubt, for a later sweep: it was met, so nothing proves that it never was."""
    monkeypatch.setattr(sweeping, "PAGES_MAX", pages_max)
    absent, made = bench.doubtful(), bench.doubtful()
    for number in range(3):
        bench.stripe.add(number)
    bench.stripe.add(3, made)

    async def answer_nothing(_: str) -> Outcome:
        return Unknown("timeout")

    with monkeypatch.context() as patch:
        patch.setattr(bench.stripe, "retrieve_payment_intent", answer_nothing)
        with pytest.raises(StripeAway, match="timeout"):
            await sweep(bench.around)
        while bench.calls()[0][0] == "to_reconcile":
            await sweep(bench.around)
    assert bench.calls() == [("answered", "absent"), ("to_reconcile", None)]
    while await sweep(bench.around) or bench.calls()[1][0] == "to_reconcile":
        pass
    assert bench.calls() == [("answered", "absent"), ("answered", "settled")]
    assert bench.commands() == [(str(absent),)]


async def test_whoever_becomes_doubtful_meanwhile_does_not_make_it_begin_anew(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After an outage there is one every few seconds: a sweep that began anew for each would never end."""
    monkeypatch.setattr(sweeping, "PAGES_MAX", 2)
    absent = bench.doubtful()
    for number in range(8):
        bench.stripe.add(number)
    for _ in range(12):
        await sweep(bench.around)
        bench.doubtful()
    assert bench.calls()[0] == ("answered", "absent")
    assert (str(absent),) in bench.commands()


async def test_made_at_the_very_edge_is_found(bench: Bench) -> None:
    """Stripe's clock is ten minutes behind ours."""
    payment_id = bench.doubtful()
    bench.stripe.add(-10 * 60 + 1, payment_id)
    await sweep(bench.around)
    assert bench.calls() == [("answered", "settled")]


async def test_nothing_is_proved_while_our_clock_is_ahead_of_stripes(bench: Bench) -> None:
    """What the call has made is older, by Stripe's clock, than the time from which on we would look for it."""
    bench.doubtful()
    bench.stripe.behind = AHEAD_MAX + timedelta(seconds=1)
    with pytest.raises(StripeAway, match="ahead of Stripe's"):
        await sweep(bench.around)
    assert bench.calls() == [("to_reconcile", None)]
    bench.stripe.behind = AHEAD_MAX - timedelta(seconds=5)
    await sweep(bench.around)
    assert bench.calls()[0] == ("answered", "absent")


async def test_made_in_the_future_of_our_clock_is_found(bench: Bench) -> None:
    """Stripe's clock is an hour ahead of ours."""
    payment_id = bench.doubtful()
    bench.stripe.add(1_000 + 3_600, payment_id)
    await sweep(bench.around)
    assert bench.calls() == [("answered", "settled")]


async def test_made_by_an_attempt_that_a_restored_backup_has_lost_is_found(bench: Bench) -> None:
    """The first attempts we know of are not the first there were; none was made before the payment was."""
    payment_id = bench.doubtful()
    bench.conn.execute("set session_replication_role = replica")
    bench.conn.execute("update payments.payments set created_at = now() - interval '2 hours'")
    bench.stripe.add(-3_600, payment_id)
    await sweep(bench.around)
    assert bench.calls() == [("answered", "settled")]
    assert bench.commands() == []


@pytest.mark.parametrize(
    ("since", "quiet_at", "is_proved"),
    [
        (NOW, NOW, True),
        (NOW - timedelta(seconds=1), NOW, False),
        (NOW, NOW + timedelta(seconds=1), False),
    ],
    ids=["whole", "began before the bottom", "still at work when it began"],
)
async def test_sweep_proves_only_what_it_saw_the_whole_of(
    since: datetime, quiet_at: datetime, *, is_proved: bool
) -> None:
    doubtful = Doubtful(
        call_id=1,
        payment_id=UUID(int=1),
        subject_id=UUID(int=1),
        operation=Operation.CREATE,
        status=PaymentStatus.REQUESTED,
    )
    going = Sweep(NOW, NOW - SKEW_MAX, NOW)
    assert going.proves(Case(doubtful, since, quiet_at, "", NOW)) is is_proved
    assert not going.proves(Case(doubtful, since, quiet_at, "", NOW + timedelta(seconds=1)))
    assert not going.proves(Case(doubtful, since, quiet_at, ""))
