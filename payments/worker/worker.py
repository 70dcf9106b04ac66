"""The process that calls Stripe: leases commands as fast as they may be worked on, and lets go when asked to stop.

Guarantee: every command is called for until Stripe's word is in the inbox, or it is parked or dead, for all to see.
Do not add: anything that waits between lease and call but the limiter's slot, which begins within a second.
Shutdown: no new lease; calls under way may finish within the grace time; all else is handed back, visible at once.
Crash: leases run out, and the next worker sends the same keys and parameters again.
"""

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import structlog

from payments.database.connections import CommitUncertain, Pool, transaction
from payments.queues.queue import Leased, Queue
from payments.settings import Settings
from payments.stripe_gateway.gateway import StripeGateway
from payments.wakeup import QUEUE, Listener, Notifier, PollInterval
from payments.worker.gate import Gate
from payments.worker.handling import DATABASE_TROUBLE, Handler, Surroundings
from payments.worker.operation import Operation

# How long to wait before asking a database again that is away.
DATABASE_RETRY_S = 0.5
# How long to lease nothing while Stripe is still being looked at after a restore.
HOLD_S = 1.0

log = structlog.get_logger()


@dataclass
class _UnderWay:
    """A command somebody works on; `is_calling`: its call has begun, so it is let finish."""

    handler: Handler
    lease: Leased
    is_calling: bool = False


class Worker:
    """Serves the queues of its operations until it is stopped; many may run, on many hosts."""

    def __init__(  # noqa: PLR0913, PLR0917 - what a process is made of
        self,
        pool: Pool,
        gateway: StripeGateway,
        notifier: Notifier,
        listener: Listener,
        settings: Settings,
        operations: Sequence[Operation],
        gate: Gate,
    ) -> None:
        self._pool = pool
        self._concurrency = settings.worker_concurrency
        self._grace_s = settings.shutdown_grace_s
        self._gate = gate
        self._limiter = gate.limiter
        self._bell = listener.subscribe(QUEUE)
        self._poll = PollInterval(settings.poll_interval_ms / 1000)
        self._under_way: dict[asyncio.Task[None], _UnderWay] = {}
        self._held_until = float("-inf")
        around = Surroundings(pool, gateway, notifier, settings.stripe_timeout_s, gate.learn, self._hold)
        self._handlers = deque(
            Handler(operation, Queue(operation.queue, settings.lease_s), around) for operation in operations
        )
        self._was_announced = True  # what waits at the start needed no announcement

    def _hold(self) -> None:
        """After a restore no command can be carried out for a while: lease none, rather than each again and again."""
        self._held_until = time.monotonic() + HOLD_S

    async def run(self, stop: asyncio.Event) -> None:
        """Works until `stop` is set and everything under way is finished or handed back."""
        waking = asyncio.create_task(self._wake_on(stop))
        try:
            while not stop.is_set():
                pause_s = await self._look()
                if pause_s > 0:
                    self._was_announced = await self._bell.wait(pause_s) is not None
        finally:
            waking.cancel()
            await self._let_go()

    async def _wake_on(self, stop: asyncio.Event) -> None:
        await stop.wait()
        self._bell.ring()

    async def _look(self) -> float:
        """Begins what may be begun now, of every queue; returns how long to wait before the next look."""
        self._limiter.retry_in_s = 0.0
        begun: list[Leased] = []
        for handler in self._handlers:
            try:
                begun += await self._lease(handler)
            except DATABASE_TROUBLE as error:  # one queue that was dropped must not stop the others
                log.warning("queue.unreadable", queue=handler.queue.name, error=type(error).__name__)
                self._limiter.retry_in_s = DATABASE_RETRY_S
        self._handlers.rotate(-1)  # when the rate is the bound, each queue is first in its turn
        # A retry comes due without a notification; only what is new proves that one was lost.
        self._poll.note(announced=self._was_announced, found_work=any(lease.read_ct == 1 for lease in begun))
        if begun and len(self._under_way) < self._concurrency:
            return 0.0
        return self._limiter.retry_in_s or self._poll.timeout_s

    async def _lease(self, handler: Handler) -> list[Leased]:
        """Leases no more than free hands, the breaker and the limiter allow, so that nothing leased has to wait."""
        free = self._concurrency - len(self._under_way)
        allowed = self._gate.allowance(len(self._under_way), free)
        if allowed == 0 or time.monotonic() < self._held_until:
            return []
        async with transaction(self._pool) as conn:
            due = await handler.queue.count_due(conn, allowed)
        if due == 0:
            return []
        slots = await self._limiter.take(due, is_busy=due == allowed)
        if not slots:
            return []
        leases: list[Leased] = []
        with contextlib.suppress(CommitUncertain):  # ours all the same; what is built on it is committed behind it
            async with transaction(self._pool) as conn:
                leases = await handler.queue.lease(conn, len(slots))
        self._limiter.give_back(slots[len(leases) :])
        for lease, slot in zip(leases, slots, strict=False):
            self._begin(handler, lease, slot)
        return leases

    def _begin(self, handler: Handler, lease: Leased, slot: float) -> None:
        under_way = _UnderWay(handler, lease)

        def on_call() -> None:
            under_way.is_calling = True

        async def work() -> None:
            await asyncio.sleep(max(0.0, slot - time.monotonic()))
            await handler.handle(lease, on_call)

        task = asyncio.create_task(work(), name=f"{handler.queue.name}/{lease.msg_id}")
        self._under_way[task] = under_way
        task.add_done_callback(self._end)

    def _end(self, task: asyncio.Task[None]) -> None:
        if task not in self._under_way:
            return  # let go
        if len(self._under_way) >= self._concurrency or self._gate.is_shut:
            self._bell.ring()  # a hand is free again
        del self._under_way[task]
        task.result()  # a handler raises nothing; if it does, that is a bug to see

    async def _let_go(self) -> None:
        """Hands back what has not begun to call; waits for the rest within the grace time; hands back what remains."""
        under_way, self._under_way = self._under_way, {}
        await self._hand_back({task: one for task, one in under_way.items() if not one.is_calling})
        calling = {task: one for task, one in under_way.items() if one.is_calling}
        if calling:
            await asyncio.wait(calling, timeout=self._grace_s)
        await self._hand_back({task: one for task, one in calling.items() if not task.done()})

    async def _hand_back(self, under_way: dict[asyncio.Task[None], _UnderWay]) -> None:
        for task in under_way:
            task.cancel()
        await asyncio.gather(*under_way, return_exceptions=True)
        cut = [one for task, one in under_way.items() if task.cancelled()]
        for handler in self._handlers:
            leases = [one.lease for one in cut if one.handler is handler]
            if not leases:
                continue
            try:
                async with transaction(self._pool) as conn:
                    held = await handler.queue.postpone(conn, leases, [0.0] * len(leases))
                log.info("commands.handed_back", queue=handler.queue.name, count=len(held))
            except DATABASE_TROUBLE:
                log.warning("commands.left", queue=handler.queue.name, count=len(leases))
