"""The low-water mark: below it everything was weighed, as far as is known, so a claim need not look there."""

from collections import deque

# A row's id is given out before its transaction commits; within this time nearly all do.
TRAIL_S = 10.0
# Those that commit later still are found by looking at everything.
SWEEP_S = 60.0
# One entry a second is enough for a mark that trails by ten.
ENTRY_S = 1.0


class LowWater:
    """Trails the highest id seen by TRAIL_S, and falls to 0 every SWEEP_S. Times are monotonic seconds."""

    def __init__(self, now_s: float) -> None:
        self._seen: deque[tuple[float, int]] = deque()
        self._mark = 0
        self._swept_s = now_s

    def floor(self, now_s: float) -> int:
        """Where to begin looking."""
        while self._seen and self._seen[0][0] <= now_s - TRAIL_S:
            self._mark = max(self._mark, self._seen.popleft()[1])
        if now_s - self._swept_s >= SWEEP_S:
            return 0
        return self._mark

    def note(self, now_s: float, highest_id: int | None, *, floor: int, is_drained: bool) -> None:
        """Learns from one claim: the highest id it got, from which floor, and whether nothing was left."""
        if is_drained and floor == 0:
            self._swept_s = now_s
        if highest_id is None:
            return
        if self._seen and now_s - self._seen[-1][0] < ENTRY_S:
            at_s, last = self._seen.pop()
            self._seen.append((at_s, max(last, highest_id)))
        else:
            self._seen.append((now_s, highest_id))
