"""``/_sandbox``: how tests steer and read the sandbox. No key; never exposed beyond the machine it runs on."""

from __future__ import annotations

import re
from functools import cached_property
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

import msgspec

from stripe_sandbox import browser, disputes, ledger, refunds, requestlog, steering_webhooks
from stripe_sandbox.behaviours import Behaviours
from stripe_sandbox.errors import Json, StripeError
from stripe_sandbox.faults import DELAY_S_MAX, Fault
from stripe_sandbox.settings import API_VERSION
from stripe_sandbox.store import Query

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from stripe_sandbox.courier import Courier
    from stripe_sandbox.sandbox import Sandbox

    Steer = Callable[["Steering"], "Reply | Awaitable[Reply]"]

Reply = tuple[int, Any]

LEDGER_LIMIT_MAX = 100_000
REQUESTS_LIMIT = 10_000


class Steering:
    """One steering request: the sandbox, the courier, and what was asked."""

    def __init__(self, sandbox: Sandbox, courier: Courier, query: str, body: bytes) -> None:
        """Take what came; ``given`` is decoded when it is asked for."""
        self.sandbox = sandbox
        self.courier = courier
        self.query = dict(parse_qsl(query))
        self._body = body
        self.ids: tuple[str, ...] = ()

    @cached_property
    def given(self) -> Json:
        """The JSON body; raises msgspec.DecodeError on anything but an object."""
        return msgspec.json.decode(self._body, type=dict[str, Any]) if self._body else {}


async def handle(request: Steering, method: str, path: str) -> Reply:
    """Answer a steering request; mistakes come back as 400 with a sentence."""
    for verb, pattern, act in ROUTES:
        match = pattern.match(path)
        if verb == method and match is not None:
            try:
                request.ids = match.groups()
                result = act(request)
                return result if isinstance(result, tuple) else await result
            except StripeError as error:
                return error.status, error.body("req_sandbox")
            except (
                msgspec.ValidationError,
                msgspec.DecodeError,
                KeyError,
                ValueError,
                LookupError,
                TypeError,
            ) as error:
                return 400, {"error": f"{type(error).__name__}: {error}"}
    return 404, {"error": f"no steering call {method} {path}; see docs/stripe-sandbox.md"}


def health(request: Steering) -> Reply:
    """``GET /_sandbox/health``."""
    return 200, {"status": "ok", "api_version": API_VERSION, "now": request.sandbox.clock.now()}


async def reset(request: Steering) -> Reply:
    """``POST /_sandbox/reset``: an empty account, real time, no faults, the endpoint of the command line."""
    request.sandbox.webhooks.mute()
    await request.courier.settle()
    request.sandbox.reset()
    return 200, {"reset": True}


def read_ledger(request: Steering) -> Reply:
    """``GET /_sandbox/ledger?payment_id=&payment_intent=&summary=1``."""
    store, query = request.sandbox.store, request.query
    if "summary" in query:
        return 200, ledger.summary(store)
    if "payment_intent" in query:
        found = store.find("payment_intent", query["payment_intent"])
        records = [found] if found is not None else []
    else:
        tags = (query["payment_id"],) if "payment_id" in query else None
        records = store.select(Query("payment_intent", tags=tags, limit=LEDGER_LIMIT_MAX))[::-1]
    return 200, ledger.report(store, records)


def read_requests(request: Steering) -> Reply:
    """``GET /_sandbox/requests?method=&path=&idempotency_key=&payment_id=&after=&limit=``."""
    query = request.query
    limit = min(int(query.get("limit", REQUESTS_LIMIT)), REQUESTS_LIMIT)
    lines = requestlog.read(request.sandbox.store, query, int(query.get("after", 0)), limit)
    return 200, {"requests": lines, "count": len(lines)}


def add_fault(request: Steering) -> Reply:
    """``POST /_sandbox/faults``: see ``faults.Fault``."""
    fault = msgspec.convert(request.given, Fault)
    if not 0 <= fault.delay_s <= DELAY_S_MAX:
        raise ValueError(f"delay_s must be between 0 and {DELAY_S_MAX}")
    with request.sandbox.store.transaction():
        identifier = request.sandbox.faults.add(fault)
    return 201, {"id": identifier, **msgspec.to_builtins(fault)}


def read_faults(request: Steering) -> Reply:
    """``GET /_sandbox/faults``: each with ``seen`` and ``fired``."""
    return 200, {"faults": request.sandbox.faults.shown()}


def remove_faults(request: Steering) -> Reply:
    """``DELETE /_sandbox/faults`` and ``/_sandbox/faults/{id}``."""
    with request.sandbox.store.transaction():
        removed = request.sandbox.faults.remove(int(request.ids[0]) if request.ids else None)
    return 200, {"removed": removed}


def read_clock(request: Steering) -> Reply:
    """``GET /_sandbox/clock``."""
    clock = request.sandbox.clock
    return 200, {"now": clock.now(), "offset_s": clock.offset_s}


def move_clock(request: Steering) -> Reply:
    """``POST /_sandbox/clock`` ``{advance_s}`` or ``{now}``: what is due by then is done before the answer."""
    sandbox, given = request.sandbox, request.given
    offset = sandbox.clock.offset_s
    offset += float(given["advance_s"]) if "advance_s" in given else float(given["now"]) - sandbox.clock.now()
    with sandbox.store.transaction():
        sandbox.clock.move(offset)
    sandbox.pass_time()
    sandbox.prune()
    sandbox.wake()
    return read_clock(request)


