"""Drives the sandbox, or Stripe itself, with the official client; steers the sandbox over HTTP."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, TypeVar

import stripe
from stripe import AIOHTTPClient, StripeClient

T = TypeVar("T")

API_VERSION = "2026-10-28.endive"
SECRET = "whsec_sandbox_tests"
KEY = "sk_test_sandbox000000000000"
DEADLINE_S = 15.0
POLL_S = 0.01
NO_REDIRECTS = {"enabled": True, "allow_redirects": "never"}


def eventually(probe: Callable[[], T | None], *, deadline_s: float = DEADLINE_S) -> T:
    """The first truthy answer of `probe`; fails when none comes in time."""
    until = time.monotonic() + deadline_s
    while True:
        found = probe()
        if found:
            return found
        assert time.monotonic() < until, f"still {found!r} after {deadline_s} s"
        time.sleep(POLL_S)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class Reply:
    """A raw HTTP answer."""

    status: int
    headers: dict[str, str]
    body: Any


def http(method: str, url: str, body: bytes | None = None, headers: dict[str, str] | None = None) -> Reply:
    request = urllib.request.Request(url, data=body, method=method, headers=headers or {})
    try:
        with urllib.request.urlopen(request, timeout=30) as response:
            return _reply(response.status, response.headers, response.read())
    except urllib.error.HTTPError as error:
        with error:
            return _reply(error.code, error.headers, error.read())


def _reply(status: int, headers: Any, body: bytes) -> Reply:
    return Reply(status, {name.lower(): value for name, value in headers.items()}, json.loads(body))


class Driver:
    """The official client on its AIOHTTPClient, usable from plain functions."""

    def __init__(self, base_url: str, key: str) -> None:
        self.base_url = base_url
        self.key = key
        self._runner = asyncio.Runner()
        self._http: Any = AIOHTTPClient(timeout=20)
        self.client = StripeClient(
            key,
            http_client=self._http,
            stripe_version=API_VERSION,
            base_addresses={"api": base_url},
            max_network_retries=0,
        )
        # Any: the typed dictionaries of the client would forbid the wrong parameters that tests send on purpose.
        self.v1: Any = self.client.v1
        self.intents: Any = self.client.v1.payment_intents
        self.refunds: Any = self.client.v1.refunds
        self.events: Any = self.client.v1.events

    def run(self, work: Awaitable[Any]) -> Any:
        async def wait() -> Any:
            return await work

        return self._runner.run(wait())

    def together(self, *works: Coroutine[Any, Any, Any]) -> list[Any]:
        async def wait() -> list[Any]:
            return await asyncio.gather(*works, return_exceptions=True)

        return self._runner.run(wait())

    def pay(self, key: str | None = None, /, **params: Any) -> Any:
        """A PaymentIntent, confirmed at once unless told otherwise."""
        return self.run(self.paying(key, **params))

    def paying(self, key: str | None = None, /, **params: Any) -> Any:
        given: dict[str, Any] = {"amount": 1000, "currency": "usd", "confirm": True, **params}
        if given["confirm"]:
            given.setdefault("payment_method", "pm_card_visa")
        if "allowed_payment_method_types" not in given:
            given.setdefault("automatic_payment_methods", NO_REDIRECTS)
        return self.intents.create_async(given, _options(key))

    def hold(self, **params: Any) -> Any:
        return self.pay(capture_method="manual", **params)

    def capture(self, intent: str, key: str | None = None, /, **params: Any) -> Any:
        return self.run(self.intents.capture_async(intent, params, _options(key)))

    def cancel(self, intent: str, key: str | None = None, /, **params: Any) -> Any:
        return self.run(self.intents.cancel_async(intent, params, _options(key)))

    def confirm(self, intent: str, key: str | None = None, /, **params: Any) -> Any:
        return self.run(self.intents.confirm_async(intent, params, _options(key)))

    def refund(self, key: str | None = None, /, **params: Any) -> Any:
        return self.run(self.refunds.create_async(params, _options(key)))

    def intent(self, identifier: str, **params: Any) -> Any:
        return self.run(self.intents.retrieve_async(identifier, params))

    def charge(self, identifier: str, **params: Any) -> Any:
        return self.run(self.v1.charges.retrieve_async(identifier, params))

    def customer(self, **params: Any) -> Any:
        return self.run(self.v1.customers.create_async(params))

    def events_of(self, identifier: str) -> list[Any]:
        """The events about an object, or about a charge or refund of it, oldest first."""
        found = self.run(self.events.list_async({"limit": 100}))
        return [one for one in reversed(found.data) if identifier in json.dumps(one.to_dict()["data"])]

    def event_types(self, identifier: str) -> list[str]:
        return [one.type for one in self.events_of(identifier)]

    def raw(self, method: str, path: str, form: str = "", **headers: str) -> Reply:
        """A call without the client, for what it would never send."""
        sent = {"Authorization": f"Bearer {self.key}", "Stripe-Version": API_VERSION}
        sent |= {name.replace("_", "-"): value for name, value in headers.items()}
        url = self.base_url + path + (f"?{form}" if form and method == "GET" else "")
        return http(method, url, form.encode() if method == "POST" else None, sent)

    def reconnect(self) -> None:
        """Forget connections that a dead server left behind."""
        self.run(self._http.close_async())
        self._http._cached_session = None

    def close(self) -> None:
        self.run(self._http.close_async())
        self._runner.close()


def _options(key: str | None) -> dict[str, str]:
    return {"idempotency_key": key or str(uuid.uuid4())}


@dataclass
class Steer:
    """The sandbox's steering calls."""

    base_url: str

    def get(self, path: str, /, **query: str) -> Any:
        return http("GET", f"{self.base_url}/_sandbox/{path}?{urllib.parse.urlencode(query)}").body

    def post(self, path: str, /, **body: Any) -> Any:
        reply = self.reply(path, **body)
        assert reply.status < 300, reply
        return reply.body

    def reply(self, path: str, /, **body: Any) -> Reply:
        return http("POST", f"{self.base_url}/_sandbox/{path}", json.dumps(body).encode())

    def delete(self, path: str) -> Any:
        return http("DELETE", f"{self.base_url}/_sandbox/{path}").body

    def fault(self, fault: str, **order: Any) -> int:
        return int(self.post("faults", fault=fault, **order)["id"])

    def fired(self, identifier: int) -> int:
        return int(next(one["fired"] for one in self.get("faults")["faults"] if one["id"] == identifier))

    def ledger(self, payment_id: str) -> Any:
        return self.get("ledger", payment_id=payment_id)

    def advance(self, seconds: float) -> None:
        self.post("clock", advance_s=seconds)

    def calls(self, **filters: str) -> list[Any]:
        return list(self.get("requests", **filters)["requests"])


