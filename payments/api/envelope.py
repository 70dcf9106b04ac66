"""The outermost layer: what is true of every request and answer, also of those that reach no route.

Gives each request an id, refuses card numbers in addresses and requests beyond what can be worked on, turns what nobody
caught into a plain 500, and says in one log line and in metrics how it went. Addresses and bodies are never logged.
"""

import time
import traceback
from typing import Any, cast
from urllib.parse import unquote_plus

import msgspec
import structlog
from litestar.enums import ScopeType
from litestar.types import ASGIApp, HTTPScope, Message, Receive, Scope, Send

from payments.api.bodies import Disconnected
from payments.api.headers import parse_request_id, parse_traceparent
from payments.api.in_flight import RETRY_AFTER_S, InFlight
from payments.api.problems import MEDIA_TYPE, Refusal
from payments.api.request_metrics import RequestMetrics
from payments.api.request_record import RequestRecord, attach
from payments.domain.card_numbers import find_card_number

# The search for card numbers costs time. No address that leads anywhere is longer than this.
SEARCHED_CHARACTERS_MAX = 2_048
# An operator must see a process that refuses everybody else.
NEVER_REFUSED = ("/health/", "/metrics")
CLIENT_CLOSED_REQUEST = 499  # nobody was left to answer; the log says so with the status that nginx made customary

_COMMON_HEADERS = [(b"x-content-type-options", b"nosniff"), (b"cache-control", b"no-store")]

log = structlog.get_logger()


class Envelope:
    """An ASGI app around the app."""

    def __init__(self, app: ASGIApp, in_flight: InFlight, metrics: RequestMetrics) -> None:
        self._app = app
        self._in_flight = in_flight
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request."""
        assert scope["type"] == ScopeType.HTTP  # the server is told to serve neither websockets nor lifespans
        method = scope["method"]
        if method == "HEAD":  # answered as GET; the server, which keeps the scope it made, leaves out the body
            scope = cast("HTTPScope", {**scope, "method": "GET"})
        began = time.perf_counter()
        record = RequestRecord(parse_request_id(scope["headers"]), parse_traceparent(scope["headers"]))
        attach(scope, record)
        answer = _Answer(send, record.request_id)
        is_busy = self._in_flight.is_full
        with self._in_flight.counted():
            await self._answer(scope, receive, answer, record, is_busy=is_busy)
        duration_s = time.perf_counter() - began
        route = str(scope.get("path_template") or "unmatched")
        status = CLIENT_CLOSED_REQUEST if record.is_disconnected else answer.status
        self._metrics.note(method, route, status, duration_s)
        _log(method, record, route, status, duration_s)

    async def _answer(
        self, scope: HTTPScope, receive: Receive, answer: "_Answer", record: RequestRecord, *, is_busy: bool
    ) -> None:
        try:
            _refuse_early(scope, is_busy=is_busy)
            await self._app(scope, receive, answer)
        except Refusal as refusal:
            await answer.problem(refusal, record)
        except Disconnected:
            record.is_disconnected = True
        except Exception as error:  # noqa: BLE001 - the last resort: whatever it is, the caller gets a 500 and we a log line
            log_failure(error, record)
            if not answer.has_begun:
                await answer.problem(internal_error(), record)


class _Answer:
    """Sends an answer on, with the headers that all answers have, and remembers its status."""

    def __init__(self, send: Send, request_id: str) -> None:
        self._send = send
        self._headers = [(b"x-request-id", request_id.encode()), *_COMMON_HEADERS]
        self.status = 0
        self.has_begun = False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.has_begun = True
            self.status = message["status"]
            message["headers"] = [*message["headers"], *self._headers]
        await self._send(message)

    async def problem(self, refusal: Refusal, record: RequestRecord) -> None:
        """Sends a problem, for requests that never reached the app."""
        record.code = refusal.problem.code
        body = msgspec.json.encode(refusal.problem)
        headers = [
            (b"content-type", MEDIA_TYPE.encode()),
            (b"content-length", str(len(body)).encode()),
            *((name.lower().encode(), value.encode()) for name, value in refusal.headers.items()),
        ]
        start: Any = {"type": "http.response.start", "status": refusal.problem.status, "headers": headers}
        await self(start)
        await self({"type": "http.response.body", "body": body, "more_body": False})


def _refuse_early(scope: HTTPScope, *, is_busy: bool) -> None:
    if is_busy and not scope["path"].startswith(NEVER_REFUSED):
        raise Refusal(
            "too_many_requests",
            "This process is busy with as many requests as it can work on; come again.",
            headers={"Retry-After": str(RETRY_AFTER_S)},
        )
    query = unquote_plus(scope["query_string"][:SEARCHED_CHARACTERS_MAX].decode("latin-1"))
    if find_card_number(scope["path"][:SEARCHED_CHARACTERS_MAX]) or find_card_number(query):
        raise Refusal("card_number_not_allowed", "The address holds what looks like a card number.")


def internal_error() -> Refusal:
    """The answer to a request that met a fault of ours."""
    return Refusal("internal_error", "The service met a fault of its own; it is logged under the X-Request-Id.")


def _log(method: str, record: RequestRecord, route: str, status: int, duration_s: float) -> None:
    log.info(
        "request.answered",
        method=method,
        route=route,
        status=status,
        code=record.code,
        duration_ms=round(duration_s * 1_000, 2),
        request_id=record.request_id,
        trace_id=record.traceparent[3:35],
        client_id=record.client_id,
        payment_id=record.payment_id,
    )


def log_failure(error: Exception, record: RequestRecord) -> None:
    """Where it happened and what kind of error, not its message: PostgreSQL's messages quote whole rows."""
    log.error(
        "request.failed",
        error=type(error).__name__,
        where="".join(traceback.format_tb(error.__traceback__)),
        request_id=record.request_id,
        client_id=record.client_id,
    )
