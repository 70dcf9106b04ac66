"""``expand[]`` (https://docs.stripe.com/api/expanding_objects): ids replaced by the objects they name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from stripe_sandbox.errors import Json, invalid

if TYPE_CHECKING:
    from stripe_sandbox.store import Store

# "Expansions have a maximum depth of four levels."
DEPTH_MAX = 4

_EXPANDABLE: dict[str, dict[str, str]] = {
    "payment_intent": {"latest_charge": "charge", "payment_method": "payment_method", "customer": "customer"},
    "charge": {
        "payment_intent": "payment_intent",
        "balance_transaction": "balance_transaction",
        "customer": "customer",
    },
    "refund": {
        "charge": "charge",
        "payment_intent": "payment_intent",
        "balance_transaction": "balance_transaction",
        "failure_balance_transaction": "balance_transaction",
    },
    "radar.early_fraud_warning": {"charge": "charge", "payment_intent": "payment_intent"},
    "dispute": {"charge": "charge", "payment_intent": "payment_intent"},
    "payment_method": {"customer": "customer"},
    "balance_transaction": {"source": "charge refund dispute"},
    "customer": {},
    "event": {},
}


def expand(store: Store, body: Json, paths: list[Any]) -> Json:
    """A copy of ``body`` with the paths expanded; raises StripeError (400) for one that cannot be."""
    for path in paths:
        if not isinstance(path, str) or not path:
            raise invalid("Invalid expand: it must be a list of strings", param="expand")
        parts = path.split(".")
        if len(parts) > DEPTH_MAX + (parts[0] == "data"):
            raise invalid(f"You cannot expand more than {DEPTH_MAX} levels of a property.", param="expand")
        body = _expand(store, body, parts, path)
    return body


def _expand(store: Store, body: Json, parts: list[str], path: str) -> Json:
    first, rest = parts[0], parts[1:]
    if body["object"] == "list":
        if first != "data" or not rest:
            raise _refused(path)
        return {**body, "data": [_expand(store, item, rest, path) for item in body["data"]]}
    if body["object"] == "charge" and first == "refunds":
        return {**body, "refunds": _refunds(store, body)}
    kinds = _EXPANDABLE[body["object"]]
    if first not in kinds:
        raise _refused(path)
    value = body.get(first)
    if isinstance(value, str):
        found = next(filter(None, (store.find(kind, value) for kind in kinds[first].split())), None)
        value = found.body if found is not None else value
    if isinstance(value, dict) and rest:
        value = _expand(store, value, rest, path)
    return {**body, first: value}


def _refunds(store: Store, charge: Json) -> Json:
    """https://docs.stripe.com/api/charges/object#charge_object-refunds, newest first."""
    data = [record.body for record in reversed(store.children("refund", charge["id"]))]
    return {
        "object": "list",
        "data": data[:10],
        "has_more": len(data) > 10,
        "url": f"/v1/charges/{charge['id']}/refunds",
    }


def _refused(path: str) -> Exception:
    return invalid(f"This property cannot be expanded ({path}).", param="expand")
