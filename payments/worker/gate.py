"""What stands before every call to Stripe of one process: the rate that all processes share, and the breaker.

The worker asks it how much it may lease. Whoever only reads from Stripe (the recorder, the reconciler) calls through a
gateway that is paced by it: `gateway.paced(gate)`.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Self, assert_never

import structlog

from payments.database.connections import DATABASE_AWAY, Pool
from payments.stripe_gateway.outcomes import Outcome, RateLimited, Unauthorized, Unknown
from payments.worker.breaker import CLOSED, Trouble, decide_allowance, decide_breaker
from payments.worker.limiter import Limiter

# The lock on one object, not our rate, was in the way: no reason to slow down everything.
LOCK_TIMEOUT = "lock_timeout"
# When Stripe says 429 without saying for how long.
SLOW_DOWN_S = 1.0
# Whoever reads holds rows leased meanwhile, and can as well come back later.
PASS_WAIT_S_MAX = 5.0

log = structlog.get_logger()


class Gate:
    """The breaker and the limiter of one process. `async with` ends what it still had to tell the database."""

    def __init__(self, pool: Pool, calls_per_s: int) -> None:
        self.limiter = Limiter(pool, calls_per_s)
        self._readers_limiter = Limiter(pool, calls_per_s)
        self._breaker = CLOSED
        self._reading = 0
        self._chores: set[asyncio.Task[None]] = set()

    @property
    def is_shut(self) -> bool:
        """Whether Stripe is down, or refuses our key, so that nobody calls but to find out."""
        return self._breaker.trouble is not None

    def allowance(self, under_way: int, wanted: int) -> int:
        """How many further calls may begin, with so many under way."""
        return decide_allowance(self._breaker, under_way, wanted, time.monotonic())

    def learn(self, outcome: Outcome) -> None:
        """Hears of every call that ended."""
        before, self._breaker = self._breaker, decide_breaker(self._breaker, outcome, time.monotonic())
        if self._breaker.trouble is not before.trouble:
            self._tell()
        if isinstance(outcome, RateLimited) and outcome.code != LOCK_TIMEOUT:
            chore = asyncio.create_task(self._slow_down(outcome.retry_after_s or SLOW_DOWN_S))
            self._chores.add(chore)
            chore.add_done_callback(self._chores.discard)

    async def read(self, call: Callable[[], Awaitable[Outcome]]) -> Outcome:
        """Calls when it may: within seconds, or not at all, which is `Unknown` while shut, else `RateLimited`.

        Raises what the database raises.
        """
        slot = await self._wait_for_slot()
        if slot is None:
            return RateLimited("our own limit", None)
        await asyncio.sleep(max(0.0, slot - time.monotonic()))
        if self.allowance(self._reading, 1) == 0:
            return Unknown("Stripe was down a moment ago")
        self._reading += 1
        try:
            outcome = await call()
        finally:
            self._reading -= 1
        # A restricted key may read and not charge, or charge and not read: what it may, the commands alone can tell.
        if not isinstance(outcome, Unauthorized) and self._breaker.trouble is not Trouble.KEY_REFUSED:
            self.learn(outcome)
        return outcome

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for chore in self._chores:
            chore.cancel()
        await asyncio.gather(*self._chores, return_exceptions=True)

    async def _wait_for_slot(self) -> float | None:
        give_up_at = time.monotonic() + PASS_WAIT_S_MAX
        while True:
            slots = await self._readers_limiter.take(1, is_busy=False)
            if slots:
                return slots[0]
            if time.monotonic() + self._readers_limiter.retry_in_s > give_up_at:
                return None
            await asyncio.sleep(self._readers_limiter.retry_in_s)

    def _tell(self) -> None:
        match self._breaker.trouble:
            case None:
                log.info("breaker.closed")
            case Trouble.DOWN:
                log.error("breaker.opened", why="Stripe does not answer")
            case Trouble.KEY_REFUSED:
                log.critical("breaker.opened", why="Stripe refuses STRIPE_API_KEY: mend it; payments wait meanwhile")
            case _:
                assert_never(self._breaker.trouble)

    async def _slow_down(self, pause_s: float) -> None:
        log.warning("limiter.lowered", pause_s=pause_s)
        try:
            await self.limiter.slow_down(pause_s)
        except DATABASE_AWAY:
            log.warning("limiter.unreachable")
