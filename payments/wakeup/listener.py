"""Waits for notifications on a connection of its own, and hands them to the tasks of this process."""

import asyncio
from types import TracebackType
from typing import Self

import psycopg
import structlog
from psycopg import sql

from payments.database.connections import Connection, connect, in_short, is_pooled
from payments.database.queries import load_queries
from payments.errors import DatabaseUnsuitable, OperatingError
from payments.wakeup.payloads import ANYTHING, gather, unpack

# Silence may be a dead connection: after so much of it the server is asked for a sign of life.
SILENCE_S_MAX = 5.0
ANSWER_TIMEOUT_S = 5.0
# Pauses while the database is away.
RETRY_S_MIN = 0.1
RETRY_S_MAX = 2.0
PAST_THE_POOLER = "Set DATABASE_DIRECT_URL to the server's own address."

_QUERIES = load_queries("wakeup")
log = structlog.get_logger()


class Wakeup:
    """One subscriber's bell. It gathers what came while nobody waited, so nothing is lost between two waits."""

    def __init__(self) -> None:
        self._payloads: set[str] = set()
        self._rung = asyncio.Event()

    def ring(self, *payloads: str) -> None:
        """Wakes the waiter; the empty payload means 'anything may have happened'."""
        gather(self._payloads, payloads)
        self._rung.set()

    async def wait(self, timeout_s: float) -> set[str] | None:
        """The payloads gathered since the last wait, at once if there are any; None after `timeout_s` without.

        When '' is among them, look at everything: the particulars are not known (also after each reconnect).
        """
        try:
            async with asyncio.timeout(timeout_s):
                await self._rung.wait()
        except TimeoutError:
            if not self._rung.is_set():
                return None
        self._rung.clear()
        payloads, self._payloads = self._payloads, set()
        return payloads


class Listener:
    """One per process: it connects again for ever, and rings every subscriber once after each time it (re)connected."""

    def __init__(self, dsn: str, role: str) -> None:
        self._dsn = dsn
        self._role = role
        self._bells: dict[str, list[Wakeup]] = {}
        self._changed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._retry_s = RETRY_S_MIN
        self._is_away = False

    async def __aenter__(self) -> Self:
        """Begins to listen; does not wait for the database."""
        self._task = asyncio.create_task(self._run(), name="listener")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Stops listening at once."""
        assert self._task is not None
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    def subscribe(self, channel: str) -> Wakeup:
        """A bell of one's own for a channel; it rings first when the server has begun to listen."""
        bell = Wakeup()
        self._bells.setdefault(channel, []).append(bell)
        self._changed.set()
        return bell

    async def _run(self) -> None:
        while True:
            try:
                async with await connect(self._dsn, self._role) as conn:
                    if await is_pooled(conn):
                        raise DatabaseUnsuitable("A pooler passes on no notifications.", advice=PAST_THE_POOLER)
                    self._changed.set()
                    await self._listen_for_ever(conn)
            except (psycopg.Error, OperatingError, TimeoutError) as error:  # what a standby refuses, it will do one day
                if not self._is_away:
                    log.warning("listener.disconnected", error=in_short(error))
                self._is_away = True
            await asyncio.sleep(self._retry_s)
            self._retry_s = min(2 * self._retry_s, RETRY_S_MAX)

    def _note_success(self) -> None:
        if self._is_away:
            log.info("listener.reconnected")
        self._retry_s, self._is_away = RETRY_S_MIN, False

    async def _listen_for_ever(self, conn: Connection) -> None:
        listening: set[str] = set()
        while True:
            has_changed = self._changed.is_set()
            self._changed.clear()
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                await conn.execute(_QUERIES["sign_of_life"])
                for channel in self._bells.keys() - listening:
                    await conn.execute(sql.SQL("listen {}").format(sql.Identifier(channel)))
                    listening.add(channel)
            self._note_success()
            if has_changed:  # before this moment, something may have been missed
                for bells in self._bells.values():
                    for bell in bells:
                        bell.ring(ANYTHING)
            await self._pass_on(conn)

    async def _pass_on(self, conn: Connection) -> None:
        """Rings until a channel is added, or nothing came for SILENCE_S_MAX."""
        passing = asyncio.ensure_future(self._ring_until_silent(conn))
        changing = asyncio.ensure_future(self._changed.wait())
        try:
            await asyncio.wait({passing, changing}, return_when=asyncio.FIRST_COMPLETED)
            if passing.done():
                passing.result()
        finally:
            for task in (passing, changing):
                task.cancel()
            await asyncio.gather(passing, changing, return_exceptions=True)

    async def _ring_until_silent(self, conn: Connection) -> None:
        async for notification in conn.notifies(timeout=SILENCE_S_MAX):
            for bell in self._bells.get(notification.channel, ()):
                bell.ring(*unpack(notification.payload))
