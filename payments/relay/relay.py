"""The process `payments relay`: a task for each lane, woken by notifications and by looking."""

import asyncio
import time

import psycopg
import structlog

from payments.database.connections import Pool, open_pool, transaction
from payments.database.queries import load_queries
from payments.process import database_url
from payments.relay.lane import Lane
from payments.relay.reachability import Reachability
from payments.relay.stops import Failure, decide_failure
from payments.settings import Settings
from payments.wakeup import OUTBOX, Listener, Notifier, PollInterval, Wakeup

ROLE = "payments_relay"
# Batches under way at once; each fills a core of the database, and further lanes wait for their turn.
CONNECTIONS_MAX = 8
# The first batch after an outage reads the ids of all that has gathered: about a second for two million rows.
STATEMENT_TIMEOUT_MS = 300_000
# A batch that is not done by then is rolled back, so that the process ends within a second.
FINISH_S = 0.5
# A lane that had something so recently is asked at once; the statements of the others would only be in its way.
LIKELY_S = 10.0
OTHERS_S = 0.005

_QUERIES = load_queries("relay")
log = structlog.get_logger()


async def main(settings: Settings, stop: asyncio.Event) -> None:
    """Relays until `stop` is set, then finishes the batches under way.

    Raises DatabaseUnreachable and its like when the database cannot be used at the start; later it waits for it.
    """
    dsn = database_url(settings)
    listen_dsn = settings.listen_dsn or dsn
    async with (
        open_pool(dsn, ROLE, CONNECTIONS_MAX, STATEMENT_TIMEOUT_MS, behind_pooler=settings.is_pooled) as pool,
        Notifier(listen_dsn, ROLE) as notifier,
        Listener(listen_dsn, ROLE) as listener,
    ):
        relay = Relay(pool, notifier, listener, settings.poll_interval_ms / 1000)
        await relay.run(stop)


class Relay:
    """Keeps a task for each lane of the database and rings it when there is something to do."""

    def __init__(self, pool: Pool, notifier: Notifier, listener: Listener, poll_interval_s: float) -> None:
        self._pool = pool
        self._notifier = notifier
        self._bell: Wakeup = listener.subscribe(OUTBOX)
        self._interval = PollInterval(poll_interval_s)
        self._reachability = Reachability()
        self._lanes: dict[str, Lane] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self, stop: asyncio.Event) -> None:
        """Works until `stop` is set; a programming error in a task ends all of it."""
        async with asyncio.TaskGroup() as group:
            watching = group.create_task(self._watch(group))
            await stop.wait()
            watching.cancel()
            for lane in self._lanes.values():
                lane.end()
            if self._tasks:
                _, unfinished = await asyncio.wait(self._tasks, timeout=FINISH_S)
                for task in unfinished:
                    task.cancel()

    async def _watch(self, group: asyncio.TaskGroup) -> None:
        """Rings every lane at a notification; looks at regular times all the same, for what nobody announced."""
        announced = False
        next_look = 0.0
        while True:
            if await self._bell.wait(max(0.0, next_look - time.monotonic())) is not None:
                announced = True
                self._ring_all()
            if time.monotonic() >= next_look:
                found_work = await self._look(group)
                self._interval.note(announced=announced, found_work=found_work)
                announced = False
                next_look = time.monotonic() + self._interval.timeout_s

    def _ring_all(self) -> None:
        """A notification does not say for which queue there is something; the likely ones go first."""
        likely_since = time.monotonic() - LIKELY_S
        likely = [lane for lane in self._lanes.values() if lane.last_passed_s >= likely_since]
        for lane in likely:
            lane.ring()
        for lane in self._lanes.values():
            if lane not in likely:
                asyncio.get_running_loop().call_later(OTHERS_S if likely else 0.0, lane.ring)

    async def _look(self, group: asyncio.TaskGroup) -> bool:
        """Takes in new lanes, ends those that are gone, rings those with work; whether an idle one had some."""
        try:
            async with transaction(self._pool) as conn:
                rows = await (await conn.execute(_QUERIES["look"])).fetchall()
        except psycopg.Error as error:
            if decide_failure(error.sqlstate) is Failure.DATABASE_AWAY:
                self._reachability.lost(error)
            else:  # notifications still reach the lanes that are known
                message = error.diag.message_primary
                log.error("relay.look_failed", sqlstate=error.sqlstate, message=message)  # noqa: TRY400 - no traceback
            return False
        self._reachability.reached()
        found = {str(queue): bool(has_work) for queue, has_work in rows}
        for queue in self._lanes.keys() - found.keys():
            self._lanes.pop(queue).end()
            log.info("lane.removed", queue=queue)
        for queue in found.keys() - self._lanes.keys():
            self._add(queue, group)
        late = [lane for lane in self._lanes.values() if found[lane.queue] and lane.is_idle]
        for lane in late:
            lane.ring()
        return bool(late)

    def _add(self, queue: str, group: asyncio.TaskGroup) -> None:
        lane = Lane(queue, self._pool, self._notifier, self._reachability)
        lane.ring()
        task = group.create_task(lane.run(), name=f"lane {queue}")
        self._lanes[queue] = lane
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        log.info("lane.started", queue=queue)
