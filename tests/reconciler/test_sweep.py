"""The proof of absence: only a whole sweep, begun when the call was over, and only by whoever brought it to its end."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest

from payments.database.connections import open_pool
from payments.database.queries import load_queries
from payments.domain.states import PaymentStatus
from payments.reconciler import calls
from payments.reconciler import sweep as sweeping
from payments.reconciler.calls import Case
from payments.reconciler.jobs import Surroundings
from payments.reconciler.sweep import SKEW_MAX, Sweep, sweep
from payments.reconciler.verdicts import Absent, Doubtful, Found, Operation
from payments.reconciler.watching import look_at_watches
from payments.settings import Settings
from payments.stripe_gateway.outcomes import Answered, Outcome
from tests.database.rows import insert_payment
from tests.development.databases import Database

pytestmark = pytest.mark.anyio
ROLE = "payments_worker"
NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)


class Stripe:
    """A list of PaymentIntents, one a page, that can be held up."""

    def __init__(self) -> None:
        self.intents: list[dict[str, Any]] = []
        self.asked: list[tuple[int, int]] = []
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        self.has_endless_refunds = False

    def add(self, number: int, payment_id: UUID | None = None) -> None:
        self.intents.insert(
            0,
            {
                "id": f"pi_{number}",
                "object": "payment_intent",
                "status": "succeeded",
                "created": int(datetime.now(UTC).timestamp()) - 1000 + number,
                "metadata": {"paymentId": str(payment_id)} if payment_id else {},
            },
        )

    async def list_payment_intents(self, gte: int, lte: int, after: str | None = None) -> Outcome:
        self.asked.append((gte, lte))
        await self.may_answer.wait()
        fitting = [one for one in self.intents if gte <= one["created"] <= lte]
        if after is not None:
            fitting = fitting[next(place for place, one in enumerate(fitting) if one["id"] == after) + 1 :]
        return Answered({"object": "list", "data": fitting[:1], "has_more": len(fitting) > 1}, 200, "req_list")

    async def retrieve_payment_intent(self, intent_id: str) -> Outcome:
        return Answered(next(one for one in self.intents if one["id"] == intent_id), 200, "req_one")

    async def list_refunds(self, _intent_id: str, starting_after: str | None = None) -> Outcome:
        """None, or ever more that somebody else has made."""
        number = int(starting_after.removeprefix("re_")) + 1 if starting_after else 0
        refunds = [{"id": f"re_{number}", "object": "refund", "status": "succeeded", "metadata": {}}]
        data = refunds if self.has_endless_refunds else []
        return Answered({"object": "list", "data": data, "has_more": self.has_endless_refunds}, 200, "req_list")


class Notices:
    def notify(self, channel: str, payload: str = "") -> None:
        pass


class Bench:
    def __init__(self, conn: psycopg.Connection[Any], around: Surroundings, stripe: Stripe) -> None:
        self.conn, self.around, self.stripe = conn, around, stripe

    def doubtful(self, payment_id: UUID | None = None) -> UUID:
        payment_id = payment_id or insert_payment(self.conn)
        self.conn.execute(
            "insert into payments.stripe_requests (payment_id, subject_id, operation, idempotency_key, parameters,"
            " attempts, state, http_status, first_attempt_at, last_attempt_at)"
            " values (%(id)s, %(id)s, 'create_payment_intent', %(id)s, '{}', 1, 'to_reconcile', 500,"
            " now() - interval '1000 s', now() - interval '900 s')",
            {"id": payment_id},
        )
        return payment_id

    def doubtful_refund(self) -> UUID:
        """A refund of a payment that has succeeded, and that Stripe answers for with a kept 500."""
        payment_id, refund_id = insert_payment(self.conn), uuid4()
        self.conn.execute(
            "update payments.payments set status = 'SUCCEEDED', amount_authorized = amount, amount_captured = amount,"
            " processor_payment_intent = 'pi_1' where payment_id = %s",
            (payment_id,),
        )
        self.conn.execute(
            "insert into payments.refunds (refund_id, payment_id, amount, currency) values (%s, %s, 100, 'EUR')",
            (refund_id, payment_id),
        )
        self.conn.execute(
            "insert into payments.stripe_requests (payment_id, subject_id, operation, idempotency_key, parameters,"
            " attempts, state, http_status, first_attempt_at, last_attempt_at)"
            " values (%(payment)s, %(refund)s, 'create_refund', %(refund)s, '{}', 1, 'to_reconcile', 500,"
            " now() - interval '1000 s', now() - interval '900 s')",
            {"payment": payment_id, "refund": refund_id},
        )
        return refund_id

    def failed(self) -> UUID:
        """A payment that has failed here, and whose PaymentIntent has succeeded at Stripe."""
        payment_id = insert_payment(self.conn)
        self.stripe.add(1, payment_id)
        self.conn.execute(
            "update payments.payments set status = 'FAILED', failure_reason = 'CARD_DECLINED',"
            " processor_payment_intent = 'pi_1' where payment_id = %s",
            (payment_id,),
        )
        return payment_id

    def watch(self, payment_id: UUID) -> None:
        """A look at this payment is due, and at no other."""
        self.conn.execute("delete from payments.watches")
        self.conn.execute(
            "insert into payments.watches (payment_id, looks, next_look_at) values (%s, 1, now())", (payment_id,)
        )

    def calls(self) -> list[tuple[Any, ...]]:
        query = "select state, outcome from payments.stripe_requests order by call_id"
        return self.conn.execute(query).fetchall()

    def commands(self) -> list[tuple[Any, ...]]:
        return self.conn.execute("select message ->> 'paymentId' from pgmq.q_payment_requested").fetchall()

    def refund_commands(self) -> list[tuple[Any, ...]]:
        return self.conn.execute("select message ->> 'refundId' from pgmq.q_refund_requested").fetchall()


@pytest.fixture
async def bench(database: Database, anyio_backend: str) -> AsyncIterator[Bench]:
    async with open_pool(database.dsn(ROLE), ROLE, 6) as pool:
        stripe = Stripe()
        around = Surroundings(pool, stripe, Notices(), Settings.load({}))  # type: ignore[arg-type]  # all it is asked here
        with database.connect() as conn:
            yield Bench(conn, around, stripe)


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


async def test_made_at_the_very_edge_is_found(bench: Bench) -> None:
    """Stripe's clock is ten minutes behind ours."""
    payment_id = bench.doubtful()
    bench.stripe.add(-int(SKEW_MAX.total_seconds()) + 1, payment_id)
    await sweep(bench.around)
    assert bench.calls() == [("answered", "settled")]


