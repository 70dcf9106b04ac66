"""The HTTP side: ASGI in, Stripe's headers out, and connections that die when a fault says so."""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING, Any

import msgspec

from stripe_sandbox import api, requestlog, steering
from stripe_sandbox.api import Answer, Request
from stripe_sandbox.errors import StripeError, invalid, key_in_use, lock_timeout
from stripe_sandbox.faults import Fault, error_of
from stripe_sandbox.forms import decode_form
from stripe_sandbox.identifiers import new_request_id
from stripe_sandbox.keys import check_key
from stripe_sandbox.protocol import TRANSPORT
from stripe_sandbox.settings import API_VERSION

if TYPE_CHECKING:
    from stripe_sandbox.courier import Courier
    from stripe_sandbox.sandbox import Sandbox

Scope = Any
Receive = Any
Send = Any

# Stripe's own limit is not documented; nothing the API takes comes near this.
BODY_BYTES_MAX = 1 << 20

_VERSION = re.compile(r"^\d{4}-\d{2}-\d{2}(\.[a-z_]+)?(;.*)?$")
_OBJECT = re.compile(r"^/v1/(?:payment_intents|refunds|disputes)/([A-Za-z0-9_]+)")


class Wire:
    """The ASGI application."""

    def __init__(self, sandbox: Sandbox, courier: Courier) -> None:
        """Serve this sandbox."""
        self._sandbox = sandbox
        self._courier = courier

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One exchange."""
        if scope["type"] != "http":
            return
        body = await _read(receive)
        exchange = Exchange(self._sandbox, scope, send, receive)
        if body is None:
            await exchange.send_error(invalid("Request body too large."))
        elif scope["path"].startswith("/_sandbox"):
            query = scope["query_string"].decode("latin-1")
            asked = steering.Steering(self._sandbox, self._courier, query, body)
            status, content = await steering.handle(asked, scope["method"], scope["path"])
            await exchange.send(status, api.encode(content), [])
        else:
            await exchange.run(body)


async def _read(receive: Receive) -> bytes | None:
    """The whole body; None when it is too large."""
    parts, size = [], 0
    while True:
        message = await receive()
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > BODY_BYTES_MAX:
            return None
        if not message.get("more_body"):
            return b"".join(parts)


class Exchange:
    """One API call on one connection."""

    def __init__(self, sandbox: Sandbox, scope: Scope, send: Send, receive: Receive) -> None:
        """Take the connection."""
        self._sandbox = sandbox
        self._scope = scope
        self._send = send
        self._receive = receive
        self._headers: dict[bytes, bytes] = dict(scope["headers"])
        self._request_id = new_request_id()

    def _header(self, name: bytes) -> str | None:
        value = self._headers.get(name)
        return None if value is None else value.decode("latin-1")

    async def run(self, body: bytes) -> None:
        """Check, look for a fault, execute, answer."""
        try:
            request = self._request(body)
        except StripeError as error:
            bare = Request(self._scope["method"], self._scope["path"], {}, self._request_id, None)
            await self._answer(api.refuse(self._sandbox, bare, error))
            return
        picked = self._pick(request)
        if picked is None:
            await self._guarded(request, None)
        else:
            await self._faulted(request, *picked)

    def _request(self, body: bytes) -> Request:
        check_key(self._header(b"authorization"), self._sandbox.settings.api_key)
        version = self._header(b"stripe-version")
        if version is not None and not _VERSION.match(version):
            raise invalid(f"Invalid Stripe API version: {version[:40]}")
        method = self._scope["method"]
        raw = body if method == "POST" else self._scope["query_string"]
        try:
            text = raw.decode("ascii") if raw.isascii() else raw.decode("utf-8")
        except UnicodeDecodeError:
            raise invalid("Invalid request: the body is not UTF-8.") from None
        key = self._header(b"idempotency-key")
        return Request(method, self._scope["path"], decode_form(text), self._request_id, key or None, version)

    def _pick(self, request: Request) -> tuple[str, Fault] | None:
        faults = self._sandbox.faults
        if not faults.any:
            return None
        metadata = self._metadata(request) if faults.reads_metadata else {}
        found = faults.pick(request.method, request.path, request.key, metadata)
        return None if found is None else (f"{found[0]}:{found[1].fault}", found[1])

    def _metadata(self, request: Request) -> dict[str, str]:
        """The call's own metadata and that of the objects it names."""
        given = request.given.get("metadata")
        found: dict[str, str] = {}
        for identifier in _named(request):
            kind = {"pi": "payment_intent", "ch": "charge", "re": "refund"}.get(identifier.split("_", 1)[0])
            record = self._sandbox.store.find(kind, identifier) if kind else None
            found |= record.body["metadata"] if record else {}
        return found | (given if isinstance(given, dict) else {})

    async def _guarded(self, request: Request, fault: Fault | None, name: str | None = None) -> None:
        """Execute while holding the key and the objects, so that a second request meets what it would at Stripe."""
        sandbox = self._sandbox
        key = request.key if request.method == "POST" else None
        objects = set(_named(request)) if request.method == "POST" else set()
        if key is not None and key in sandbox.busy_keys:
            await self._answer(api.refuse(sandbox, request, key_in_use(key), fault=name))
            return
        if objects & sandbox.busy_objects:
            await self._answer(api.refuse(sandbox, request, lock_timeout(), fault=name))
            return
        sandbox.busy_keys |= {key} if key is not None else set()
        sandbox.busy_objects |= objects
        try:
            if fault is not None and fault.when == "before":
                await asyncio.sleep(fault.delay_s)
            answer = api.perform(sandbox, request, fault=name)
            if fault is not None and fault.when == "after":
                await asyncio.sleep(fault.delay_s)
        finally:
            sandbox.busy_keys.discard(key or "")
            sandbox.busy_objects -= objects
        await self._answer(answer)

    async def _faulted(self, request: Request, name: str, fault: Fault) -> None:
        sandbox = self._sandbox
        if fault.fault == "slow":
            await self._guarded(request, fault, name)
            return
        if fault.fault == "status":
            await asyncio.sleep(fault.delay_s)
            error = error_of(fault, request.key)
            if fault.executed:
                answer = api.perform(sandbox, request, fault=name, fails_with=error)
            else:
                answer = api.refuse(sandbox, request, error, fault=name)
            await self._answer(answer)
            return
        if fault.fault == "before_executing":
            with sandbox.store.transaction():
                requestlog.write(sandbox.store, sandbox.clock.now(), request, None, name)
            await asyncio.sleep(fault.delay_s)
            await self._drop()
            return
        answer = api.perform(sandbox, request, fault=name)
        await asyncio.sleep(fault.delay_s)
        if fault.fault == "after_executing":
            await self._drop()
        elif fault.fault == "mid_body":
            await self._answer(answer, half=True)
        else:
            await self._answer(_altered(answer, fault))

    async def _drop(self) -> None:
        """Close the connection without a byte of an answer."""
        self._scope["extensions"][TRANSPORT].abort()
        await self._receive()

    async def _answer(self, answer: Answer, *, half: bool = False) -> None:
        headers = [
            (b"request-id", self._request_id.encode()),
            (b"stripe-version", (self._header(b"stripe-version") or API_VERSION).encode("latin-1")),
        ]
        key = self._header(b"idempotency-key")
        if key:
            # https://docs.stripe.com/api/idempotent_requests: the first request is named on every answer.
            headers.append((b"idempotency-key", key.encode("latin-1")))
            headers.append((b"original-request", (answer.original_request or self._request_id).encode()))
        if answer.replayed:
            headers.append((b"idempotent-replayed", b"true"))
        if answer.should_retry is not None:
            headers.append((b"stripe-should-retry", b"true" if answer.should_retry else b"false"))
        await self.send(answer.status, answer.body, headers, half=half)

    async def send_error(self, error: StripeError) -> None:
        """An error before there was a request."""
        await self._answer(api.error_answer(error, self._request_id))

    async def send(self, status: int, body: bytes, headers: list[tuple[bytes, bytes]], *, half: bool = False) -> None:
        """Send; with ``half`` only the first half, and then the server closes the connection."""
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode()), *headers]
        await self._send({"type": "http.response.start", "status": status, "headers": headers})
        if half:
            await self._send({"type": "http.response.body", "body": body[: len(body) // 2], "more_body": True})
            self._scope["extensions"][TRANSPORT].close()
            await self._receive()
        else:
            await self._send({"type": "http.response.body", "body": body})


def _named(request: Request) -> list[str]:
    """The objects a call is about."""
    match = _OBJECT.match(request.path)
    named = [match[1]] if match else []
    if request.path == "/v1/refunds":
        named += [value for name in ("payment_intent", "charge") if isinstance(value := request.given.get(name), str)]
    return named


def _altered(answer: Answer, fault: Fault) -> Answer:
    """The answer with some top-level fields replaced; what was saved stays true."""
    body = {**msgspec.json.decode(answer.body), **fault.set}
    return Answer(
        answer.status, api.encode(body), answer.original_request, answer.replayed, should_retry=answer.should_retry
    )
