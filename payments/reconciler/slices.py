"""How Stripe's past is caught up with: slice by slice, the oldest first, though lists show the newest first. Pure."""

from datetime import datetime, timedelta

import msgspec

# Stripe lists an event a moment after it happened, and clocks differ: so much is looked at again each time.
OVERLAP = timedelta(minutes=1)
# Between our clock and Stripe's, as a rule.
SKEW_MAX = timedelta(minutes=10)
# Whoever takes local time for UTC is off by 14 hours at most. So far back a silent Stripe is looked at again, which
# costs nothing where nothing is: maybe it is not silent, and our clock runs ahead.
SILENCE_MAX = timedelta(hours=15)
# Events "going back up to 30 days" (https://docs.stripe.com/api/events); an hour in hand.
EVENTS_KEPT = timedelta(days=30) - timedelta(hours=1)
# The border moves on while a slice is looked at: the last one by objects goes beyond it, or none would be the last.
BEYOND_THE_BORDER = timedelta(minutes=30)
# A slice grows and shrinks with what is in it.
SPAN_FIRST = timedelta(minutes=10)
SPAN_MAX = timedelta(days=1)
SPAN_MIN = timedelta(seconds=1)


class Slice(msgspec.Struct, frozen=True):
    """A piece of Stripe's past. `until` None: to its present. `by_objects`: its events are gone; list what was made."""

    since: datetime
    until: datetime | None
    by_objects: bool

    @property
    def is_least(self) -> bool:
        """Whether it cannot be made smaller: then all that it holds is taken."""
        return self.until is not None and self.until - self.since <= OVERLAP + SPAN_MIN


class Taken(msgspec.Struct, frozen=True):
    """What came of a slice: Stripe's own time of its newest event, and whether it did not hold too much."""

    newest: datetime | None
    is_whole: bool


def decide_slice(
    position: datetime, heard: datetime, now: datetime, span: timedelta, crowded_until: datetime | None = None
) -> Slice:
    """What to look at next, all before `position` being known, if our clock is right, and all before `heard`, if not.

    `crowded_until`: Stripe's present held too much, but something at least as new as this.
    """
    kept_from = now - EVENTS_KEPT
    if position < kept_from:
        return Slice(position - OVERLAP, min(position + span, kept_from + BEYOND_THE_BORDER), by_objects=True)
    if crowded_until is None and position + span < now - SKEW_MAX:
        return Slice(position - OVERLAP, position + span, by_objects=False)
    begin = min(position, heard)
    until = min(begin + span, max(crowded_until, begin + SPAN_MIN)) if crowded_until is not None else None
    return Slice(begin - OVERLAP, until, by_objects=False)


def decide_position(looked_at: Slice, position: datetime, newest: datetime | None, now: datetime) -> datetime:
    """What is known after a slice; `newest`: Stripe's own time of the newest event in it."""
    if looked_at.until is not None:
        return max(position, looked_at.until)
    return max(position, _believed(newest, now) or position, now - SKEW_MAX)


def decide_heard(heard: datetime, newest: datetime | None, now: datetime) -> datetime:
    """Up to when Stripe is known by its own clock; ours counts only where it can't be so wrong."""
    return max(heard, _believed(newest, now) or heard, now - SILENCE_MAX)


def _believed(newest: datetime | None, now: datetime) -> datetime | None:
    return min(newest, now + SKEW_MAX) if newest is not None else None


def decide_span(span: timedelta, *, is_too_full: bool) -> timedelta:
    """The next slice's length."""
    return max(SPAN_MIN, span / 2) if is_too_full else min(SPAN_MAX, span * 2)
