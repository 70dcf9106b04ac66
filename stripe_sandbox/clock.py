"""The sandbox's clock: real time plus an offset that tests move; the offset outlives the process."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from stripe_sandbox.store import Store


class Clock:
    """``now()`` dates objects and drives retries, pruning and expiry; signatures use real time.

    A receiver checks a signature's timestamp against its own clock, which tests cannot move.
    """

    def __init__(self, store: Store) -> None:
        """Find the offset where the last process left it."""
        self._store = store
        self.offset_s: float = store.meta("clock_offset_s", 0.0)

    def now(self) -> float:
        """Seconds since the epoch, as the sandbox sees it."""
        return time.time() + self.offset_s

    def move(self, offset_s: float) -> None:
        """Set the offset, inside the caller's transaction."""
        self._store.put_meta("clock_offset_s", offset_s)
        self.offset_s = offset_s
