"""Beyond 30 days Stripe forgets its events, but no object: what was made then is listed and compared with our books.

What was made earlier and changed since is found by the watches: they look at all that is not at rest.
"""

import math
from collections.abc import Awaitable, Callable
from typing import Any
from uuid import UUID

import structlog

from payments.database.connections import Connection, transaction
from payments.database.queries import load_queries
from payments.domain.facts import payment_id_of
from payments.domain.signals import Kind
from payments.inbox.fetching import receive_fetched
from payments.reconciler.asking import Page, each_page
from payments.reconciler.jobs import Surroundings
from payments.reconciler.looks import decide_stock
from payments.reconciler.slices import Slice, Taken
from payments.stripe_gateway.outcomes import Answered, Outcome
from payments.wakeup import INBOX

PAGES_MAX = 20

_QUERIES = load_queries("reconciler")
log = structlog.get_logger()

List = Callable[[int, int, str | None], Awaitable[Outcome]]


async def take_stock(around: Surroundings, part: Slice, pages_max: int = PAGES_MAX) -> Taken:
    """Compares what was made in a slice of the past with our books; what they do not have goes into the inbox."""
    assert part.until is not None, "the present is told by events"
    gateway = around.gateway
    lists: dict[Kind, List] = {
        Kind.PAYMENT_INTENT: gateway.list_payment_intents,
        Kind.REFUND: lambda gte, lte, after: gateway.list_refunds(
            created_gte=gte, created_lte=lte, starting_after=after
        ),
        Kind.DISPUTE: lambda gte, lte, after: gateway.list_disputes(
            created_gte=gte, created_lte=lte, starting_after=after
        ),
    }
    since, until = math.floor(part.since.timestamp()), math.ceil(part.until.timestamp())
    for kind, ask in lists.items():
        pages = 0
        async for page in each_page(lambda after, ask=ask: ask(since, until, after)):  # type: ignore[misc]
            pages += 1
            await _compare(around, kind, page)
            if pages == pages_max and page.has_more and not part.is_least:
                return Taken(None, is_whole=False)
    return Taken(None, is_whole=True)


async def _compare(around: Surroundings, kind: Kind, page: Page) -> None:
    objects = page.objects
    if kind is Kind.PAYMENT_INTENT:
        objects = [one for one in objects if payment_id_of(one) is not None]
    if not objects:
        return
    around.found["objects compared"] += len(objects)
    async with transaction(around.pool) as conn:
        known = await _known(conn, kind, objects)
        news = [one for one in objects if decide_stock(kind, one, known.get(_name(kind, one)))]
        for one in news:
            answer = Answered(one, 200, page.request_id)
            await receive_fetched(conn, kind, str(one["id"]), payment_id_of(one), answer, 0)
    if news:
        around.found["news for the inbox"] += len(news)
        around.notifier.notify(INBOX)


def _name(kind: Kind, one: dict[str, Any]) -> UUID | str | None:
    return payment_id_of(one) if kind is Kind.PAYMENT_INTENT else str(one["id"])


async def _known(conn: Connection, kind: Kind, objects: list[dict[str, Any]]) -> dict[UUID | str | None, str]:
    names = [_name(kind, one) for one in objects]
    if kind is Kind.PAYMENT_INTENT:
        rows: list[Any] = await (await conn.execute(_QUERIES["known_payments"], {"payment_ids": names})).fetchall()
    else:
        rows = await (await conn.execute(_QUERIES["known_objects"], {"references": names})).fetchall()
    return dict(rows)