@pytest.mark.parametrize("reason", ["abandoned", "requested_by_customer"])
async def test_cancel_that_never_was_is_asked_for_again_for_its_own_reason(bench: Bench, reason: str) -> None:
    payment_id = insert_payment(bench.conn)
    bench.stripe.add(1, payment_id)
    bench.stripe.intents[0]["status"] = "requires_payment_method"
    bench.conn.execute(
        "update payments.payments set status = 'VOIDING', processor_payment_intent = 'pi_1' where payment_id = %s",
        (payment_id,),
    )
    bench.conn.execute(
        "insert into payments.stripe_requests (payment_id, subject_id, operation, idempotency_key, parameters,"
        " attempts, state, http_status, first_attempt_at, last_attempt_at)"
        " values (%(id)s, %(id)s, 'cancel_payment_intent', 'x',"
        " json_build_object('cancellation_reason', %(why)s::text),"
        " 1, 'to_reconcile', 500, now() - interval '1000 s', now() - interval '900 s')",
        {"id": payment_id, "why": reason},
    )
    await calls.reconcile_calls(bench.around)
    sent = bench.conn.execute("select message ->> 'cancellationReason' from pgmq.q_void_requested").fetchall()
    assert (bench.calls(), sent) == ([("answered", "absent")], [(reason,)])


