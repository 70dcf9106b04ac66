"""What the webhooks did not bring: Stripe's list of events, compared with the inbox; beyond 30 days, the objects."""

import math
from typing import Any
from uuid import UUID

import msgspec
import psycopg
import structlog

from payments.database.connections import in_short, transaction
from payments.database.queries import load_queries
from payments.domain.facts import payment_id_of
from payments.inbox.rows import receive
from payments.reconciler.asking import each_page
from payments.reconciler.catching_up import catch_up, newest_of
from payments.reconciler.jobs import Job, Surroundings
from payments.reconciler.slices import Slice, Taken
from payments.reconciler.stock import take_stock
from payments.wakeup import INBOX

POSITION = "events"
# A slice that holds more is halved; one second of Stripe's never is.
PAGES_MAX = 20
# The present is looked at again and again, a minute or two of it: twenty thousand events.
PAGES_OF_THE_PRESENT_MAX = 200
ROWS_MAX = 100
# What the recorder weighs; whoever else listens to the account's events has nothing to do with payments.
PREFIXES = ("payment_intent.", "refund.", "charge.dispute.")

_QUERIES = load_queries("reconciler")
log = structlog.get_logger()


async def backfill_events(around: Surroundings) -> bool:
    """Catches up with Stripe's events; whether there is more to catch up with. Raises StripeAway."""
    return await catch_up(around, POSITION, take_events) is True


async def take_events(around: Surroundings, part: Slice) -> Taken:
    """Puts into the inbox what a slice of Stripe's past has and the inbox has not."""
    return await (take_stock if part.by_objects else _take_events)(around, part)


async def _take_events(around: Surroundings, part: Slice) -> Taken:
    """Puts a slice's events into the inbox, the oldest first; nothing of one that holds too many."""
    events: list[dict[str, Any]] = []
    pages_max = PAGES_MAX if part.until is not None else PAGES_OF_THE_PRESENT_MAX
    pages = 0
    async for page in each_page(
        lambda after: around.gateway.list_events(
            created_gte=math.floor(part.since.timestamp()),
            created_lte=None if part.until is None else math.ceil(part.until.timestamp()),
            starting_after=after,
        )
    ):
        pages += 1
        events += page.objects
        if pages == pages_max and page.has_more and not part.is_least:
            return Taken(newest_of(events), is_whole=False)
    around.found["events compared"] += len(events)
    wanted = [event for event in reversed(events) if str(event.get("type")).startswith(PREFIXES)]
    for start in range(0, len(wanted), ROWS_MAX):
        await _put(around, wanted[start : start + ROWS_MAX])
    return Taken(newest_of(events), is_whole=True)


async def _put(around: Surroundings, events: list[dict[str, Any]]) -> None:
    try:
        await _put_all(around, events)
    except psycopg.DataError as error:
        if len(events) > 1:
            for event in events:  # one that nobody can store must not hold up the others
                await _put(around, [event])
            return
        # A webhook that nobody can store is refused as well; what it tells of has its watch.
        log.error("event.unstorable", event_id=events[0]["id"], error=in_short(error))  # noqa: TRY400 - it may quote


async def _put_all(around: Surroundings, events: list[dict[str, Any]]) -> None:
    async with transaction(around.pool) as conn:
        ids = {"event_ids": [event["id"] for event in events]}
        rows: list[Any] = await (await conn.execute(_QUERIES["known_events"], ids)).fetchall()
        known = {row[0] for row in rows}
        missed = [event for event in events if event["id"] not in known]
        for event in missed:
            payload = msgspec.json.encode(event)
            await receive(conn, "stripe-webhook", event["id"], str(event["type"]), _owner(event), payload)
    if missed:
        around.found["missed events"] += len(missed)
        around.notifier.notify(INBOX)
        log.info("events.backfilled", count=len(missed), first=missed[0]["id"])


def _owner(event: dict[str, Any]) -> UUID | None:
    data = event.get("data")
    return payment_id_of(data.get("object")) if isinstance(data, dict) else None


EVENTS = Job("events", backfill_events, lambda settings: settings.events_backfill_s, takes_turns=True)
