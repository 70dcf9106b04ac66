"""Catching up with one of Stripe's lists, from where a job stood to the present, slice by slice."""

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

from payments.database.connections import Connection, statements, transaction
from payments.database.queries import load_queries
from payments.reconciler.jobs import Surroundings, move_progress, read_progress
from payments.reconciler.slices import (
    SILENCE_MAX,
    SKEW_MAX,
    SPAN_FIRST,
    Slice,
    Taken,
    decide_heard,
    decide_position,
    decide_slice,
    decide_span,
)

# One part of a job: a few seconds, or some minutes after an outage of days.
SLICES_MAX = 20

_QUERIES = load_queries("reconciler")


async def catch_up(
    around: Surroundings,
    job: str,
    take: Callable[[Surroundings, Slice], Awaitable[Taken]],
    begin: datetime | None = None,
) -> bool | None:
    """Takes slices until the present is reached, at first from `begin` on. Raises StripeAway.

    Whether there is more to catch up with; None when another process was quicker, and nothing is known. The progress of
    `job` tells how far it has come, by our clock; that of `job`/heard what Stripe itself has dated.
    """
    span, crowded_until, hearing = SPAN_FIRST, None, f"{job}/heard"
    for _ in range(SLICES_MAX):
        async with statements(around.pool) as conn:
            progress, now = await read_progress(conn, job, hearing)
            before, heard_before = progress.get(job), progress.get(hearing)
            position = before or begin or await _first_position(conn, now)
        heard = heard_before or position - SILENCE_MAX
        part = decide_slice(position, heard, now, span, crowded_until)
        taken = await take(around, part)
        if not taken.is_whole:
            span = decide_span(span, is_too_full=True)
            if part.until is None:
                crowded_until = min(taken.newest, now + SKEW_MAX) if taken.newest is not None else None
            continue
        span = decide_span(span, is_too_full=False)
        # Where it is crowded, Stripe has dated something as late as that.
        newest = taken.newest if crowded_until is None else part.until
        if crowded_until is not None and part.until is not None and part.until >= crowded_until:
            crowded_until = None  # now for the present again
        async with transaction(around.pool) as conn:
            after = decide_position(part, position, taken.newest, now)
            is_ours = await move_progress(conn, job, before, after)
            if is_ours:
                await move_progress(conn, hearing, heard_before, decide_heard(heard, newest, now))
        if not is_ours:
            return None
        if part.until is None:
            return False
    return True


async def _first_position(conn: Connection, now: datetime) -> datetime:
    """A new installation begins with its first payment."""
    row: Any = await (await conn.execute(_QUERIES["first_payment_at"])).fetchone()
    return min(row[0], now) if row else now


def newest_of(objects: list[dict[str, Any]]) -> datetime | None:
    """Stripe's own time of the newest object of a list, which shows the newest first."""
    created = objects[0].get("created") if objects else None
    return datetime.fromtimestamp(created, UTC) if type(created) is int else None
