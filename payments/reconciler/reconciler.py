"""Looks at whatever has waited too long, and asks Stripe where nobody tells us: the third task of `payments worker`.

Guarantee: whatever is open at Stripe, in doubt, or lost between us comes to its end, though every webhook and every
answer be lost; what was found goes through the inbox, so that nothing is decided twice. Not here: weighing it.
Many may run: each job is one process's turn at a time, or shares out its rows. A process may die at any instruction:
its turn or its claims run out, and all it had committed stands. A job that gets no answer from Stripe backs off, alone:
it may be in trouble with one list or one object only.
"""

import asyncio
import time

import psycopg
import structlog
from psycopg_pool import PoolTimeout

from payments.database.connections import in_short
from payments.reconciler.asking import StripeAway
from payments.reconciler.audit import AUDIT
from payments.reconciler.balance import BALANCE
from payments.reconciler.calls import CALLS
from payments.reconciler.events import EVENTS
from payments.reconciler.jobs import Job, Surroundings, Turn, end_turn, keep_turn, take_turn
from payments.reconciler.listing import LISTING
from payments.reconciler.lost import LOST
from payments.reconciler.retention import RETENTION
from payments.reconciler.sweep import SWEEP
from payments.reconciler.watching import WATCHES

LOOKING: tuple[Job, ...] = (LISTING, CALLS, SWEEP, WATCHES, EVENTS, LOST, AUDIT, BALANCE)
JOBS = (*LOOKING, RETENTION)
# While Stripe does not answer a job, its pauses double up to this.
AWAY_PAUSE_S_MAX = 300.0
# While the database does not.
DATABASE_PAUSE_S = 2.0
# A turn that ends without Stripe's answer.
TURN_PAUSE_S = 5.0
# In one pass of an operator: no job goes on for ever, whatever happens meanwhile.
PARTS_MAX = 10_000

log = structlog.get_logger()


class Reconciler:
    """One per worker process; `run` until told to stop."""

    def __init__(self, around: Surroundings, jobs: tuple[Job, ...] = JOBS) -> None:
        self._around = around
        self._jobs = jobs
        self._due_s = dict.fromkeys((job.name for job in jobs), 0.0)
        self._away_s = dict.fromkeys(self._due_s, 0.0)

    async def run(self, stop: asyncio.Event) -> None:
        """Works until `stop` is set; waits out a database or a Stripe that is away."""
        stopping = asyncio.create_task(stop.wait())
        try:
            while not stop.is_set():
                task = asyncio.create_task(self._run_due())
                await asyncio.wait({task, stopping}, return_when=asyncio.FIRST_COMPLETED)
                if not task.done():
                    task.cancel()  # what is not committed was not done
                    await asyncio.gather(task, return_exceptions=True)
                    return
                await asyncio.wait({stopping}, timeout=task.result())
        finally:
            stopping.cancel()
            await asyncio.gather(stopping, return_exceptions=True)

    async def _run_due(self) -> float:
        """One part of each job whose time has come; returns how long to wait before the next look."""
        for job in self._jobs:
            if self._due_s[job.name] > time.monotonic():
                continue
            pause_s = job.every_s(self._around.settings)
            try:
                has_more = await self._run_part(job)
                pause_s = 0.0 if has_more else pause_s
                if has_more is not None:
                    self._away_s[job.name] = 0.0
            except StripeAway as error:
                pause_s = self._wait_for_stripe(job, error)
            except (psycopg.Error, PoolTimeout) as error:
                log.warning("reconciler.database_away", job=job.name, error=in_short(error))
                pause_s = max(pause_s, DATABASE_PAUSE_S)
            except Exception:
                log.exception("reconciler.job_failed", job=job.name)
                pause_s = max(pause_s, DATABASE_PAUSE_S)
            self._due_s[job.name] = time.monotonic() + pause_s
        return max(0.0, min(self._due_s.values()) - time.monotonic())

    def _wait_for_stripe(self, job: Job, error: StripeAway) -> float:
        """The job asks nothing for a while; the pauses double."""
        pause_s = self._away_s[job.name] = min(AWAY_PAUSE_S_MAX, max(error.pause_s, 2 * self._away_s[job.name]))
        if error.is_key_refused:
            log.critical("reconciler.key_refused", job=job.name, why=error.why, pause_s=pause_s)
        else:
            log.warning("reconciler.stripe_away", job=job.name, why=error.why, pause_s=pause_s)
        return pause_s

    async def _run_part(self, job: Job) -> bool | None:
        """Whether more waits; None when it was not this process's turn, or there was nothing to do."""
        if not job.takes_turns:
            return await job.run(self._around)
        if job.has_work is not None and not await job.has_work(self._around):
            return None
        turn = await take_turn(self._around, job)
        if turn is None:
            return None
        pause_s = TURN_PAUSE_S
        try:
            has_more = await self._work(job, turn)
            pause_s = 0.0 if has_more else job.every_s(self._around.settings)
        finally:
            await asyncio.shield(end_turn(self._around, turn, pause_s))
        return has_more

    async def _work(self, job: Job, turn: Turn) -> bool:
        """One part, given up when the turn is lost: what is not committed was not done."""
        working = asyncio.create_task(job.run(self._around))
        keeping = asyncio.create_task(keep_turn(self._around, turn))
        try:
            await asyncio.wait({working, keeping}, return_when=asyncio.FIRST_COMPLETED)
            if working.done():
                return working.result()
            log.warning("reconciler.turn_lost", job=job.name)
            return False
        finally:
            for task in (working, keeping):
                task.cancel()
            await asyncio.gather(working, keeping, return_exceptions=True)

    async def run_once(self) -> None:
        """Every job to its end, whatever its turn. Raises StripeAway at the end, or once a second job got no answer.

        Raises what the database raises, too.
        """
        away: StripeAway | None = None
        for job in self._jobs:
            try:
                for _ in range(PARTS_MAX):
                    if not await self._run_part(job):
                        break
            except StripeAway as error:  # one question that Stripe does not answer holds up no other job
                if away is not None:
                    raise
                away = error
        if away is not None:
            raise away