@dataclass
class Hit:
    """A delivery as the receiver saw it."""

    body: bytes
    signature: str
    at: float

    @property
    def event(self) -> Any:
        return json.loads(self.body)

    @property
    def type(self) -> str:
        return str(self.event["type"])


@dataclass
class Receiver:
    """A webhook endpoint that remembers what it was sent and answers as told."""

    hits: list[Hit] = field(default_factory=list)
    answers: list[int] = field(default_factory=list)
    may_answer: threading.Event = field(default_factory=threading.Event)

    def start(self) -> None:
        receiver = self
        self.may_answer.set()

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                receiver.hits.append(Hit(body, self.headers["stripe-signature"], time.time()))
                receiver.may_answer.wait()
                self.send_response(receiver.answers.pop(0) if receiver.answers else 200)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_args: object) -> None:
                """Stay quiet."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}/hook"

    def types(self, identifier: str) -> list[str]:
        return [hit.type for hit in list(self.hits) if identifier in hit.body.decode()]

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class Process:
    """The sandbox as the process it is."""

    def __init__(self, state: Path | str, webhook_url: str | None = None) -> None:
        self.state = str(state)
        self.port = free_port()
        self.base_url = f"http://127.0.0.1:{self.port}"
        self.webhook_url = webhook_url
        self.environment: dict[str, str] = {}
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [sys.executable, "-m", "stripe_sandbox", "--port", str(self.port), "--state", self.state]
        if self.webhook_url:
            command += ["--webhook-url", self.webhook_url, "--webhook-secret", SECRET]
        environ = {name: value for name, value in os.environ.items() if not name.startswith("STRIPE_SANDBOX_")}
        self._process = subprocess.Popen(command, env=environ | self.environment, stdout=subprocess.DEVNULL)
        eventually(self._answers)

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, "the sandbox did not start"
        try:
            return http("GET", f"{self.base_url}/_sandbox/health").status == 200
        except OSError:
            return False

    def kill(self) -> None:
        """SIGKILL: no goodbye."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        self._end(signal.SIGTERM)

    def _end(self, how: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait(timeout=DEADLINE_S)
            self._process = None


def is_a(error: object, kind: type[BaseException]) -> bool:
    """`isinstance`, without the narrowing to types that leave most of an error's fields optional."""
    return isinstance(error, kind)


def error_of(work: Callable[[], object]) -> Any:
    """The StripeError a call raises; Any, because its types leave open what a test knows."""
    try:
        work()
    except stripe.StripeError as error:
        return error
    raise AssertionError("the call succeeded")
