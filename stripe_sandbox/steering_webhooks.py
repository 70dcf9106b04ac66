"""Steering of webhook deliveries: hold, drop, duplicate, reorder, release in any order, deliver again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from stripe_sandbox.settings import API_VERSION
from stripe_sandbox.webhooks import DUPLICATES_MAX, MAIN, MODES, Endpoint
from stripe_sandbox.webhooks import Steering as Setting

if TYPE_CHECKING:
    from stripe_sandbox.errors import Json
    from stripe_sandbox.steering import Reply, Steering
    from stripe_sandbox.store import Store

DELIVERIES_SHOWN_MAX = 10_000
_SHOWN = (
    "id",
    "event",
    "type",
    "object",
    "endpoint",
    "status",
    "attempts",
    "next_at",
    "last_status",
    "last_error",
    "created",
    "delivered",
)
_ENDPOINT_FIELDS = ("url", "secret", "secrets", "api_version", "enabled_events", "livemode", "account")


def read(request: Steering) -> Reply:
    """``GET /_sandbox/webhooks?status=&event=&object=&type=``: the steering, and deliveries oldest first."""
    rows = _deliveries(request.sandbox.store, request.query)
    counts = dict(
        request.sandbox.store.db.execute("SELECT status, count(*) FROM deliveries GROUP BY status").fetchall()
    )
    steering = msgspec.to_builtins(request.sandbox.webhooks.steering)
    return 200, {"steering": steering, "counts": counts, "deliveries": rows}


def _deliveries(store: Store, query: dict[str, str]) -> list[Json]:
    where, bound = ["1 = 1"], list[Any]()
    for name in ("status", "event", "object", "type", "endpoint"):
        if name in query:
            where.append(f"{name} = ?")
            bound.append(query[name])
    sql = f"SELECT {', '.join(_SHOWN)} FROM deliveries WHERE {' AND '.join(where)} ORDER BY id LIMIT ?"  # noqa: S608 - fixed names
    rows = store.db.execute(sql, (*bound, DELIVERIES_SHOWN_MAX)).fetchall()
    return [dict(zip(_SHOWN, row, strict=True)) for row in rows]


def steer(request: Steering) -> Reply:
    """``POST /_sandbox/webhooks``: what is given changes, the rest stays; concerns events from now on.

    Fields of ``webhooks.Steering``, and of the main endpoint (``url``, ``secret`` or ``secrets``, …).
    """
    webhooks = request.sandbox.webhooks
    of_endpoint = {name: request.given[name] for name in _ENDPOINT_FIELDS if name in request.given}
    rest = {name: value for name, value in request.given.items() if name not in of_endpoint}
    setting = msgspec.convert({**msgspec.to_builtins(webhooks.steering), **rest}, Setting)
    if setting.mode not in MODES or not 0 <= setting.duplicate <= DUPLICATES_MAX:
        raise ValueError(f"mode is one of {MODES}; duplicate is between 0 and {DUPLICATES_MAX}")
    with request.sandbox.store.transaction():
        webhooks.steer(setting)
        if of_endpoint:
            webhooks.put_endpoint(MAIN, _endpoint(of_endpoint, webhooks.endpoints.get(MAIN)))
    request.sandbox.wake()
    return 200, {"steering": msgspec.to_builtins(setting)}


def _endpoint(given: Json, current: Endpoint | None) -> Endpoint:
    base: Json = msgspec.to_builtins(current) if current else {"api_version": API_VERSION}
    given = dict(given)
    if "secret" in given:
        given["secrets"] = [given.pop("secret")]
    return msgspec.convert({**base, **given}, Endpoint)


def forget(request: Steering) -> Reply:
    """``DELETE /_sandbox/webhooks``: drop everything not yet delivered."""
    with request.sandbox.store.transaction():
        sql = "UPDATE deliveries SET status = 'dropped' WHERE status IN ('pending', 'held')"
        dropped = request.sandbox.store.db.execute(sql).rowcount
    return 200, {"dropped": dropped}


async def release(request: Steering) -> Reply:
    """``POST /_sandbox/webhooks/release``: deliver held ones now, one after the other, in the order asked.

    ``{events: [evt_…, …]}`` or ``{deliveries: [id, …]}`` name them in order (an id may be repeated: delivered again);
    ``{types: […]}`` takes the held ones of these types, in that order; nothing: all, oldest first. ``{"wait": false}``
    hands them to the background instead.
    """
    ids = _chosen(request)
    store = request.sandbox.store
    if request.given.get("wait", True):
        return 200, {"deliveries": [await request.courier.attempt(request.courier.find(one)) for one in ids]}
    with store.transaction():
        for one in ids:
            sql = "UPDATE deliveries SET status = 'pending', next_at = ? WHERE id = ?"
            store.db.execute(sql, (request.sandbox.clock.now(), one))
    request.sandbox.wake()
    return 200, {"deliveries": [{"id": one, "status": "pending"} for one in ids]}


def _chosen(request: Steering) -> list[int]:
    store, given = request.sandbox.store, request.given
    if "deliveries" in given:
        return [int(one) for one in given["deliveries"]]
    if "events" in given:
        return [row["id"] for event in given["events"] for row in _deliveries(store, {"event": event})]
    held = _deliveries(store, {"status": "held"})
    if "types" in given:
        return [row["id"] for kind in given["types"] for row in held if row["type"] == kind]
    return [row["id"] for row in held]


async def redeliver(request: Steering) -> Reply:
    """``POST /_sandbox/webhooks/redeliver`` ``{event, times?}``: again, signed afresh, whatever became of it before."""
    record = request.sandbox.store.must("event", request.given["event"])
    times = int(request.given.get("times", 1))
    if not 1 <= times <= DUPLICATES_MAX:
        raise ValueError(f"times is between 1 and {DUPLICATES_MAX}")
    sandbox = request.sandbox
    with sandbox.store.transaction():
        ids = [
            sandbox.webhooks.add_delivery(record.body, name, "held", sandbox.clock.now())
            for _time in range(times)
            for name in sandbox.webhooks.endpoints
        ]
    return 200, {"deliveries": [await request.courier.attempt(request.courier.find(one)) for one in ids]}


def read_endpoints(request: Steering) -> Reply:
    """``GET /_sandbox/endpoints``: without their secrets."""
    found = request.sandbox.webhooks.endpoints
    return 200, {name: {**msgspec.to_builtins(one), "secrets": len(one.secrets)} for name, one in found.items()}


def put_endpoint(request: Steering) -> Reply:
    """``POST /_sandbox/endpoints`` ``{name, url, secret | secrets, api_version?, enabled_events?, livemode?}``."""
    given = dict(request.given)
    name = given.pop("name", MAIN)
    webhooks = request.sandbox.webhooks
    with request.sandbox.store.transaction():
        webhooks.put_endpoint(name, _endpoint(given, webhooks.endpoints.get(name)))
    return 200, {"name": name}


def remove_endpoint(request: Steering) -> Reply:
    """``DELETE /_sandbox/endpoints/{name}``."""
    with request.sandbox.store.transaction():
        request.sandbox.webhooks.put_endpoint(request.ids[0], None)
    return 200, {"removed": request.ids[0]}
