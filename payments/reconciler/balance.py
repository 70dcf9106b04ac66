"""Keeps Stripe's balance transactions beside our books; where the two disagree, the audit finds it.

Compared is what was moved, gross, in the payment's own currency: captured, refunded and given back, disputed. Fees and
exchange rates are kept as Stripe says them, and not judged. What no payment of ours has part in is passed by.
"""

import math
from typing import Any

import msgspec
import structlog

from payments.database.connections import transaction
from payments.database.queries import load_queries
from payments.domain.balance import Booked, read_booked
from payments.reconciler.asking import Refusal, StripeAway, each_page
from payments.reconciler.catching_up import catch_up, newest_of
from payments.reconciler.jobs import Job, Surroundings
from payments.reconciler.listing import has_listing
from payments.reconciler.slices import Slice, Taken

POSITION = "balance"
# A slice that holds more is halved; one second of Stripe's never is.
PAGES_MAX = 20

_QUERIES = load_queries("balance")
log = structlog.get_logger()


async def keep_balance(around: Surroundings) -> bool:
    """Catches up with Stripe's list; whether there is more to catch up with. Raises StripeAway."""
    try:
        return await catch_up(around, POSITION, _take) is True
    except (Refusal, StripeAway) as error:
        if isinstance(error, StripeAway) and not error.lacks_right:
            raise
        # A restricted key, mostly, and payments go on: nobody must hear that Stripe refuses the key itself.
        log.error("balance.refused", error=str(error))  # noqa: TRY400 - it says all
        return False


async def _take(around: Surroundings, part: Slice) -> Taken:
    """Keeps a slice's transactions; nothing of one that holds too many."""
    transactions: list[dict[str, Any]] = []
    pages = 0
    async for page in each_page(
        lambda after: around.gateway.list_balance_transactions(
            created_gte=math.floor(part.since.timestamp()),
            created_lte=None if part.until is None else math.ceil(part.until.timestamp()),
            starting_after=after,
        )
    ):
        pages += 1
        transactions += page.objects
        if pages == PAGES_MAX and page.has_more and not part.is_least:
            return Taken(newest_of(transactions), is_whole=False)
    await _keep(around, [booked for one in transactions if (booked := _read(one))])
    return Taken(newest_of(transactions), is_whole=True)


def _read(one: dict[str, Any]) -> Booked | None:
    try:
        return read_booked(one)
    except ValueError as error:
        log.error("balance.unreadable", transaction_id=one["id"], error=str(error))  # noqa: TRY400 - it says all
        return None


async def _keep(around: Surroundings, booked: list[Booked]) -> None:
    if not booked:
        return
    rows = msgspec.json.encode(booked).decode()
    async with transaction(around.pool) as conn:
        kept = (await conn.execute(_QUERIES["keep"], {"rows": rows})).rowcount
    if kept:
        around.found["balance transactions"] += kept


async def _knows_its_payments(around: Surroundings) -> bool:
    """After a restore not before they are found again: what bears no metadata of ours would be nobody's for ever."""
    return not await has_listing(around)


BALANCE = Job(
    "balance",
    keep_balance,
    lambda settings: settings.events_backfill_s,
    takes_turns=True,
    has_work=_knows_its_payments,
)
