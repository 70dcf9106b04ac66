import asyncio
import time
from collections.abc import Awaitable, Callable

import pytest

from payments.database.connections import Pool, open_pool
from payments.stripe_gateway.outcomes import Answered, Outcome, RateLimited, Unauthorized, Unknown
from payments.worker import gate as gates
from payments.worker.breaker import UNKNOWN_MAX
from payments.worker.gate import Gate
from tests.conftest import wait_until_async
from tests.development.databases import Database

until: Callable[..., Awaitable[object]] = wait_until_async
ANSWER = Answered({"object": "refund"}, 200, "req_1")


class Stripe:
    """Answers as it is told, and counts."""

    def __init__(self) -> None:
        self.outcome: Outcome = ANSWER
        self.times: list[float] = []

    async def __call__(self) -> Outcome:
        self.times.append(time.monotonic())
        return self.outcome


def at_gate(database: Database, test: Callable[[Gate, Stripe], Awaitable[None]], calls_per_s: int = 100) -> None:
    async def main(pool: Pool) -> None:
        async with Gate(pool, calls_per_s) as gate:
            await test(gate, Stripe())

    async def with_pool() -> None:
        async with open_pool(database.dsn("payments_worker"), "payments_worker", 4) as pool:
            await main(pool)

    asyncio.run(with_pool())


def test_readers_share_the_rate_of_the_commands(database: Database) -> None:
    rate = 10

    async def test(gate: Gate, stripe: Stripe) -> None:
        slots = await gate.limiter.take(rate, is_busy=True)
        await asyncio.gather(*(gate.read(stripe) for _ in range(rate)))
        calls = sorted(slots + stripe.times)
        busiest = max(sum(1 for at in calls if start <= at < start + 1) for start in calls)
        assert len(calls) == 2 * rate
        assert busiest <= rate + 2

    at_gate(database, test, calls_per_s=rate)


def test_readers_find_out_that_stripe_is_down_and_stop_everybody(database: Database) -> None:
    async def test(gate: Gate, stripe: Stripe) -> None:
        stripe.outcome = Unknown("timeout")
        for _ in range(UNKNOWN_MAX):
            await gate.read(stripe)
        assert gate.is_shut
        assert gate.allowance(0, 5) == 0
        assert isinstance(await gate.read(stripe), Unknown)
        assert len(stripe.times) == UNKNOWN_MAX
        stripe.outcome = ANSWER

        async def answered() -> bool:  # once it is time for a probe
            return await gate.read(stripe) == ANSWER

        await until(answered)
        assert gate.allowance(0, 5) == 5

    at_gate(database, test)


def test_one_reader_at_a_time_probes(database: Database) -> None:
    async def test(gate: Gate, stripe: Stripe) -> None:
        gate.learn(Unauthorized(401, "m", None))
        assert gate.is_shut
        await until(lambda: gate.allowance(0, 1) == 1)

        async def slow() -> Outcome:
            await asyncio.sleep(0.2)
            return await stripe()

        outcomes = await asyncio.gather(*(gate.read(slow) for _ in range(5)))
        assert len(stripe.times) == 1
        assert sorted(type(one).__name__ for one in outcomes) == ["Answered", *["Unknown"] * 4]

    at_gate(database, test)


def test_readers_come_back_later_rather_than_wait_long(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gates, "PASS_WAIT_S_MAX", 0.2)

    async def test(gate: Gate, stripe: Stripe) -> None:
        await gate.limiter.slow_down(30.0)
        began = time.monotonic()
        assert isinstance(await gate.read(stripe), RateLimited)
        assert time.monotonic() - began < 5
        assert stripe.times == []
        assert not gate.is_shut

    at_gate(database, test)


def test_429_that_a_reader_hears_slows_down_all(database: Database) -> None:
    async def test(gate: Gate, stripe: Stripe) -> None:
        stripe.outcome = RateLimited(None, None, retry_after_s=20.0)
        await gate.read(stripe)

        async def slowed() -> bool:
            return await gate.limiter.take(1, is_busy=False) == []

        await until(slowed)
        assert gate.limiter.retry_in_s > 10

    at_gate(database, test)


def test_the_lock_on_one_object_slows_down_nobody(database: Database) -> None:
    async def test(gate: Gate, stripe: Stripe) -> None:
        stripe.outcome = RateLimited(gates.LOCK_TIMEOUT, None, retry_after_s=20.0)
        await gate.read(stripe)
        assert not gate._chores  # nothing is under way that would lower the rate
        assert await gate.limiter.take(1, is_busy=False) != []

    at_gate(database, test)


def test_what_a_restricted_key_may_read_says_nothing_of_what_it_may_charge(database: Database) -> None:
    async def test(gate: Gate, stripe: Stripe) -> None:
        stripe.outcome = Unauthorized(403, "no permission to list events", None)
        await gate.read(stripe)
        assert not gate.is_shut
        gate.learn(Unauthorized(403, "no permission to charge", None))
        stripe.outcome = ANSWER

        async def answered() -> bool:
            return await gate.read(stripe) == ANSWER

        await until(answered)
        assert gate.is_shut
        gate.learn(ANSWER)
        assert not gate.is_shut

    at_gate(database, test)
