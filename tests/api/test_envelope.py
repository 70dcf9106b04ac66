"""What holds for every answer: a fault of ours is a plain 500, too much is a 429, and neither says or logs too much."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, cast

import httpx
import pytest
from litestar.types import ASGIApp, Receive, Scope, Send
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

from payments.api.app import build_app
from payments.api.envelope import Envelope
from payments.api.in_flight import InFlight
from payments.api.request_metrics import RequestMetrics
from payments.api.services import Services
from payments.api.turns import Turns

pytestmark = pytest.mark.anyio

SECRET = "Failing row contains (4242)"


class Broken:
    """Stands where a service is expected, and breaks in a way that nobody foresaw."""

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError(SECRET)


def client_of(app: ASGIApp) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(cast("Any", app)), base_url="http://api")


def enveloped(app: Any, requests_max: int = 10) -> tuple[Envelope, InFlight]:
    in_flight = InFlight(requests_max)
    return Envelope(app, in_flight, RequestMetrics(CollectorRegistry())), in_flight


def broken_services() -> Services:
    broken = cast("Any", Broken())
    registry = CollectorRegistry()
    return Services(
        settings=broken,
        pool=broken,
        notifier=broken,
        waiters=broken,
        authenticator=broken,
        in_flight=InFlight(),
        turns=Turns(1),
        gauges=broken,
        metrics=RequestMetrics(registry),
        registry=registry,
    )


@pytest.mark.parametrize("path", ["/payments", "/payments/x", "/health/ready", "/metrics"])
async def test_a_fault_of_ours_is_a_plain_500_and_a_log_line_without_its_message(path: str) -> None:
    with capture_logs() as lines:
        async with client_of(build_app(broken_services())) as client:
            answer = await client.get(path, headers={"X-Request-Id": "broken-1"})
    assert (answer.status_code, answer.json()["code"]) == (500, "internal_error")
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["x-request-id"] == "broken-1"
    failed, answered = lines
    assert (failed["event"], failed["error"], failed["request_id"]) == ("request.failed", "RuntimeError", "broken-1")
    assert "__getattr__" in failed["where"]
    assert (answered["event"], answered["status"], answered["code"]) == ("request.answered", 500, "internal_error")
    assert SECRET not in answer.text + str(lines)


async def test_a_fault_outside_the_routes_is_a_plain_500_too() -> None:
    async def app(_scope: Scope, _receive: Receive, _send: Send) -> None:
        raise RuntimeError(SECRET)

    with capture_logs() as lines:
        async with client_of(enveloped(app)[0]) as client:
            answer = await client.get("/")
    assert (answer.status_code, answer.json()["code"]) == (500, "internal_error")
    assert SECRET not in answer.text + str(lines)


async def test_more_requests_than_can_be_worked_on_are_refused_but_operators_are_not(
    eventually_async: Callable[..., Awaitable[object]],
) -> None:
    go = asyncio.Event()

    async def app(_scope: Scope, _receive: Receive, send: Send) -> None:
        await go.wait()
        await send(cast("Any", {"type": "http.response.start", "status": 204, "headers": []}))
        await send(cast("Any", {"type": "http.response.body", "body": b"", "more_body": False}))

    envelope, in_flight = enveloped(app, requests_max=3)
    async with client_of(envelope) as client:
        working = [asyncio.create_task(client.get("/")) for _ in range(3)]
        await eventually_async(lambda: in_flight.count == 3)
        refused = await client.get("/")
        working += [asyncio.create_task(client.get(path)) for path in ("/health/live", "/metrics")]
        await eventually_async(lambda: in_flight.count == 5)
        go.set()
        answers = await asyncio.gather(*working)
    assert (refused.status_code, refused.json()["code"], refused.headers["retry-after"]) == (
        429,
        "too_many_requests",
        "1",
    )
    assert refused.json()["retryable"] is True
    assert [answer.status_code for answer in answers] == [204] * 5
    assert in_flight.count == 0


def test_a_request_that_only_waits_makes_room() -> None:
    in_flight = InFlight(1)
    with in_flight.counted():
        assert in_flight.is_full
        with in_flight.set_aside():
            assert not in_flight.is_full
        assert in_flight.is_full
    assert in_flight.count == 0
