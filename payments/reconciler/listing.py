"""After a restore: looks at everything that happened at Stripe since the backup, and lets the service go on.

While `payments.cluster.stripe_unlisted_since` is set, no wish is taken and no call is made that could move money. Here
it is cleared, in five steps, each of which stays done: Stripe's events since then are in the inbox; all are weighed;
every PaymentIntent, refund and dispute made since then is compared with our books, as a proof that owes nothing to
events; whatever that found is weighed; the mark is taken away. What a backup has lost is adopted by the recorder.
"""

from datetime import datetime, timedelta
from typing import Any

import msgspec
import structlog

from payments.database.connections import statements, transaction
from payments.database.queries import load_queries
from payments.domain.refunds import DOES_NOT_FIT
from payments.reconciler.catching_up import catch_up
from payments.reconciler.events import take_events
from payments.reconciler.jobs import Job, Surroundings, guard_plans, move_progress, read_progress
from payments.reconciler.slices import OVERLAP, SKEW_MAX, SPAN_FIRST, Slice, decide_span
from payments.reconciler.stock import PAGES_MAX, take_stock
from payments.wakeup import QUEUE

EVENTS, HEARD, OBJECTS, COMPARED = "listing/events", "listing/heard", "listing/objects", "listing/compared"
EVERY_S = 1.0
# One part of the job: a few seconds, so that its turn is kept.
SLICES_MAX = 20
# Nothing at Stripe is newer than this, whatever its clock says.
FUTURE = timedelta(days=365)
# The last slice is as short as it can be, so all its pages are looked at: a million objects of half an hour.
PAGES_OF_THE_PRESENT_MAX = 10_000

_QUERIES = load_queries("reconciler")
log = structlog.get_logger()


class Listing(msgspec.Struct, frozen=True):
    """How far the look at Stripe has come; the times of steps that are done are the database's."""

    since: datetime
    heard_at: datetime | None
    compared_at: datetime | None
    objects_until: datetime | None
    now: datetime


async def has_listing(around: Surroundings) -> bool:
    """Whether the database was restored, and Stripe not looked at since."""
    async with statements(around.pool) as conn:
        return await (await conn.execute(_QUERIES["is_unlisted"])).fetchone() is not None


async def list_since_backup(around: Surroundings) -> bool:
    """One part of what is left to be done; whether there is more to do at once. Raises StripeAway."""
    async with statements(around.pool) as conn:
        row: Any = await (await conn.execute(_QUERIES["read_listing"])).fetchone()
    if row is None:
        return False
    listing = Listing(*row)
    if listing.heard_at is None:
        has_more = await catch_up(around, EVENTS, take_events, listing.since)
        if has_more is False:
            await _note(around, HEARD)
        return has_more is not None
    if listing.compared_at is None:
        return await _is_weighed(around, listing.heard_at) and await _compare(around, listing)
    if await _is_weighed(around, listing.compared_at):
        await _end(around, listing)
    return False


async def _note(around: Surroundings, step: str) -> None:
    """A step is done, and what it found is in the inbox by now."""
    async with transaction(around.pool) as conn:
        _, now = await read_progress(conn)
        await move_progress(conn, step, None, now)


async def _is_weighed(around: Surroundings, until: datetime) -> bool:
    """Whether the recorder is done with all that came until then, and with what it fetched for that."""
    async with transaction(around.pool) as conn:
        await guard_plans(conn)
        values = {"until": until, "waits": f"%{DOES_NOT_FIT}%"}
        row: Any = await (await conn.execute(_QUERIES["count_unweighed"], values)).fetchone()
    return int(row[0]) == 0


async def _compare(around: Surroundings, listing: Listing) -> bool:
    """Lists what was made since the backup, slice by slice, the oldest first; whether there is more to list."""
    before, span = listing.objects_until, SPAN_FIRST
    for _ in range(SLICES_MAX):
        position = before or listing.since
        is_last = position + span >= listing.now - SKEW_MAX
        until = listing.now + FUTURE if is_last else position + span
        part = Slice(position - OVERLAP, until, by_objects=True)
        taken = await take_stock(around, part, PAGES_OF_THE_PRESENT_MAX if is_last else PAGES_MAX)
        span = decide_span(span, is_too_full=not taken.is_whole)
        if not taken.is_whole:
            continue
        async with transaction(around.pool) as conn:
            if not await move_progress(conn, OBJECTS, before, until):
                return False  # another process is at it
        before = until
        if is_last:
            await _note(around, COMPARED)
            break
    return True


async def _end(around: Surroundings, listing: Listing) -> None:
    async with transaction(around.pool) as conn:
        values = {"since": listing.since, "compared_at": listing.compared_at}
        is_ended = (await conn.execute(_QUERIES["end_listing"], values)).rowcount == 1
    if is_ended:
        around.found["looks at Stripe since a backup"] += 1
        around.notifier.notify(QUEUE)
        log.warning("stripe.listed", since=listing.since.isoformat())


LISTING = Job("listing", list_since_backup, lambda _: EVERY_S, takes_turns=True, has_work=has_listing)
