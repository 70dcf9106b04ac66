"""Records what Stripe said: claims rows of the inbox, weighs them, and fetches what is in doubt.

Guarantee: each row ends exactly once, in one transaction with all that follows from it; a recorder may die at any
instruction, and any number of them may run. Not here: calling Stripe inside a transaction, or deciding anything.
Shutdown: the batch under way is committed, fetches get SHUTDOWN_S and are handed back. Crash: locks end with the
connection; rows whose fetch was under way are taken again when their lease has run out.
"""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from typing import Protocol

import psycopg
import structlog
from psycopg_pool import PoolTimeout

from payments.database.connections import DATABASE_AWAY, Connection, Pool, in_short, transaction
from payments.inbox.aftermath import Weighed
from payments.inbox.fetching import FetchWanted, Gateway, fetch, hand_back
from payments.inbox.low_water import DueFloor, LowWater
from payments.inbox.reading import InboxRow
from payments.inbox.waiting import bury, claim_new, claim_one, list_due, put_off
from payments.inbox.weighing import weigh
from payments.settings import Settings
from payments.wakeup import INBOX, OUTBOX, QUEUE, SETTLED, Listener, PollInterval, Wakeup

# One transaction's rows: enough to share its commit, few enough to redo one by one, and locks stay short.
ROWS_MAX = 100
# Calls to Stripe at once for doubts; the same account's limit also feeds the worker.
FETCHES_MAX = 16
FULL_PAUSE_S = 1.0  # for a row that finds all of them taken
# Rows that wait for a fetch longer than this are asked for again, by anybody: Stripe's answer and our writing of it.
FETCH_LEASE_EXTRA_S = 10.0
# A row that cannot be written is tried so often, ten minutes in all, before an operator gets it.
ATTEMPTS_MAX = 8
PAUSE_S_MIN = 1.0
PAUSE_S_MAX = 300.0
# A row whose payment somebody keeps locked, or that lost a deadlock, is not to blame: it waits, and is never given up.
CONTENDED_PAUSE_S = 2.0
# While the database is away.
AWAY_S_MIN = 0.1
AWAY_S_MAX = 2.0
SHUTDOWN_S = 5.0
# SQLSTATE classes that say something about the server, its grants or its schema, never about one row: connection,
# read-only, authorization, no such database, privileges and missing objects, resources, intervention, system, internal.
_SYSTEMIC_CLASSES = frozenset({"08", "25", "28", "3D", "42", "53", "57", "58", "XX"})
_CONTENTION = (psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected)
_PASSING = frozenset({"57014"})  # one statement took too long

log = structlog.get_logger()


class Announcer(Protocol):
    """What the recorder needs of a Notifier."""

    def notify(self, channel: str, payload: str = "") -> None:
        """Wakes the listeners of a channel; never blocks nor raises."""


