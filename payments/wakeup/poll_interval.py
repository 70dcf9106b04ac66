"""How long to wait for a wake-up before looking anyway."""

import time
from collections.abc import Callable

# What a poll costs is a fraction of a millisecond; so often, a lost notification is hardly felt.
FAST_S = 0.05
# Notifications that failed once (a pooler in between, a restart) mostly fail for a while.
FAST_FOR_S = 30.0


class PollInterval:
    """The time between polls: `base_s`, and FAST_S for a while after a poll found work that nobody had announced.

    Note that a poll that follows a wake-up proves nothing; report it as announced.
    """

    def __init__(self, base_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._base_s = base_s
        self._clock = clock
        self._fast_until = float("-inf")

    @property
    def timeout_s(self) -> float:
        """How long the next wait may last."""
        return min(FAST_S, self._base_s) if self._clock() < self._fast_until else self._base_s

    def note(self, *, announced: bool, found_work: bool) -> None:
        """Learns from one look: whether a notification came before it, and whether there was anything to do."""
        if found_work and not announced:
            self._fast_until = self._clock() + FAST_FOR_S
