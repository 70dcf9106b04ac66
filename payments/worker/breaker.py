"""When not to call Stripe at all: it is down, or it refuses our key. Pure: a state, what happened, the next state."""

from enum import StrEnum
from typing import assert_never

import msgspec

from payments.stripe_gateway.outcomes import (
    Answered,
    Declined,
    KeyInUse,
    KeyMisused,
    Outcome,
    RateLimited,
    Refused,
    Unauthorized,
    Unknown,
)

# So many unknown outcomes in a row are no accident of single calls; below, one that hangs must not stop the others.
UNKNOWN_MAX = 5
# How long nobody calls, doubling with each probe that fails. A customer waits meanwhile: short at first.
DOWN_S_MIN = 1.0
DOWN_S_MAX = 30.0
# A refused key needs a person; probing shows when it was mended, and more often would look like an attack.
REFUSED_S_MIN = 2.0
REFUSED_S_MAX = 300.0


class Trouble(StrEnum):
    """Why the breaker is open."""

    DOWN = "down"
    KEY_REFUSED = "key_refused"


class Breaker(msgspec.Struct, frozen=True):
    """Closed (no `trouble`): call freely. Else: nobody until `probe_at` (monotonic seconds), then one at a time."""

    unknown_in_a_row: int = 0
    trouble: Trouble | None = None
    failed_probes: int = 0
    probe_at: float = 0.0


CLOSED = Breaker()


def decide_allowance(breaker: Breaker, under_way: int, wanted: int, now: float) -> int:
    """How many further calls may begin, with so many under way."""
    if breaker.trouble is None:
        return wanted
    return min(wanted, 1) if now >= breaker.probe_at and under_way == 0 else 0


def decide_breaker(breaker: Breaker, outcome: Outcome, now: float) -> Breaker:
    """The breaker after a call has ended. Whatever Stripe itself said shows that it is there."""
    match outcome:
        case Answered() | Declined() | Refused() | KeyInUse() | KeyMisused() | RateLimited():
            return CLOSED
        case Unauthorized():
            return _opened(breaker, Trouble.KEY_REFUSED, now)
        case Unknown(is_replayed=True):
            # Stripe is there, so no silence. But no proof of health: in an outage of 500s every retry replays its own,
            # and to close for these would send new payments into it, each to have its 500 kept for a day.
            return breaker
        case Unknown():
            if breaker.trouble is None and breaker.unknown_in_a_row + 1 < UNKNOWN_MAX:
                return Breaker(unknown_in_a_row=breaker.unknown_in_a_row + 1)
            # While the key is refused, silence is no news about the key.
            return _opened(breaker, breaker.trouble or Trouble.DOWN, now)
        case _:
            assert_never(outcome)


def _opened(breaker: Breaker, trouble: Trouble, now: float) -> Breaker:
    if breaker.trouble is trouble and now < breaker.probe_at:
        return breaker  # one of the calls that were under way when it opened, no probe
    failed = breaker.failed_probes + 1 if breaker.trouble is trouble else 0
    least_s, most_s = (DOWN_S_MIN, DOWN_S_MAX) if trouble is Trouble.DOWN else (REFUSED_S_MIN, REFUSED_S_MAX)
    pause_s = min(most_s, least_s * 2.0 ** min(failed, 20))
    return Breaker(unknown_in_a_row=0, trouble=trouble, failed_probes=failed, probe_at=now + pause_s)