async def test_listing_takes_a_payment_whose_intent_is_not_known_for_one_of_which_nothing_is(bench: Bench) -> None:
    """As after a restore: only the listing can tell us of its PaymentIntent."""
    unknown, known, failed = (insert_payment(bench.conn) for _ in range(3))
    bench.conn.execute("update payments.payments set processor_payment_intent = 'pi_1' where payment_id = %s", (known,))
    bench.conn.execute(
        "update payments.payments set status = 'FAILED', failure_reason = 'CARD_DECLINED' where payment_id = %s",
        (failed,),
    )
    query = load_queries("reconciler")["known_payments"].decode()
    rows = bench.conn.execute(query, {"payment_ids": [unknown, known, failed]}).fetchall()
    assert dict(rows) == {unknown: None, known: "REQUESTED", failed: "FAILED"}


async def test_made_in_the_future_of_our_clock_is_found(bench: Bench) -> None:
    """Stripe's clock is an hour ahead of ours."""
    payment_id = bench.doubtful()
    bench.stripe.add(1_000 + 3_600, payment_id)
    await sweep(bench.around)
    assert bench.calls() == [("answered", "settled")]


@pytest.mark.parametrize(("outcome", "news"), [("answered", 0), ("refused", 1)])
async def test_failed_payment_is_watched_until_its_intent_is_cancelled(bench: Bench, outcome: str, news: int) -> None:
    payment_id = bench.failed()
    bench.conn.execute(
        "insert into payments.stripe_requests (payment_id, subject_id, operation, idempotency_key, parameters,"
        " attempts, state, outcome, answered_at)"
        " values (%(id)s, %(id)s, 'cancel_payment_intent', 'x', '{}', 1, 'answered', %(outcome)s, now())",
        {"id": payment_id, "outcome": outcome},
    )
    bench.watch(payment_id)
    await look_at_watches(bench.around)
    assert bench.conn.execute("select count(*) from payments.inbox").fetchone() == (news,)


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