def behave(request: Steering) -> Reply:
    """``GET`` and ``POST /_sandbox/behaviours``: the delays, changed by what is given."""
    merged = {**msgspec.to_builtins(request.sandbox.behaviours), **request.given}
    if request.given:
        request.sandbox.behave(msgspec.convert(merged, Behaviours))
    return 200, merged


def browser_confirm(request: Steering) -> Reply:
    """``POST /_sandbox/browser/confirm`` ``{client_secret, payment_method?}``."""
    return browser.confirm(request.sandbox, request.given["client_secret"], request.given.get("payment_method"))


def browser_authenticate(request: Steering) -> Reply:
    """``POST /_sandbox/browser/authenticate`` ``{payment_intent, outcome: "succeed" | "fail"}``."""
    outcome = request.given["outcome"]
    if outcome not in ("succeed", "fail"):
        raise ValueError("outcome must be succeed or fail")
    return browser.authenticate(request.sandbox, request.given["payment_intent"], succeeds=outcome == "succeed")


def open_dispute(request: Steering) -> Reply:
    """``POST /_sandbox/disputes`` ``{charge}`` or ``{payment_intent}``: the cardholder objects."""
    store, call = request.sandbox.store, request.sandbox.call()
    charge = (
        request.given.get("charge")
        or store.must("payment_intent", request.given["payment_intent"]).body["latest_charge"]
    )
    with store.transaction():
        disputes.open_dispute(call, charge)
    request.sandbox.wake()
    return 200, {"disputes": [record.body for record in store.children("dispute", charge)]}


def close_dispute(request: Steering) -> Reply:
    """``POST /_sandbox/disputes/{id}`` ``{outcome}``; the id of the dispute or of its charge.

    won, lost; under_review (evidence was sent); escalated (an inquiry becomes a chargeback).
    """
    store, call, identifier = request.sandbox.store, request.sandbox.call(), request.ids[0]
    outcome = request.given["outcome"]
    if outcome not in ("won", "lost", "under_review", "escalated"):
        raise ValueError("outcome must be won, lost, under_review or escalated")
    with store.transaction():
        found = store.children("dispute", identifier)
        dispute = found[-1] if found else disputes.load(call, identifier)
        if outcome == "under_review":
            disputes.review(call, dispute)
        elif outcome == "escalated":
            disputes.escalate(call, dispute)
        else:
            disputes.close(call, dispute, outcome)
    request.sandbox.wake()
    return 200, dispute.body


def dashboard_refund(request: Steering) -> Reply:
    """``POST /_sandbox/refunds`` ``{payment_intent, amount?, metadata?}``: somebody refunds in the Dashboard."""
    call = request.sandbox.call(by_customer=True)
    with request.sandbox.store.transaction(), request.sandbox.store.effects():
        body = refunds.create(call, (), request.given)
    request.sandbox.wake()
    return 200, body


def steer_refund(request: Steering) -> Reply:
    """``POST /_sandbox/refunds/{id}`` ``{status: "succeeded" | "failed"}``: the bank's word, now."""
    acts = {"succeeded": refunds.finish, "failed": refunds.fail}
    call = request.sandbox.call()
    with request.sandbox.store.transaction():
        refunds.load(call, request.ids[0])
        acts[request.given["status"]](call, request.ids[0])
        body = refunds.load(call, request.ids[0]).body
    request.sandbox.wake()
    return 200, body


_TABLE: tuple[tuple[str, str, Steer], ...] = (
    ("GET", "health", health),
    ("POST", "reset", reset),
    ("GET", "ledger", read_ledger),
    ("GET", "requests", read_requests),
    ("GET", "faults", read_faults),
    ("POST", "faults", add_fault),
    ("DELETE", "faults", remove_faults),
    ("DELETE", "faults/{}", remove_faults),
    ("GET", "clock", read_clock),
    ("POST", "clock", move_clock),
    ("GET", "behaviours", behave),
    ("POST", "behaviours", behave),
    ("GET", "webhooks", steering_webhooks.read),
    ("POST", "webhooks", steering_webhooks.steer),
    ("DELETE", "webhooks", steering_webhooks.forget),
    ("POST", "webhooks/release", steering_webhooks.release),
    ("POST", "webhooks/redeliver", steering_webhooks.redeliver),
    ("GET", "endpoints", steering_webhooks.read_endpoints),
    ("POST", "endpoints", steering_webhooks.put_endpoint),
    ("DELETE", "endpoints/{}", steering_webhooks.remove_endpoint),
    ("POST", "browser/confirm", browser_confirm),
    ("POST", "browser/authenticate", browser_authenticate),
    ("POST", "disputes", open_dispute),
    ("POST", "disputes/{}", close_dispute),
    ("POST", "refunds", dashboard_refund),
    ("POST", "refunds/{}", steer_refund),
)

ROUTES = tuple(
    (verb, re.compile("^/_sandbox/" + path.replace("{}", "([A-Za-z0-9_]+)") + "$"), act) for verb, path, act in _TABLE
)
