"""List calls: newest first, cursors, ``created`` (https://docs.stripe.com/api/pagination)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stripe_sandbox import events
from stripe_sandbox.errors import invalid, missing
from stripe_sandbox.store import Query, Record, Store

if TYPE_CHECKING:
    from stripe_sandbox.call import Call
    from stripe_sandbox.errors import Json

LIMIT_DEFAULT = 10
LIMIT_MAX = 100


def payment_intents(call: Call, _ids: tuple[str, ...], given: Json) -> Json:
    """``GET /v1/payment_intents`` (https://docs.stripe.com/api/payment_intents/list)."""
    parents = _one(given.get("customer"))
    return _page(call, given, "payment_intent", "/v1/payment_intents", parents=parents)


def charges(call: Call, _ids: tuple[str, ...], given: Json) -> Json:
    """``GET /v1/charges``, of a PaymentIntent when asked (https://docs.stripe.com/api/charges/list)."""
    return _page(call, given, "charge", "/v1/charges", parents=_one(given.get("payment_intent")))


def refunds(call: Call, _ids: tuple[str, ...], given: Json) -> Json:
    """``GET /v1/refunds``, of a charge or PaymentIntent when asked (https://docs.stripe.com/api/refunds/list)."""
    parents = _one(given.get("charge"))
    intent = given.get("payment_intent")
    if intent is not None:
        found = tuple(record.id for record in call.store.children("charge", intent))
        parents = found if parents is None else tuple(set(found) & set(parents))
    return _page(call, given, "refund", "/v1/refunds", parents=parents)


def disputes(call: Call, _ids: tuple[str, ...], given: Json) -> Json:
    """``GET /v1/disputes`` (https://docs.stripe.com/api/disputes/list)."""
    parents = _one(given.get("charge"))
    if given.get("payment_intent") is not None:
        parents = tuple(record.id for record in call.store.children("charge", given["payment_intent"]))
    return _page(call, given, "dispute", "/v1/disputes", parents=parents)


def early_fraud_warnings(call: Call, _ids: tuple[str, ...], given: Json) -> Json:
    """``GET /v1/radar/early_fraud_warnings`` (https://docs.stripe.com/api/radar/early_fraud_warnings/list)."""
    parents = _one(given.get("charge"))
    if given.get("payment_intent") is not None:
        parents = tuple(record.id for record in call.store.children("charge", given["payment_intent"]))
    return _page(call, given, "radar.early_fraud_warning", "/v1/radar/early_fraud_warnings", parents=parents)


def balance_transaction(call: Call, ids: tuple[str, ...], _given: Json) -> Json:
    """``GET /v1/balance_transactions/{id}`` (https://docs.stripe.com/api/balance_transactions/retrieve)."""
    record = call.store.find("balance_transaction", ids[0])
    if record is None:
        raise missing("balance transaction", ids[0], "id", status=404)
    return record.body


def balance_transactions(call: Call, _ids: tuple[str, ...], given: Json) -> Json:
    """``GET /v1/balance_transactions`` (https://docs.stripe.com/api/balance_transactions/list)."""
    url = "/v1/balance_transactions"
    return _page(
        call, given, "balance_transaction", url, parents=_one(given.get("source")), tags=_one(given.get("type"))
    )


def payment_methods(call: Call, ids: tuple[str, ...], given: Json) -> Json:
    """``GET /v1/customers/{id}/payment_methods`` and ``/v1/payment_methods?customer=``."""
    customer = ids[0] if ids else given.get("customer")
    url = f"/v1/customers/{ids[0]}/payment_methods" if ids else "/v1/payment_methods"
    return _page(call, given, "payment_method", url, parents=_one(customer), tags=_one(given.get("type")))


def all_events(call: Call, _ids: tuple[str, ...], given: Json) -> Json:
    """``GET /v1/events``: 30 days back, by type and delivery when asked (https://docs.stripe.com/api/events/list)."""
    tags = _one(given.get("type"))
    if given.get("types") is not None:
        tags = tuple(given["types"])
    oldest = (">=", int(call.now) - events.KEPT_S)
    given = {**given, "created": (*given.get("created", ()), oldest)}
    page = _page(call, given, "event", "/v1/events", tags=tags)
    page["data"] = [{**one, "pending_webhooks": events.pending_webhooks(call.store, one["id"])} for one in page["data"]]
    return page


def event(call: Call, ids: tuple[str, ...], _given: Json) -> Json:
    """``GET /v1/events/{id}``, up to 30 days old."""
    record = call.store.find("event", ids[0])
    if record is None or record.body["created"] < int(call.now) - events.KEPT_S:
        raise missing("event", ids[0], "id", status=404)
    return events.shown(call.store, record)


def _one(value: str | None) -> tuple[str, ...] | None:
    return None if value is None else (value,)


def _page(  # noqa: PLR0913 - two of them are filters that most lists lack
    call: Call,
    given: Json,
    kind: str,
    url: str,
    *,
    parents: tuple[str, ...] | None = None,
    tags: tuple[str, ...] | None = None,
) -> Json:
    limit = given.get("limit", LIMIT_DEFAULT)
    if not 1 <= limit <= LIMIT_MAX:
        raise invalid(f"This value must be between 1 and {LIMIT_MAX}.", code="parameter_invalid_integer", param="limit")
    if "starting_after" in given and "ending_before" in given:
        text = "You may only specify one of these parameters: starting_after, ending_before."
        raise invalid(text, code="parameters_exclusive", param="ending_before")
    query = Query(
        kind=kind,
        parents=parents,
        tags=tags,
        created=given.get("created", ()),
        after_seq=_cursor(call.store, kind, given, "starting_after"),
        before_seq=_cursor(call.store, kind, given, "ending_before"),
        delivered=given.get("delivery_success"),
        limit=limit + 1,
    )
    found = call.store.select(query)
    more = len(found) > limit
    kept = found[-limit:] if query.before_seq is not None else found[:limit]
    return {"object": "list", "data": [record.body for record in kept], "has_more": more, "url": url}


def _cursor(store: Store, kind: str, given: Json, name: str) -> int | None:
    if name not in given:
        return None
    record: Record | None = store.find(kind, given[name])
    if record is None:
        raise missing(kind, given[name], name)
    return record.seq