async def test_a_list_that_is_not_read_to_its_end_proves_nothing(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is not among the first pages of a PaymentIntent's refunds may be on the next: an operator must look."""
    monkeypatch.setattr(calls, "REFUND_PAGES_MAX", 3)
    bench.stripe.has_endless_refunds = True
    bench.doubtful_refund()
    await calls.reconcile_calls(bench.around)
    assert bench.calls() == [("parked", None)]
    assert bench.conn.execute("select origin from payments.dead_letters").fetchall() == [("queue:refund_requested",)]
    assert bench.refund_commands() == []


async def test_nothing_is_proved_while_the_last_attempt_may_still_be_at_work(bench: Bench) -> None:
    """Under an old key an attempt that is still on its way may refund: its lease and its time limit must be over."""
    refund_id = bench.doubtful_refund()
    settings = bench.around.settings
    at_work_s = settings.lease_s + settings.stripe_timeout_s

    def last_attempt(first: str, seconds_ago: float) -> None:
        bench.conn.execute(
            "update payments.stripe_requests set first_attempt_at = now() - %s::interval,"
            " last_attempt_at = now() - make_interval(secs => %s)",
            (first, seconds_ago),
        )

    for first, seconds_ago in (
        ("1 h", settings.reconcile_after_s - 5),
        ("25 h", settings.reconcile_after_s + 5),
        ("25 h", settings.reconcile_after_s + at_work_s - 5),
    ):
        last_attempt(first, seconds_ago)
        await calls.reconcile_calls(bench.around)
        assert bench.calls() == [("to_reconcile", None)]
        assert bench.refund_commands() == []
    last_attempt("25 h", settings.reconcile_after_s + at_work_s + 5)
    await calls.reconcile_calls(bench.around)
    assert bench.calls() == [("answered", "absent")]
    assert bench.refund_commands() == [(str(refund_id),)]


async def test_a_call_that_an_operator_has_by_now_is_not_settled(bench: Bench) -> None:
    """A verdict may come late: what was parked or answered meanwhile stays so, and no command goes out."""
    bench.doubtful_refund()
    (case,) = await calls.find_cases(bench.around, swept=False)
    bench.conn.execute("update payments.stripe_requests set state = 'parked'")
    for verdict in (Absent(), Found(())):
        await calls.settle(bench.around, case, calls.Evidence(verdict, None, 0))
    assert bench.calls() == [("parked", None)]
    assert bench.refund_commands() == []


async def test_a_payment_that_somebody_keeps_locked_holds_up_no_other_call(bench: Bench, database: Database) -> None:
    locked, refund_id, other = bench.doubtful(), bench.doubtful_refund(), bench.doubtful()
    with database.connect(autocommit=False) as operator:
        operator.execute("select from payments.payments where payment_id = %s for update", (locked,))
        assert await sweep(bench.around) is False
        await calls.reconcile_calls(bench.around)
        assert bench.calls() == [("to_reconcile", None), ("answered", "absent"), ("answered", "absent")]
        assert (bench.commands(), bench.refund_commands()) == ([(str(other),)], [(str(refund_id),)])
    await sweep(bench.around)
    assert bench.calls() == [("answered", "absent")] * 3
    assert bench.commands() == [(str(other),), (str(locked),)]


async def test_calls_that_wait_for_the_sweep_hide_none_that_can_be_asked_for(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calls, "CALLS_MAX", 1)
    bench.doubtful()
    refund_id = bench.doubtful_refund()
    await calls.reconcile_calls(bench.around)
    assert bench.refund_commands() == [(str(refund_id),)]


async def test_calls_that_can_be_asked_for_hide_none_from_the_sweep(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calls, "CALLS_MAX", 1)
    bench.doubtful_refund()
    payment_id = bench.doubtful()
    await sweep(bench.around)
    assert bench.commands() == [(str(payment_id),)]


@pytest.mark.parametrize(("way_back", "news"), [("REQUESTED", 0), ("FAILED", 1)])
async def test_late_money_is_watched_until_it_is_on_its_way_back(bench: Bench, way_back: str, news: int) -> None:
    payment_id = bench.failed()
    bench.conn.execute(
        "insert into payments.refunds (refund_id, payment_id, amount, currency, reason, status, failure_reason)"
        " values (gen_random_uuid(), %(id)s, 1000, 'EUR', 'compensation', %(status)s, %(why)s)",
        {"id": payment_id, "status": way_back, "why": "declined" if way_back == "FAILED" else None},
    )
    bench.watch(payment_id)
    await look_at_watches(bench.around)
    assert bench.conn.execute("select count(*) from payments.inbox").fetchone() == (news,)
    assert bench.conn.execute("select count(*) from payments.watches").fetchone() == (news,)


@pytest.mark.parametrize("asks", [calls.reconcile_calls, look_at_watches], ids=["a call", "a watch"])
async def test_what_is_weighed_while_stripe_is_asked_makes_its_answer_an_old_one(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, asks: Callable[[Surroundings], Awaitable[bool]]
) -> None:
    """What was seen before that must not be taken for how things stand after it."""
    payment_id = insert_payment(bench.conn)
    bench.conn.execute("update payments.payments set processor_payment_intent = 'pi_1'")
    bench.stripe.add(1, payment_id)
    if asks is look_at_watches:
        bench.watch(payment_id)
    else:
        bench.doubtful(payment_id)
    weigh = (
        "insert into payments.payment_history (payment_id, signal, source, to_status, decision, why)"
        " values (%s, 'x', 'stripe-webhook', 'REQUESTED', 'ignored', 'x') returning history_id"
    )
    before = bench.conn.execute(weigh, (payment_id,)).fetchone()
    retrieve = bench.stripe.retrieve_payment_intent

    async def retrieve_slowly(intent_id: str) -> Outcome:
        bench.conn.execute(weigh, (payment_id,))
        return await retrieve(intent_id)

    monkeypatch.setattr(bench.stripe, "retrieve_payment_intent", retrieve_slowly)
    await asks(bench.around)
    seen = bench.conn.execute("select (payload ->> 'afterHistoryId')::bigint from payments.inbox").fetchall()
    assert seen == [before]
