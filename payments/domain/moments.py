"""Moments as people write them on a command line: pure."""

from datetime import UTC, datetime


def parse_moment(text: str) -> datetime:
    """An RFC 3339 time with its zone, in UTC. Raises ValueError."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        raise ValueError(f"{text!r} must be a time with its zone: 2026-01-31T12:00:00Z")
    return moment.astimezone(UTC)
