"""The reconciler's own life: it backs off, survives its end at any moment, and does no harm in many copies."""

import asyncio
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Any

import pytest
import structlog

from payments.database.connections import Pool, open_pool
from payments.reconciler import jobs
from payments.reconciler.asking import StripeAway, answer_of, each_page, read_page
from payments.reconciler.jobs import Job, Surroundings, end_turn, move_progress, take_turn
from payments.reconciler.reconciler import AWAY_PAUSE_S_MAX, TURN_PAUSE_S, Reconciler
from payments.settings import Settings
from payments.stripe_gateway.outcomes import Answered, Outcome, RateLimited, Unauthorized, Unknown
from tests.conftest import wait_until
from tests.development.databases import Database
from tests.reconciler.bench import Notices
from tests.worker.world import WorkerProcess, World

pytestmark = pytest.mark.anyio
ROLE = "payments_worker"
QUICK: dict[str, Any] = {"PAYMENTS_RECONCILE_AFTER_S": "0.3", "PAYMENTS_EVENTS_BACKFILL_S": "0.5"}


@pytest.fixture
async def around(database: Database, anyio_backend: str) -> AsyncIterator[Surroundings]:
    async with open_pool(database.dsn(ROLE), ROLE, 4) as pool:
        settings = Settings.load({"PAYMENTS_RECONCILE_AFTER_S": "0.1"})
        yield Surroundings(pool, None, Notices(), settings)  # type: ignore[arg-type]  # asks nobody


def job(run: Any, every_s: float = 0.01, *, takes_turns: bool = False) -> Job:
    return Job("a job", run, lambda _: every_s, takes_turns)


@pytest.mark.parametrize(
    ("outcome", "least_s", "is_key_refused"),
    [
        (Unknown("timeout"), 2, False),
        (RateLimited("rate_limit", "req_1"), 5, False),
        (RateLimited("rate_limit", "req_1", 40.0), 40, False),
        (Unauthorized(401, "no", "req_1"), 60, True),
        (Unauthorized(403, "no", "req_1"), 60, True),
        (Answered({"object": "list", "data": "what"}, 200, "req_1"), 2, False),
    ],
)
async def test_whatever_is_no_answer_is_a_reason_to_wait(
    outcome: Outcome, least_s: float, *, is_key_refused: bool
) -> None:
    with pytest.raises(StripeAway) as raised:
        read_page(answer_of(outcome))
    assert (raised.value.pause_s, raised.value.is_key_refused) == (least_s, is_key_refused)


async def test_pages_end_where_stripe_says_so_and_never_turn_in_circles() -> None:
    asked: list[str | None] = []

    async def ask(after: str | None) -> Outcome:
        asked.append(after)
        number = len(asked)
        data = [{"id": f"x{number}"}] if number < 4 else []
        return Answered({"object": "list", "data": data, "has_more": True}, 200, None)

    ids = [one["id"] async for page in each_page(ask) for one in page.objects]
    assert ids == ["x1", "x2", "x3"]
    assert asked == [None, "x1", "x2", "x3"]


async def test_pauses_double_while_stripe_is_away_and_end_with_its_answer(around: Surroundings) -> None:
    answers: list[Exception | None] = [StripeAway("down", 2.0)] * 10 + [None, StripeAway("down", 2.0)]

    async def ask(_: Surroundings) -> bool:
        answer = answers.pop(0)
        if answer is not None:
            raise answer
        return False

    reconciler = Reconciler(around, (job(ask, every_s=0.0),))
    pauses = []
    for _ in range(12):
        reconciler._due_s["a job"] = 0.0
        pauses.append(round(await reconciler._run_due()))
    assert pauses[:8] == [2, 4, 8, 16, 32, 64, 128, 256]
    assert pauses[8:10] == [AWAY_PAUSE_S_MAX] * 2
    assert pauses[10:] == [0, 2]


async def test_a_job_that_gets_no_answer_stops_no_other(around: Surroundings) -> None:
    """The list of events may be in trouble, and all else of Stripe well."""
    done = 0

    async def asks_in_vain(_: Surroundings) -> bool:
        raise StripeAway("down", 2.0)

    async def works(_: Surroundings) -> bool:
        nonlocal done
        done += 1
        return False

    other = Job("another", works, lambda _: 0.0, takes_turns=False)
    reconciler = Reconciler(around, (job(asks_in_vain), other))
    for _ in range(5):
        assert await reconciler._run_due() == 0
    assert done == 5