class Recorder:
    """One per worker process; `run` until told to stop, or `run_once` for one look."""

    def __init__(  # noqa: PLR0913, PLR0917 - what a process is made of
        self,
        pool: Pool,
        gateway: Gateway,
        notifier: Announcer,
        listener: Listener,
        settings: Settings,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._pool = pool
        self._gateway = gateway
        self._notifier = notifier
        self._listener = listener
        self._settings = settings
        self._fetch_lease_s = settings.stripe_timeout_s + FETCH_LEASE_EXTRA_S
        self._clock = clock
        self._low_water, self._due = LowWater(clock()), DueFloor(clock())
        self._fetches: dict[asyncio.Task[None], FetchWanted] = {}
        self._bell = Wakeup()

    async def run(self, stop: asyncio.Event) -> None:
        """Records until `stop` is set; waits out a database that is away or not as it should be."""
        self._bell = self._listener.subscribe(INBOX)
        interval = PollInterval(self._settings.poll_interval_ms / 1000)
        away_s, was_announced = AWAY_S_MIN, True
        try:
            while not stop.is_set():
                try:
                    count = await self.run_once()
                except (psycopg.Error, PoolTimeout) as error:
                    log.warning("recorder.database_away", error=in_short(error))
                    await _first_of(stop.wait(), asyncio.sleep(away_s))
                    away_s = min(2 * away_s, AWAY_S_MAX)
                    continue
                away_s = AWAY_S_MIN
                interval.note(announced=was_announced, found_work=count > 0)
                was_announced = count > 0 or await self._wait(stop, interval.timeout_s)
        finally:
            await self._end_fetches()

    async def _wait(self, stop: asyncio.Event, timeout_s: float) -> bool:
        """Waits for a wake-up, the next poll or the end; whether it was announced that there is work."""
        waiting = asyncio.ensure_future(self._bell.wait(timeout_s))
        await _first_of(waiting, stop.wait())
        return waiting.done() and not waiting.cancelled() and waiting.result() is not None

    async def run_once(self) -> int:
        """Weighs one batch of new rows, and each row whose time has come; how many rows were claimed.

        Raises psycopg.Error or PoolTimeout while the database cannot serve; nothing is lost by that.
        """
        floor_id = self._low_water.floor(self._clock())
        claimed: list[InboxRow] = []
        try:
            async with transaction(self._pool) as conn:
                claimed = await claim_new(conn, floor_id, ROWS_MAX)
                weighed = await self._weigh(conn, claimed) if claimed else Weighed()
        except Exception as error:
            if not claimed or is_systemic(error):
                raise
            log.warning("recorder.batch_failed", rows=len(claimed), error=in_short(error))
            for row in claimed:
                await self._run_one(row.inbox_id)
        else:
            self._follow(weighed)
        highest_id = claimed[-1].inbox_id if claimed else None
        self._low_water.note(self._clock(), highest_id, is_drained=len(claimed) < ROWS_MAX)
        return len(claimed) + await self._run_due()

    async def _run_due(self) -> int:
        began_s = self._clock()
        floor = self._due.floor(began_s)
        async with transaction(self._pool) as conn:
            due, next_floor = await list_due(conn, floor, ROWS_MAX)
        self._due.note(began_s, self._clock(), floor, next_floor)
        return sum([await self._run_one(inbox_id) for inbox_id in due])

    async def _run_one(self, inbox_id: int) -> int:
        """Weighs one row alone, so that a poisonous one harms no other; how many were claimed."""
        try:
            async with transaction(self._pool) as conn:
                row = await claim_one(conn, inbox_id)
                if row is None:
                    return 0
                weighed = await self._weigh(conn, [row])
        except Exception as error:
            if is_systemic(error):
                raise
            log.warning("recorder.row_failed", inbox_id=inbox_id, exc_info=not isinstance(error, psycopg.Error))
            await self._record_failure(inbox_id, error)
        else:
            self._follow(weighed)
        return 1

    async def _weigh(self, conn: Connection, rows: list[InboxRow]) -> Weighed:
        return await weigh(conn, rows, self._settings, self._fetch_lease_s)

    async def _record_failure(self, inbox_id: int, error: Exception) -> None:
        why = f"{type(error).__name__}: {in_short(error)}"
        async with transaction(self._pool) as conn:
            row = await claim_one(conn, inbox_id)
            if row is None:
                return
            if isinstance(error, _CONTENTION):
                await put_off(conn, inbox_id, CONTENDED_PAUSE_S, why, burnt=0)
                return
            pause_s = min(PAUSE_S_MIN * 2**row.attempts, PAUSE_S_MAX)
            await put_off(conn, inbox_id, pause_s, why, burnt=1)
            if row.attempts + 1 >= ATTEMPTS_MAX:
                await bury(conn, row, row.payment_id, why)

    def _follow(self, weighed: Weighed) -> None:
        """After the commit: wakes whoever waits, and begins to fetch."""
        if weighed.has_published:
            self._notifier.notify(OUTBOX)
        for settled_id in weighed.settled:
            self._notifier.notify(SETTLED, str(settled_id))
        for queue in weighed.queues:
            self._notifier.notify(QUEUE, queue)
        for wanted in weighed.fetches.values():
            is_full = len(self._fetches) >= FETCHES_MAX
            task = asyncio.create_task(self._fetch(wanted, is_full=is_full), name="fetch")
            self._fetches[task] = wanted
            task.add_done_callback(lambda done: self._fetches.pop(done, None))

    async def _fetch(self, wanted: FetchWanted, *, is_full: bool) -> None:
        try:
            if is_full:
                await hand_back(self._pool, wanted, FULL_PAUSE_S)
            elif await fetch(self._pool, self._gateway, wanted):
                self._bell.ring("")
        except (psycopg.Error, PoolTimeout) as error:
            log.warning("recorder.fetch_lost", object_id=wanted.object_id, error=in_short(error))
        except Exception:
            log.exception("recorder.fetch_failed", object_id=wanted.object_id)

    async def finish_fetches(self, timeout_s: float) -> set[asyncio.Task[None]]:
        """Waits for the fetches under way; those that took longer."""
        return (await asyncio.wait(dict(self._fetches), timeout=timeout_s))[1] if self._fetches else set()

    async def _end_fetches(self) -> None:
        """Lets fetches finish for a while; the rows of those that do not are free for others at once."""
        unfinished = await self.finish_fetches(SHUTDOWN_S)
        given_up = [self._fetches[task] for task in unfinished]
        for task in unfinished:
            task.cancel()
        await asyncio.gather(*unfinished, return_exceptions=True)
        for wanted in given_up:
            with contextlib.suppress(psycopg.Error, PoolTimeout):
                await hand_back(self._pool, wanted, 0)


def is_systemic(error: Exception) -> bool:
    """Whether the database as a whole cannot serve, so that no row is to blame and waiting is all there is to do."""
    if isinstance(error, psycopg.Error) and error.sqlstate is not None:
        return error.sqlstate[:2] in _SYSTEMIC_CLASSES and error.sqlstate not in _PASSING
    return isinstance(error, DATABASE_AWAY)


async def _first_of(*awaitables: Awaitable[object]) -> None:
    """Waits for the first, and cancels the others."""
    tasks = [asyncio.ensure_future(awaitable) for awaitable in awaitables]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
