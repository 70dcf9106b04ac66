import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

import pytest

from payments.database.connections import Pool, open_pool
from payments.database.queries import load_queries
from payments.worker.limiter import AHEAD_S_MAX, RECOVERY_S, SHARE_MIN, Limiter
from tests.conftest import wait_until_async
from tests.development.databases import Database

T = TypeVar("T")
RATE = 50
RESERVE = load_queries("worker")["reserve_calls"].decode()


def with_pool(database: Database, do: Callable[[Pool], Awaitable[T]]) -> T:
    async def main() -> T:
        async with open_pool(database.dsn("payments_worker"), "payments_worker", 8) as pool:
            return await do(pool)

    return asyncio.run(main())


async def spend(limiter: Limiter, seconds: float, calls: list[float], wanted: int) -> None:
    """Calls as often as it may, for a while."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        moments = await limiter.take(wanted, is_busy=True)
        calls += moments
        await asyncio.sleep(max(moments[-1] - time.monotonic(), 0) if moments else limiter.retry_in_s)


@pytest.mark.every_postgres
def test_limiter_holds_one_rate_for_many_workers(database: Database) -> None:
    calls: list[float] = []

    async def main(pool: Pool) -> None:
        await asyncio.gather(*(spend(Limiter(pool, RATE), 2.5, calls, wanted) for wanted in (1, 3, 16, 80)))

    with_pool(database, main)
    calls.sort()
    busiest = max(sum(1 for at in calls if start <= at < start + 1) for start in calls)
    assert busiest <= RATE * 1.1 + 2
    assert len(calls) >= RATE * 2.5 * 0.8
    # Each got its share: nobody's reservation reaches further than a second.
    assert calls[-1] - calls[0] <= 2.5 + 1.1


@pytest.mark.every_postgres
def test_limiter_gives_no_moment_to_two_workers_that_ask_at_once(database: Database) -> None:
    """One waits for the other's commit, and begins where that one's calls end."""
    wanted = 20
    waits = "select count(*) from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()"
    ends = "select extract(epoch from next_call_at)::float8 from payments.rate_limits where resource = 'stripe'"

    async def main(pool: Pool) -> None:
        with database.connect("payments_worker", autocommit=False) as first, database.connect() as eye:
            values = {"ahead_s_max": AHEAD_S_MAX, "calls_per_s": RATE, "recovery_s": RECOVERY_S, "wanted": wanted}
            first.execute(RESERVE, values)
            second = asyncio.create_task(Limiter(pool, RATE).take(wanted, is_busy=False))
            await wait_until_async(lambda: eye.execute(waits).fetchone() == (1,))
            (first_ends,) = first.execute(ends).fetchone() or (0.0,)
            first.commit()
            assert len(await second) == wanted
            (second_ends,) = eye.execute(ends).fetchone() or (0.0,)
        assert second_ends - first_ends >= wanted / RATE - 0.001

    with_pool(database, main)


def test_limiter_keeps_what_was_not_needed(database: Database) -> None:
    async def main(pool: Pool) -> None:
        limiter = Limiter(pool, RATE)
        moments = await limiter.take(10, is_busy=False)
        assert len(moments) == 10
        limiter.give_back(moments[4:])
        assert await limiter.take(6, is_busy=False) == moments[4:]

    with_pool(database, main)


def test_limiter_forgets_what_was_reserved_before_a_429(database: Database) -> None:
    async def main(pool: Pool) -> None:
        limiter = Limiter(pool, RATE)
        limiter.give_back(await limiter.take(10, is_busy=False))
        await limiter.slow_down(30.0)
        assert await limiter.take(1, is_busy=False) == []

    with_pool(database, main)


def test_limiter_forgets_what_was_not_used_in_time(database: Database) -> None:
    async def main(pool: Pool) -> None:
        now = 0.0
        limiter = Limiter(pool, RATE, clock=lambda: now)
        limiter.give_back(await limiter.take(10, is_busy=False))
        now = 5.0
        assert min(await limiter.take(3, is_busy=False)) >= 5.0

    with_pool(database, main)


def rate(database: Database) -> float:
    async def main(pool: Pool) -> float:
        limiter = Limiter(pool, RATE)
        first, second = (await limiter.take(2, is_busy=False))[:2]
        return 1 / (second - first)

    with database.connect() as conn:
        conn.execute("update payments.rate_limits set next_call_at = now()")
    return with_pool(database, main)


def test_limiter_slows_down_after_429_and_recovers(database: Database) -> None:
    async def slow_down(pool: Pool) -> None:
        limiter = Limiter(pool, RATE)
        await asyncio.gather(*(limiter.slow_down(0.0) for _ in range(10)))  # said of one burst: one halving

    with_pool(database, slow_down)
    assert rate(database) == pytest.approx(RATE / 2, rel=0.1)
    with database.connect() as conn:
        for _ in range(10):
            conn.execute("update payments.rate_limits set lowered_at = lowered_at - interval '1.1 seconds'")
            with_pool(database, slow_down)
    assert RATE * SHARE_MIN <= rate(database) <= RATE * SHARE_MIN * 1.6
    with database.connect() as conn:
        conn.execute("update payments.rate_limits set lowered_at = now() - make_interval(secs => %s)", (RECOVERY_S,))
    assert rate(database) == pytest.approx(RATE, rel=0.1)


@pytest.mark.parametrize("before", [[], [0.5], [40.0]], ids=["at once", "after another 429", "before another 429"])
def test_limiter_waits_as_long_as_stripe_asked(database: Database, before: list[float]) -> None:
    async def main(pool: Pool) -> None:
        limiter = Limiter(pool, RATE)
        for pause_s in [*before, 30.0]:
            await limiter.slow_down(pause_s)
        assert await limiter.take(5, is_busy=False) == []
        assert max([*before, 30.0]) - 2 < limiter.retry_in_s < max([*before, 30.0]) + 1

    with_pool(database, main)


def test_limiter_is_not_stopped_by_a_clock_that_was_set_back(database: Database) -> None:
    with database.connect() as conn:
        conn.execute("update payments.rate_limits set next_call_at = now() + interval '10 years'")

    async def main(pool: Pool) -> None:
        limiter = Limiter(pool, RATE)
        assert await limiter.take(5, is_busy=False) == []
        assert limiter.retry_in_s < 301

    with_pool(database, main)


def test_limiter_goes_on_at_the_lowest_rate(database: Database) -> None:
    with database.connect() as conn:
        conn.execute("update payments.rate_limits set lowered_to = 0.01, lowered_at = now()")

    async def main(pool: Pool) -> None:
        assert len(await Limiter(pool, 1).take(5, is_busy=False)) == 1

    with_pool(database, main)
