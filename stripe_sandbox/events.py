"""Events: a snapshot of an object, and its deliveries (https://docs.stripe.com/api/events/object)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stripe_sandbox.identifiers import new_id
from stripe_sandbox.settings import API_VERSION
from stripe_sandbox.store import Record

if TYPE_CHECKING:
    from stripe_sandbox.call import Call
    from stripe_sandbox.errors import Json
    from stripe_sandbox.store import Store

# https://docs.stripe.com/api/events: "going back up to 30 days".
KEPT_S = 30 * 24 * 3600


def emit(call: Call, kind: str, record: Record, previous: Json | None = None) -> None:
    """Record an event about the object as it stands, with its deliveries, in the caller's transaction.

    ``request`` names the API call that caused it; both its fields are null for what Stripe does by itself.
    """
    data: Json = {"object": record.body}
    if previous is not None:
        data["previous_attributes"] = previous
    event: Json = {
        "id": new_id("evt"),
        "object": "event",
        "api_version": API_VERSION,
        "created": call.at,
        "data": data,
        "livemode": False,
        "pending_webhooks": 0,
        "request": {"id": call.request_id, "idempotency_key": call.idempotency_key},
        "type": kind,
    }
    # https://docs.stripe.com/webhooks#handle-duplicate-events: in some cases two Event objects tell of one change.
    twins = [event, {**event, "id": new_id("evt")}] if call.webhooks.steering.twins else [event]
    for one in twins:
        call.store.insert(Record("event", one, parent=record.id, tag=kind))
        call.webhooks.enqueue(one, call.now)


def pending_webhooks(store: Store, event_id: str) -> int:
    """Deliveries still without a 2xx."""
    row = store.db.execute(
        "SELECT count(DISTINCT endpoint) FROM deliveries WHERE event = ? AND status IN ('pending', 'held')", (event_id,)
    ).fetchone()
    return int(row[0])


def shown(store: Store, record: Record) -> Json:
    """The event as the API returns it, with its current ``pending_webhooks``."""
    return {**record.body, "pending_webhooks": pending_webhooks(store, record.id)}
