"""What a database error means for a lane, and how long to wait: decided here, without a database."""

from enum import Enum, auto

# A queue is mostly locked for a moment; one that was dropped waits for an operator.
PAUSE_S_MIN = 0.1
PAUSE_S_MAX = 5.0


class Failure(Enum):
    """Who is at fault."""

    DATABASE_AWAY = auto()
    LANE_STOPPED = auto()


# Connection lost, server going down or starting, too many connections.
_AWAY = ("08", "57P", "53300")

# What an operator most likely meets, in words.
REASONS = {
    "55P03": "the queue is locked",
    "42P01": "the queue was dropped",
    "42501": "payments_relay lacks a grant on the queue",
    "P0002": "the lane has no batch to start from",
    "25006": "the database is read-only",
    "57014": "the statement took too long",
}


def decide_failure(sqlstate: str | None) -> Failure:
    """Tells a database that is away (no SQLSTATE: nobody answered) from a lane that cannot work."""
    if sqlstate is None or sqlstate.startswith(_AWAY):
        return Failure.DATABASE_AWAY
    return Failure.LANE_STOPPED


def decide_pause_s(failures: int) -> float:
    """How long to wait after so many failures in a row, 1 or more."""
    return float(min(PAUSE_S_MIN * 2 ** min(failures - 1, 10), PAUSE_S_MAX))
