"""One rate for the calls of all workers on all hosts: reservations in PostgreSQL, taken a second at a time."""

import contextlib
import time
from collections import deque
from collections.abc import Callable

from payments.database.connections import CommitUncertain, Pool, statements
from payments.database.queries import load_queries

# A reservation that was not used within a second is void; else a pause would end in a burst.
RESERVATION_S_MAX = 1.0
# After a 429 the rate is halved, down to a sixteenth, and comes back evenly within a minute of silence.
RECOVERY_S = 60.0
SHARE_MIN = 1 / 16
# Longer than Stripe ever asks to wait; what stands further ahead is a clock that was set back.
AHEAD_S_MAX = 300.0

_QUERIES = load_queries("worker")


class Limiter:
    """A worker's share of the common rate. A busy worker reserves what it lately needed in a second."""

    def __init__(self, pool: Pool, calls_per_s: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._pool = pool
        self._calls_per_s = calls_per_s
        self._clock = clock
        self._reserved: deque[float] = deque()
        self._lately: deque[float] = deque()
        self.retry_in_s = 0.0

    async def take(self, wanted: int, *, is_busy: bool) -> list[float]:
        """Up to `wanted` moments (of the monotonic clock) at which calls may begin, each within about a second.

        None at all: others have reserved the coming second; ask again in `retry_in_s`. `is_busy`: more work is waiting,
        so reserve for the whole of it. What is not used within a second after its moment is lost.
        """
        now = self._clock()
        while self._reserved and self._reserved[0] < now - RESERVATION_S_MAX:
            self._reserved.popleft()
        while self._lately and self._lately[0] < now - 1.0:
            self._lately.popleft()
        missing = wanted - len(self._reserved)
        if missing > 0:
            await self._reserve(max(missing, len(self._lately)) if is_busy else missing)
        taken = [self._reserved.popleft() for _ in range(min(wanted, len(self._reserved)))]
        self._lately.extend(now for _ in taken)
        return taken

    def give_back(self, moments: list[float]) -> None:
        """Keeps what was taken and not needed after all, for the next `take`."""
        self._reserved.extendleft(reversed(moments))

    async def slow_down(self, pause_s: float) -> None:
        """Stripe said that we are too fast: everybody slows down for a while."""
        self._reserved.clear()
        values = {"pause_s": min(pause_s, AHEAD_S_MAX), "share_min": SHARE_MIN, "recovery_s": RECOVERY_S}
        async with statements(self._pool) as conn:
            await conn.execute(_QUERIES["slow_down"], values)

    async def _reserve(self, wanted: int) -> None:
        values = {
            "wanted": wanted,
            "calls_per_s": self._calls_per_s,
            "recovery_s": RECOVERY_S,
            "ahead_s_max": AHEAD_S_MAX,
        }
        now = self._clock()
        row = None
        with contextlib.suppress(CommitUncertain):  # a failover may only forget who was to wait
            async with statements(self._pool) as conn:
                row = await (await conn.execute(_QUERIES["reserve_calls"], values)).fetchone()
        assert row is not None, "the schema brings the row"
        calls, first_in_s, spacing_s = int(str(row[0])), float(str(row[1])), float(str(row[2]))
        self._reserved.extend(now + first_in_s + number * spacing_s for number in range(calls))
        self.retry_in_s = 0.0 if calls else max(first_in_s - RESERVATION_S_MAX, 0.0) + spacing_s
