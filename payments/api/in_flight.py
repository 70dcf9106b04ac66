"""How many requests are worked on at once. Above the limit they are refused: an endless queue helps nobody."""

from collections.abc import Iterator
from contextlib import contextmanager

# At 10 ms a request that is 50,000 a second; while the database hangs it bounds what hangs with it.
REQUESTS_MAX = 512
RETRY_AFTER_S = 1


class InFlight:
    """Counts the requests of this process that are being worked on."""

    def __init__(self, requests_max: int = REQUESTS_MAX) -> None:
        self.requests_max = requests_max
        self.count = 0

    @property
    def is_full(self) -> bool:
        """Whether a further request must be refused."""
        return self.count >= self.requests_max

    @contextmanager
    def counted(self) -> Iterator[None]:
        """Counts a request in."""
        self.count += 1
        try:
            yield
        finally:
            self.count -= 1

    @contextmanager
    def set_aside(self) -> Iterator[None]:
        """Counts a request out while it only waits for its payment; waiters have a limit of their own."""
        self.count -= 1
        try:
            yield
        finally:
            self.count += 1
