"""Who may ask the database about one thing: one request of this process after another, and few of all.

A payment whose row somebody keeps locked would else cost as many connections as there are requests for it, until none
is left for anybody. The database's own locks decide between processes; these only spare its connections.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Hashable
from contextlib import asynccontextmanager


class Turns:
    """The turns of one process; of all things together, `at_once` are worked on."""

    def __init__(self, at_once: int) -> None:
        self._slots = asyncio.Semaphore(at_once)
        self._locks: dict[Hashable, asyncio.Lock] = {}
        self._wanted: dict[Hashable, int] = {}

    @asynccontextmanager
    async def turn(self, thing: Hashable, ends_at: float) -> AsyncIterator[None]:
        """Holds the thing. Raises TimeoutError when it is still another's at `ends_at`, of the monotonic clock."""
        lock = self._locks.setdefault(thing, asyncio.Lock())
        self._wanted[thing] = self._wanted.get(thing, 0) + 1
        try:
            async with asyncio.timeout(ends_at - time.monotonic()):
                await lock.acquire()
            try:
                yield
            finally:
                lock.release()
        finally:
            self._wanted[thing] -= 1
            if not self._wanted[thing]:
                del self._locks[thing], self._wanted[thing]

    @asynccontextmanager
    async def slot(self, ends_at: float) -> AsyncIterator[None]:
        """One of the few places at the database. Raises TimeoutError."""
        async with asyncio.timeout(ends_at - time.monotonic()):
            await self._slots.acquire()
        try:
            yield
        finally:
            self._slots.release()

    @property
    def count(self) -> int:
        """How many things are held or waited for."""
        return len(self._locks)