async def test_one_pass_goes_on_beside_one_question_without_an_answer_but_not_beside_two(around: Surroundings) -> None:
    ran: list[str] = []

    async def works(_: Surroundings) -> bool:
        ran.append("works")
        return False

    async def asks_in_vain(_: Surroundings) -> bool:
        ran.append("asks")
        raise StripeAway("no answer", 1.0)

    with pytest.raises(StripeAway):
        await Reconciler(around, (job(asks_in_vain), job(works))).run_once()
    assert ran == ["asks", "works"]
    with pytest.raises(StripeAway):
        await Reconciler(around, (job(asks_in_vain), job(asks_in_vain), job(works))).run_once()
    assert ran == ["asks", "works", "asks", "asks"]


async def test_one_job_that_breaks_stops_no_other(around: Surroundings) -> None:
    done = asyncio.Event()

    async def breaks(_: Surroundings) -> bool:
        raise ZeroDivisionError

    async def works(_: Surroundings) -> bool:
        done.set()
        return False

    stop = asyncio.Event()
    reconciler = Reconciler(around, (job(breaks), Job("another", works, lambda _: 0.01, takes_turns=False)))
    with structlog.testing.capture_logs() as log:
        running = asyncio.create_task(reconciler.run(stop))
        await asyncio.wait_for(done.wait(), 10)
        stop.set()
        await asyncio.wait_for(running, 10)
    assert next(line["job"] for line in log if line["event"] == "reconciler.job_failed") == "a job"


async def test_stop_does_not_wait_for_a_job_and_frees_its_turn(around: Surroundings) -> None:
    begun = asyncio.Event()

    async def never_ends(_: Surroundings) -> bool:
        begun.set()
        await asyncio.sleep(3600)
        return False

    stop = asyncio.Event()
    leased = job(never_ends, takes_turns=True)
    running = asyncio.create_task(Reconciler(around, (leased,)).run(stop))
    await asyncio.wait_for(begun.wait(), 10)
    stop.set()
    await asyncio.wait_for(running, 10)

    async def is_free_soon() -> bool:
        query = "select position < now() + make_interval(secs => %s) from payments.reconciler_progress"
        async with around.pool.connection() as conn:
            row: Any = await (await conn.execute(query, (TURN_PAUSE_S,))).fetchone()
        return bool(row[0])

    await eventually(is_free_soon)


