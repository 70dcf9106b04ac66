"""Where a look into the inbox begins, so that its cost is that of what is new: not of what was done, or has to wait.

A row that is done stays in the indexes as a dead entry as long as any transaction is older than that, hours perhaps. So
looks begin at a floor that trails what was seen; what commits below it is found by a sweep from the start.
"""

from collections import deque

# A row's id is given out before its transaction commits; within this time nearly all do.
TRAIL_S = 10.0
# Those that commit later still are found by looking at everything; while that is slow, for a twentieth of the time.
SWEEP_S = 10.0
SWEEP_SHARE = 20
# One entry a second is enough for a mark that trails by ten.
ENTRY_S = 1.0
# While there is always more, a claim goes on behind the last one: for so long, lest what commits late wait for the end.
ROUND_S = 1.0

FROM_THE_START = "-infinity"


def _next_sweep(began_s: float, now_s: float) -> float:
    return now_s + max(SWEEP_S, SWEEP_SHARE * (now_s - began_s))


class LowWater:
    """The floor for new rows, an id: rounds from a mark that trails the highest one seen. Times are monotonic."""

    def __init__(self, now_s: float) -> None:
        self._seen: deque[tuple[float, int]] = deque()
        self._mark = 0
        self._sweep_at = now_s + SWEEP_S
        self._is_sweeping = False
        self._began_s = now_s
        self._next: int | None = None  # between the claims of a round

    def floor(self, now_s: float) -> int:
        """Where to begin looking."""
        while self._seen and self._seen[0][0] <= now_s - TRAIL_S:
            self._mark = max(self._mark, self._seen.popleft()[1])
        if self._next is None:
            self._is_sweeping, self._began_s = now_s >= self._sweep_at, now_s
            self._next = 0 if self._is_sweeping else self._mark
        return self._next

    def note(self, now_s: float, highest_id: int | None, *, is_drained: bool) -> None:
        """Learns from the claim that ends now: the highest id it got, and whether nothing was left above."""
        if highest_id is not None:
            self._next = highest_id
            self._remember(now_s, highest_id)
        if self._is_sweeping:
            if is_drained or (self._next or 0) >= self._mark:
                self._sweep_at, self._next = _next_sweep(self._began_s, now_s), None
        elif is_drained or now_s - self._began_s >= ROUND_S:
            self._next = None

    def _remember(self, now_s: float, highest_id: int) -> None:
        if self._seen and now_s - self._seen[-1][0] < ENTRY_S:
            at_s, last = self._seen.pop()
            self._seen.append((at_s, max(last, highest_id)))
        else:
            self._seen.append((now_s, highest_id))


class DueFloor:
    """The floor for rows that were put off, a time of the database's as it writes it."""

    def __init__(self, now_s: float) -> None:
        self._floor = FROM_THE_START
        self._sweep_at = now_s

    def floor(self, now_s: float) -> str:
        """Where to begin looking."""
        return FROM_THE_START if now_s >= self._sweep_at else self._floor

    def note(self, began_s: float, now_s: float, floor: str, next_floor: str) -> None:
        """Learns from a look that began at `floor`: from where on the next one finds all the rest."""
        if floor == FROM_THE_START:
            self._sweep_at = _next_sweep(began_s, now_s)
        self._floor = next_floor
