"""Says after a commit that there is work, on a connection of its own.

NOTIFY inside a working transaction serialises all commits of the cluster; here it costs the worker nothing.
"""

import asyncio
from types import TracebackType
from typing import Self

import psycopg
import structlog

from payments.database.connections import Connection, connect, in_short
from payments.database.queries import load_queries
from payments.errors import OperatingError
from payments.wakeup.payloads import ANYTHING, SEPARATOR, gather, pack

# The first of a burst goes out at once, the last at most this much later: at most 200 statements a second.
GAP_S = 0.005
# Pauses while the database is away.
RETRY_S_MIN = 0.1
RETRY_S_MAX = 2.0
# A statement without an answer for so long: the connection is dead, whatever TCP believes.
SEND_TIMEOUT_S = 5.0
# At the end: what was just committed is announced still, if the database takes it at once.
FLUSH_TIMEOUT_S = 0.5
PAYLOAD_BYTES_MAX = 200  # a queue's name or an id

_QUERIES = load_queries("wakeup")
log = structlog.get_logger()


class Notifier:
    """One per process: `notify` never blocks nor raises; while the database is away, listeners must poll.

    What was notified meanwhile goes out after reconnecting, many particulars as one 'anything'.
    """

    def __init__(self, dsn: str, role: str) -> None:
        self._dsn = dsn
        self._role = role
        self._pending: dict[str, set[str]] = {}
        self._has_pending = asyncio.Event()
        self._closing = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._retry_s = RETRY_S_MIN
        self._is_away = False

    async def __aenter__(self) -> Self:
        """Begins to send; does not wait for the database."""
        self._task = asyncio.create_task(self._run(), name="notifier")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Sends what is pending if that goes at once, and ends."""
        assert self._task is not None
        self._closing.set()
        self._has_pending.set()
        await asyncio.wait({self._task}, timeout=FLUSH_TIMEOUT_S)
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    def notify(self, channel: str, payload: str = ANYTHING) -> None:
        """Wakes the listeners of a channel; call it after the commit. A payload is an id or a name, without comma."""
        assert SEPARATOR not in payload
        assert len(payload.encode()) <= PAYLOAD_BYTES_MAX
        gather(self._pending.setdefault(channel, set()), (payload,))
        self._has_pending.set()

    async def _run(self) -> None:
        while not self._closing.is_set():
            try:
                async with await connect(self._dsn, self._role) as conn:
                    await self._send_for_ever(conn)
                    return
            except (psycopg.Error, OperatingError, TimeoutError) as error:  # what a standby refuses, it will do one day
                if not self._is_away:
                    log.warning("notifier.disconnected", error=in_short(error))
                self._is_away = True
            await _sleep(self._closing, self._retry_s)
            self._retry_s = min(2 * self._retry_s, RETRY_S_MAX)

    def _note_success(self) -> None:
        if self._is_away:
            log.info("notifier.reconnected")
        self._retry_s, self._is_away = RETRY_S_MIN, False

    async def _send_for_ever(self, conn: Connection) -> None:
        while True:
            await self._has_pending.wait()
            self._has_pending.clear()
            pending, self._pending = self._pending, {}
            try:
                if pending:
                    async with asyncio.timeout(SEND_TIMEOUT_S):
                        await _send(conn, pending)
                    self._note_success()
            except BaseException:
                for channel in pending:  # perhaps sent, perhaps not
                    self.notify(channel)
                raise
            if self._closing.is_set() and not self._pending:
                return
            await _sleep(self._closing, GAP_S)


async def _send(conn: Connection, pending: dict[str, set[str]]) -> None:
    messages = [(channel, packed) for channel, payloads in pending.items() for packed in pack(payloads)]
    values = {"channels": [channel for channel, _ in messages], "payloads": [packed for _, packed in messages]}
    await conn.execute(_QUERIES["notify"], values)


async def _sleep(until: asyncio.Event, seconds: float) -> None:
    if until.is_set():
        return
    try:
        async with asyncio.timeout(seconds):
            await until.wait()
    except TimeoutError:
        pass