async def eventually(predicate: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(10):
        while not await predicate():
            await asyncio.sleep(0.02)


async def test_a_turn_is_one_processs_at_a_time(around: Surroundings) -> None:
    async def nothing(_: Surroundings) -> bool:
        return False

    leased = job(nothing, takes_turns=True)
    turns = await asyncio.gather(*(take_turn(around, leased) for _ in range(4)))
    taken = [turn for turn in turns if turn is not None]
    assert len(taken) == 1
    await end_turn(around, taken[0], 0.0)
    second = await take_turn(around, leased)
    assert second is not None
    await end_turn(around, taken[0], 0.0)  # the first one wakes up, late
    assert await take_turn(around, leased) is None


async def test_a_turn_is_renewed_while_its_process_lives_and_given_up_when_it_is_lost(
    around: Surroundings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "RENEW_S", 0.05)
    begun, ended = asyncio.Event(), asyncio.Event()

    async def never_ends(_: Surroundings) -> bool:
        begun.set()
        try:
            await asyncio.sleep(3600)
        finally:
            ended.set()
        return False

    leased = job(never_ends, takes_turns=True)
    running = asyncio.create_task(Reconciler(around, (leased,))._run_part(leased))
    await asyncio.wait_for(begun.wait(), 10)

    async def end() -> Any:
        async with around.pool.connection() as conn:
            row: Any = await (await conn.execute("select position from payments.reconciler_progress")).fetchone()
        return row[0]

    first = await end()

    async def is_renewed() -> bool:
        return bool(await end() > first)

    await eventually(is_renewed)
    assert not running.done()
    async with around.pool.connection() as conn:
        await conn.execute("update payments.reconciler_progress set position = now() + interval '1 hour'")
    await asyncio.wait_for(ended.wait(), 10)
    assert await asyncio.wait_for(running, 10) is False
    assert (await end() - first).total_seconds() > 3000, "who lost it leaves it alone"


async def test_turn_is_kept_for_as_long_as_it_takes(around: Surroundings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "RENEW_S", 0.01)

    async def nothing(_: Surroundings) -> bool:
        return False

    turn = await take_turn(around, job(nothing, takes_turns=True))
    assert turn is not None
    keeping, ends = asyncio.create_task(jobs.keep_turn(around, turn)), {turn.end}
    while len(ends) < 4 and not keeping.done():
        await asyncio.sleep(0.005)
        ends.add(turn.end)
    assert not keeping.done(), "it believes the turn lost"
    keeping.cancel()
    await asyncio.gather(keeping, return_exceptions=True)


async def test_progress_is_made_by_one_of_two(around: Surroundings) -> None:
    pool: Pool = around.pool
    async with pool.connection() as conn:
        row: Any = await (await conn.execute("select now(), now() + interval '1 second'")).fetchone()
        now, later = row
        assert await move_progress(conn, "x", None, now)
        assert not await move_progress(conn, "x", None, later)
        assert await move_progress(conn, "x", now, later)
        assert not await move_progress(conn, "x", now, later)


def test_stripe_away_for_a_while_costs_few_calls_and_nothing_else(world: World) -> None:
    worker = world.start_worker(**QUICK)
    payment_id = world.request(payment_method="pm_card_authenticationRequired")
    wait_until(world.settled(payment_id, "ACTION_REQUIRED"))
    (intent,) = world.sandbox.intents(payment_id)
    world.sandbox.steer("POST", "faults", fault="status", status=503, match={"method": "GET"}, times=None)
    world.sandbox.steer("POST", "browser/authenticate", payment_intent=intent["id"], outcome="succeed")
    wait_until(lambda: len(worker.logged("reconciler.stripe_away")) >= 2)
    reads = [one for one in world.sandbox.steer("GET", "requests")["requests"] if one["method"] == "GET"]
    assert len(reads) < 60
    world.sandbox.clear_faults()
    wait_until(world.settled(payment_id), 30)


def has_worked(worker: WorkerProcess) -> bool:
    return bool(worker.logged("payment.looked_at") or worker.logged("call.answered"))


def let_claims_run_out(world: World) -> None:
    """Leases, claims and turns of the dead run out by themselves; no test waits for that."""
    world.execute("update pgmq.q_payment_requested set vt = now()")
    world.execute("update payments.watches set next_look_at = now()")
    world.execute("update payments.reconciler_progress set position = now() where job like 'turn/%%'")


def test_52_killed_again_and_again_and_everything_ends_all_the_same(world: World) -> None:
    """No webhook, every second answer lost, and the process dies every second."""
    payments = [world.request() for _ in range(6)]
    payments += [world.request(payment_method="pm_card_authenticationRequired") for _ in range(6)]
    for payment_id in payments[::2]:
        world.sandbox.fault("status", payment_id, status=500, executed=True)

    def all_succeeded() -> bool:
        return all(world.status(payment_id) == "SUCCEEDED" for payment_id in payments)

    for _ in range(4):
        worker = world.start_worker_process(**QUICK)
        wait_until(partial(worker.logged, "process.started"))
        for intent in world.sandbox.intents():
            if intent["status"] == "requires_action":
                world.sandbox.steer("POST", "browser/authenticate", payment_intent=intent["id"], outcome="succeed")
        wait_until(lambda: has_worked(worker) or all_succeeded())  # noqa: B023
        worker.signal(signal.SIGKILL)
        worker.kill()
        let_claims_run_out(world)
    world.start_worker(**QUICK)

    def all_ended() -> bool:
        for intent in world.sandbox.intents():
            if intent["status"] == "requires_action":
                world.sandbox.steer("POST", "browser/authenticate", payment_intent=intent["id"], outcome="succeed")
        return all_succeeded()

    wait_until(all_ended, 60)
    for payment_id in payments:
        (intent,) = world.sandbox.intents(payment_id)
        assert intent["amount_captured"] == 1000
    assert world.dead() == []


def test_answers_under_a_key_are_forgotten_before_the_payments_they_were_about(world: World) -> None:
    for days in (6, 8):
        world.execute(
            "insert into payments.idempotency_keys"
            " (client_id, idempotency_key, fingerprint, response_status, created_at)"
            " values ('shop', %s, sha256(''), 201, now() - make_interval(days => %s))",
            f"{days} days",
            days,
        )
    world.start_worker(PAYMENTS_RECONCILE_AFTER_S="1", PAYMENTS_IDEMPOTENCY_DAYS="7", PAYMENTS_RETENTION_DAYS="90")
    wait_until(lambda: world.rows("select idempotency_key from payments.idempotency_keys") == [("6 days",)])
