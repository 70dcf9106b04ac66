"""Whether the database answers, said once per change and not once per lane."""

import psycopg
import structlog

from payments.database.connections import in_short

log = structlog.get_logger()


class Reachability:
    """Shared by all tasks of a relay: logs `database.lost` and `database.reached` when that changes."""

    def __init__(self) -> None:
        self._is_lost = False

    def lost(self, error: psycopg.Error) -> None:
        """Nobody answered."""
        if not self._is_lost:
            log.warning("database.lost", error=in_short(error))
        self._is_lost = True

    def reached(self) -> None:
        """Somebody did."""
        if self._is_lost:
            log.info("database.reached")
        self._is_lost = False
