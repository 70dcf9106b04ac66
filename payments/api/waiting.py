"""Callers who wait for a payment or refund to settle, woken by the recorder's notification and, failing that, by polls.

One task looks for all of them with one statement; what a waiter costs is a place in a dictionary.
"""

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from types import TracebackType
from typing import Self
from uuid import UUID

import structlog

from payments.api.deadlines import in_time
from payments.api.views import PAYMENTS, Subject, View, find_settled
from payments.database.connections import DATABASE_AWAY, Pool, statements
from payments.wakeup import PollInterval, Wakeup

# Each holds a connection of its caller. Whoever finds no place is answered at once, as if time had run out.
WAITERS_MAX = 2_000
IDLE_S = 60.0  # without waiters there is nothing to poll for; the first one rings

log = structlog.get_logger()


class Waiters:
    """The waiters of this process. `async with` runs the task that looks; leaving answers everybody."""

    def __init__(self, pool: Pool, bell: Wakeup, poll_interval_s: float) -> None:
        self._pool = pool
        self._bell = bell
        self._interval = PollInterval(poll_interval_s)
        self._waiting: dict[UUID, set[asyncio.Future[View | None]]] = {}
        self._subjects: dict[UUID, Subject] = {}
        self._count = 0
        self.is_closed = False
        self.task: asyncio.Task[None] | None = None  # ends only by a fault of ours

    async def __aenter__(self) -> Self:
        """Begins to look."""
        self.task = asyncio.create_task(self._run(), name="waiters")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Answers whoever still waits, and ends."""
        self.release_all()
        assert self.task is not None
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)

    @property
    def count(self) -> int:
        """How many wait."""
        return self._count

    @property
    def has_room(self) -> bool:
        """Whether a further caller may wait."""
        return self._count < WAITERS_MAX and not self.is_closed

    def release_all(self) -> None:
        """Answers everybody with the state as it stands, now and from now on: the process is about to end."""
        self.is_closed = True
        for futures in self._waiting.values():
            for future in futures:
                if not future.done():
                    future.set_result(None)

    async def wait(self, wanted: UUID, timeout_s: float, subject: Subject = PAYMENTS) -> View | None:
        """What has settled; None when time is up or there is no room. Cancelling frees the place."""
        if not self.has_room or timeout_s <= 0:
            return None
        future: asyncio.Future[View | None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(wanted, set()).add(future)
        self._subjects[wanted] = subject
        self._count += 1
        if self._count == 1:
            self._bell.ring()
        try:
            async with asyncio.timeout(timeout_s):
                return await future
        except TimeoutError:
            return None
        finally:
            self._count -= 1
            futures = self._waiting[wanted]
            futures.discard(future)
            if not futures:
                del self._waiting[wanted], self._subjects[wanted]

    async def _run(self) -> None:
        is_away = False
        while True:
            named = await self._bell.wait(self._interval.timeout_s if self._waiting else IDLE_S)
            wanted = self._wanted(named)
            if not wanted:
                continue
            try:
                settled = await in_time(self._find_settled(wanted))
            except DATABASE_AWAY as error:
                if not is_away:
                    log.warning("waiters.lost_database", error=type(error).__name__)
                is_away = True
                await asyncio.sleep(self._interval.timeout_s)
                continue
            is_away = False
            self._interval.note(announced=named is not None, found_work=bool(settled))
            for view in settled:
                self._answer(view)

    async def _find_settled(self, wanted: Mapping[Subject, list[UUID]]) -> list[View]:
        async with statements(self._pool) as conn:
            return [view for subject, ids in wanted.items() for view in await find_settled(conn, subject, ids)]

    def _wanted(self, named: set[str] | None) -> Mapping[Subject, list[UUID]]:
        """Whom to look for: those named, if all news was of particular payments, else all."""
        wanted: dict[Subject, list[UUID]] = {}
        for each in self._named(named):
            wanted.setdefault(self._subjects[each], []).append(each)
        return wanted

    def _named(self, named: set[str] | None) -> list[UUID]:
        if named and "" not in named:
            mentioned: set[UUID] = set()
            for payload in named:
                with suppress(ValueError):
                    mentioned.add(UUID(payload))
            return [each for each in mentioned if each in self._waiting]
        return list(self._waiting)

    def _answer(self, view: View) -> None:
        for future in self._waiting.get(view.id, ()):
            if not future.done():
                future.set_result(view)
