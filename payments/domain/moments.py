"""Moments as people write them on a command line: pure."""

from datetime import UTC, datetime


def parse_moment(text: str) -> datetime:
    """An RFC 3339 time with its zone, in UTC. Raises ValueError."""
    try:
        moment = datetime.fromisoformat(text)
        if moment.tzinfo is not None:
            return moment.astimezone(UTC)
    except (ValueError, OverflowError):  # the latter: in UTC it lies before the year 1, or after 9999
        pass
    raise ValueError(f"{text!r} must be a time with its zone: 2026-01-31T12:00:00Z")
