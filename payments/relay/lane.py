"""One lane of the relay: the way to one queue."""

import asyncio
import time
from typing import Literal, assert_never

import psycopg
import structlog

from payments.database.connections import Pool, transaction
from payments.database.queries import load_queries
from payments.relay.reachability import Reachability
from payments.relay.stops import REASONS, Failure, decide_failure, decide_pause_s
from payments.wakeup import QUEUE, Notifier

# A batch of this size takes about 10 ms: big enough to be cheap, small enough to stop soon and to hold no lock long.
ROWS_MAX = 1_000
# A lane that was woken for nothing answers the next call this much later: at most 50 empty looks a second under load.
FALSE_ALARM_S = 0.02
# Another relay is at work here; it may die.
ELSEWHERE_S = 0.05

_QUERIES = load_queries("relay")
log = structlog.get_logger()

Outcome = Literal["passed", "nothing", "elsewhere", "failed"]


class Lane:
    """Dispatches to one queue whenever it is rung; a failure stops this lane alone, until a later try succeeds."""

    def __init__(self, queue: str, pool: Pool, notifier: Notifier, reachability: Reachability) -> None:
        self.queue = queue
        self._pool = pool
        self._notifier = notifier
        self._reachability = reachability
        self._rung = asyncio.Event()
        self._ending = asyncio.Event()
        self._is_busy = False
        self._failures = 0
        self._stopped_by: str | None = None
        self.last_passed_s = float("-inf")

    def ring(self) -> None:
        """There may be something to do."""
        self._rung.set()

    def end(self) -> None:
        """Lets `run` return after the batch under way."""
        self._ending.set()
        self._rung.set()

    @property
    def is_idle(self) -> bool:
        """Whether it believes that nothing is to be done; not while it works, waits or is stopped."""
        return not self._is_busy and not self._rung.is_set()

    async def run(self) -> None:
        """Works until `end`."""
        while True:
            await self._rung.wait()
            if self._ending.is_set():
                return
            self._rung.clear()
            self._is_busy = True
            await self._pause(await self._drain())
            self._is_busy = False

    async def _drain(self) -> Outcome:
        outcome: Outcome = "nothing"
        while not self._ending.is_set():
            try:
                passed = await self._dispatch()
            except psycopg.Error as error:
                self._fail(error)
                return "failed"
            self._reachability.reached()
            if passed < 0:
                return "elsewhere"
            self._resume()
            if passed == 0:
                return outcome
            outcome = "passed"
            self.last_passed_s = time.monotonic()
            self._notifier.notify(QUEUE, self.queue)
        return outcome

    async def _dispatch(self) -> int:
        async with transaction(self._pool) as conn:
            cursor = await conn.execute(_QUERIES["dispatch"], {"queue": self.queue, "rows_max": ROWS_MAX})
            row = await cursor.fetchone()
        assert row is not None
        return int(str(row[0]))

    async def _pause(self, outcome: Outcome) -> None:
        match outcome:
            case "passed":
                return
            case "nothing":
                pause_s = FALSE_ALARM_S
            case "elsewhere":
                self.ring()
                pause_s = ELSEWHERE_S
            case "failed":
                self.ring()
                pause_s = decide_pause_s(self._failures)
            case _:
                assert_never(outcome)
        try:
            async with asyncio.timeout(pause_s):
                await self._ending.wait()
        except TimeoutError:
            pass

    def _fail(self, error: psycopg.Error) -> None:
        self._failures += 1
        match decide_failure(error.sqlstate):
            case Failure.DATABASE_AWAY:
                self._reachability.lost(error)
            case Failure.LANE_STOPPED:
                sqlstate = str(error.sqlstate)
                if self._stopped_by != sqlstate:
                    message = error.diag.message_primary
                    log.error(
                        "lane.stopped",
                        queue=self.queue,
                        reason=REASONS.get(sqlstate, message),
                        sqlstate=sqlstate,
                        message=message,
                    )
                self._stopped_by = sqlstate
            case other:
                assert_never(other)

    def _resume(self) -> None:
        if self._stopped_by is not None:
            log.info("lane.resumed", queue=self.queue, failures=self._failures)
        self._failures, self._stopped_by = 0, None
