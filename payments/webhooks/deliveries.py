"""Takes a webhook delivery: verified, parsed and committed before anybody answers 200."""

from datetime import datetime

import msgspec
import psycopg
import structlog
from psycopg_pool import PoolTimeout

from payments.database.connections import Pool, confirm, in_short, transaction
from payments.inbox.rows import receive
from payments.settings import Settings
from payments.webhooks.events import MalformedEvent, read_received
from payments.webhooks.signature import find_fault

log = structlog.get_logger()


class Received(msgspec.Struct, frozen=True):
    """200: the event is committed, now or by an earlier delivery (`is_new` says which). Then notify payments_inbox."""

    event_id: str
    event_type: str
    is_new: bool


class Forged(msgspec.Struct, frozen=True):
    """400: not signed by Stripe, or too long ago. Nothing was kept."""

    why: str


class Malformed(msgspec.Struct, frozen=True):
    """400: signed, but no event. Nothing was kept."""

    why: str


class TooLarge(msgspec.Struct, frozen=True):
    """413: above PAYMENTS_WEBHOOK_BYTES_MAX."""

    bytes_max: int


class DatabaseAway(msgspec.Struct, frozen=True):
    """503: not committed as far as we know; Stripe delivers again, and a second copy does no harm."""


Delivery = Received | Forged | Malformed | TooLarge | DatabaseAway


async def accept_delivery(
    pool: Pool, settings: Settings, signature_header: bytes | None, body: bytes, now: datetime
) -> Delivery:
    """Keeps a delivery once; never raises for anything that a sender or the database does.

    `body` is the raw body, `signature_header` the Stripe-Signature header (several of them joined with a comma are
    refused, having several timestamps). Events of any type, mode and account are kept: the recorder sorts them.
    """
    if len(body) > settings.webhook_bytes_max:
        return TooLarge(settings.webhook_bytes_max)
    fault = find_fault(signature_header, body, settings.stripe_webhook_secrets, now.timestamp())
    if fault is not None:
        return Forged(fault)
    try:
        event = read_received(body)
    except MalformedEvent as error:
        return Malformed(str(error))
    try:
        async with transaction(pool) as conn:
            is_new = await receive(
                conn, "stripe-webhook", event.event_id, event.event_type, event.payment_id, event.payload
            )
            if not is_new:
                await confirm(conn)
    except psycopg.DataError as error:
        log.error("delivery.unstorable", event_id=event.event_id, error=in_short(error))  # noqa: TRY400 - it may quote
        return Malformed(f"the event cannot be stored: {type(error).__name__}")
    except (psycopg.Error, PoolTimeout) as error:
        log.warning("delivery.failed", event_id=event.event_id, error=in_short(error))
        return DatabaseAway()
    return Received(event.event_id, event.event_type, is_new)
