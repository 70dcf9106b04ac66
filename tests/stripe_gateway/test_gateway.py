import asyncio
import json
import ssl
import time
from collections.abc import Awaitable, Callable, Coroutine
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qsl

import aiohttp
import pytest
import stripe

from payments.settings import Settings
from payments.stripe_gateway.api_version import STRIPE_API_VERSION
from payments.stripe_gateway.gateway import StripeGateway
from payments.stripe_gateway.outcomes import (
    Answered,
    Declined,
    KeyInUse,
    KeyMisused,
    Outcome,
    RateLimited,
    Refused,
    Unauthorized,
    Unknown,
)
from payments.stripe_gateway.transport import BODY_BYTES_MAX
from tests.stripe_gateway.hostile_server import OK, HostileServer, answer, chunked

KEY = "sk_test_abcdefghijkl"
TIMEOUT_S = 0.4
PARAMETERS = {
    "amount": 100,
    "currency": "usd",
    "confirm": True,
    "metadata": {"paymentId": "p", "cartId": "c"},
    "expand": ["latest_charge"],
}
Call = Callable[[StripeGateway], Coroutine[Any, Any, Outcome]]


def settings_for(port: int) -> Settings:
    return Settings.load(
        {"STRIPE_API_KEY": KEY, "STRIPE_API_BASE": f"http://127.0.0.1:{port}", "STRIPE_TIMEOUT_S": str(TIMEOUT_S)}
    )


def create(gateway: StripeGateway) -> Coroutine[Any, Any, Outcome]:
    return gateway.create_payment_intent(PARAMETERS, "key-1")


def call(server: HostileServer, do: Call = create) -> Outcome:
    async def run() -> Outcome:
        async with server, StripeGateway(settings_for(server.port)) as gateway:
            return await do(gateway)

    return asyncio.run(run())


def error(status: int, **fields: object) -> HostileServer:
    return HostileServer([answer(json.dumps({"error": {"message": "m", **fields}}).encode(), status)])


def test_gateway_sends_key_version_and_parameters_as_the_official_client_does() -> None:
    server = HostileServer()
    assert call(server) == Answered({"id": "pi_1", "object": "payment_intent", "amount": 100}, 200, "req_1")
    (request,) = server.requests
    head, body = request.decode().split("\r\n\r\n")
    assert head.startswith("POST /v1/payment_intents HTTP/1.1")
    lines = dict(line.split(": ", 1) for line in head.split("\r\n")[1:])
    assert lines["Idempotency-Key"] == "key-1"
    assert lines["Stripe-Version"] == STRIPE_API_VERSION == stripe.api_version
    assert lines["Authorization"] == f"Bearer {KEY}"
    assert "X-Stripe-Client-Telemetry" not in lines
    assert dict(parse_qsl(body)) == {
        "amount": "100",
        "currency": "usd",
        "confirm": "true",
        "metadata[paymentId]": "p",
        "metadata[cartId]": "c",
        "expand[0]": "latest_charge",
    }


def test_gateway_answers_with_plain_dicts() -> None:
    body = b'{"object":"payment_intent","latest_charge":{"id":"ch_1","object":"charge"},"charges":{"data":[{}]}}'
    outcome = call(HostileServer([answer(body)]))
    assert isinstance(outcome, Answered)
    assert type(outcome.object) is dict
    assert type(outcome.object["latest_charge"]) is dict
    assert type(outcome.object["charges"]["data"][0]) is dict


@pytest.mark.parametrize("charge", [b'"ch_1"', b"null", b'{"id":"ch_1","object":"charge"}', b"17", b"[]"])
def test_gateway_leaves_the_charge_as_it_came(charge: bytes) -> None:
    outcome = call(HostileServer([answer(b'{"object":"payment_intent","latest_charge":' + charge + b"}")]))
    assert isinstance(outcome, Answered)
    assert outcome.object["latest_charge"] == json.loads(charge)


def test_gateway_does_without_headers() -> None:
    raw = b"HTTP/1.1 200 OK\r\n\r\n" + OK
    assert call(HostileServer([raw])) == Answered(json.loads(OK), 200, None)


def test_gateway_reads_chunked_and_slow_answers_within_the_time() -> None:
    pieces = [chunked(OK[:5], OK[5:])[i : i + 40] for i in range(0, 200, 40)]
    outcome = call(HostileServer(pieces, pause_s=0.02))
    assert outcome == Answered(json.loads(OK), 200, "req_1")


def test_gateway_keeps_an_answer_that_holds_a_nul_storable() -> None:
    body = rb'{"object":"payment_intent","description":"a\u0000b","metadata":{"x":"\\u0000"}}'
    outcome = call(HostileServer([answer(body)]))
    assert isinstance(outcome, Answered)
    assert outcome.object["description"] == "a�b"
    assert outcome.object["metadata"] == {"x": r"\u0000"}


@pytest.mark.parametrize(
    "server",
    [
        HostileServer([]),
        HostileServer([], reset=True),
        HostileServer([answer()[:-20]]),
        HostileServer([answer()[:-20]], reset=True),
        HostileServer([b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"]),
        HostileServer([b"HTTP/1.1 2"]),
        HostileServer([b"\x00\x01 what?\r\n\r\n"]),
        HostileServer([b"HTTP/1.1 200 OK\r\nX: " + b"x" * 20_000 + b"\r\n\r\n{}"]),
    ],
)
def test_gateway_takes_broken_connections_as_unknown(server: HostileServer) -> None:
    outcome = call(server)
    assert isinstance(outcome, Unknown)
    assert outcome.why.isidentifier()  # the name of an error, never its text, which may quote a body
    assert outcome.request_id is None
    assert len(server.requests) == 1  # the queue repeats calls, the client never


@pytest.mark.parametrize(
    "server",
    [
        HostileServer([], close_after=False),
        HostileServer([answer()[:-20]], close_after=False),
        HostileServer([bytes([byte]) for byte in answer()], pause_s=0.05),
    ],
)
def test_gateway_gives_up_after_its_time_limit(server: HostileServer) -> None:
    began = time.monotonic()
    assert call(server) == Unknown("timeout")
    assert TIMEOUT_S <= time.monotonic() - began < TIMEOUT_S + 1


def test_gateway_takes_a_falsely_compressed_answer_as_unknown() -> None:
    assert isinstance(call(HostileServer([answer(b"x", headers="Content-Encoding: gzip\r\n")])), Unknown)


def test_gateway_takes_a_refused_connection_as_unknown() -> None:
    async def run() -> Outcome:
        async with HostileServer() as server:
            port = server.port
        async with StripeGateway(settings_for(port)) as gateway:
            return await create(gateway)

    assert asyncio.run(run()) == Unknown("ClientConnectorError")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'"pi_1"',
        b"17",
        b"{}",
        b'{"ok":true}',
        b'{"object":7}',
        b"<html>Welcome to the hotel's WLAN</html>",
        b'{"object":"payment_intent","amount":NaN}',
        b'{"object":"payment_intent","x":"\xff"}',
        b'{"object":"payment_intent","x":"\\ud800"}',
        b'{"object":"payment_intent","x":1e99999}',
        b'{"object":"payment_intent","x":' + b"[" * 100_000 + b"}",
        b'{"object":"x","y":"' + b"y" * BODY_BYTES_MAX + b'"}',
    ],
)
def test_gateway_takes_an_unreadable_200_as_unknown(body: bytes) -> None:
    outcome = call(HostileServer([answer(body)]))
    assert isinstance(outcome, Unknown)
    assert outcome.http_status == 200
    assert outcome.request_id == "req_1"


@pytest.mark.parametrize("status", [300, 301, 302, 303, 304, 307, 308])
def test_gateway_follows_no_redirect(status: int) -> None:
    async def run() -> tuple[Outcome, list[bytes]]:
        async with HostileServer() as elsewhere:
            server = HostileServer([answer(b"", status, f"Location: http://127.0.0.1:{elsewhere.port}/v1\r\n")])
            async with server, StripeGateway(settings_for(server.port)) as gateway:
                return await create(gateway), elsewhere.requests

    outcome, followed = asyncio.run(run())
    assert isinstance(outcome, Unknown)
    assert outcome.http_status == status
    assert followed == []


@pytest.mark.parametrize("status", [500, 501, 502, 503, 504, 599, 408, 424])
@pytest.mark.parametrize("body", [b'{"error":{"message":"m","type":"api_error"}}', b"<html>", b"", b"[]"])
def test_gateway_takes_server_errors_as_unknown(status: int, body: bytes) -> None:
    outcome = call(HostileServer([answer(body, status)]))
    assert isinstance(outcome, Unknown)
    assert (outcome.http_status, outcome.request_id) == (status, "req_1")


@pytest.mark.parametrize("status", [400, 402, 404, 418, 422])
@pytest.mark.parametrize("body", [b"<html>", b"", b"[]", b'{"error":"nope"}', b'{"error":[]}', b'{"error":null}'])
def test_gateway_takes_a_refusal_nobody_can_read_as_unknown(status: int, body: bytes) -> None:
    assert isinstance(call(HostileServer([answer(body, status)])), Unknown)


def test_gateway_knows_a_key_in_use() -> None:
    server = error(409, type="idempotency_error", code="idempotency_key_in_use")
    assert call(server) == KeyInUse("req_1")


def test_gateway_knows_a_misused_key() -> None:
    assert call(error(400, type="idempotency_error")) == KeyMisused("m", "req_1")


@pytest.mark.parametrize(
    ("status", "code", "retry_after", "expected"),
    [
        (429, "rate_limit", "", RateLimited("rate_limit", "req_1", None)),
        (429, "lock_timeout", "", RateLimited("lock_timeout", "req_1", None)),
        (400, "lock_timeout", "", RateLimited("lock_timeout", "req_1", None)),
        (400, "rate_limit", "", RateLimited("rate_limit", "req_1", None)),
        (429, None, "Retry-After: 2.5\r\n", RateLimited(None, "req_1", 2.5)),
        (429, None, "Retry-After: soon\r\n", RateLimited(None, "req_1", None)),
        (429, None, "Retry-After: nan\r\n", RateLimited(None, "req_1", None)),
        (429, None, "Retry-After: -1\r\n", RateLimited(None, "req_1", None)),
        (429, None, "Retry-After: 86400\r\n", RateLimited(None, "req_1", None)),
    ],
)
def test_gateway_knows_rate_limits(status: int, code: str | None, retry_after: str, expected: RateLimited) -> None:
    body = json.dumps({"error": {"code": code}}).encode()
    assert call(HostileServer([answer(body, status, f"Request-Id: req_1\r\n{retry_after}")])) == expected


def test_gateway_knows_a_rate_limit_without_a_body() -> None:
    assert call(HostileServer([answer(b"slow down", 429)])) == RateLimited(None, "req_1")


@pytest.mark.parametrize("status", [401, 403])
@pytest.mark.parametrize("body", [b'{"error":{"message":"m"}}', b"<html>", b""])
def test_gateway_knows_a_refused_api_key(status: int, body: bytes) -> None:
    outcome = call(HostileServer([answer(body, status)]))
    assert isinstance(outcome, Unauthorized)
    assert (outcome.http_status, outcome.request_id) == (status, "req_1")


def test_gateway_hands_over_a_decline_with_its_payment_intent() -> None:
    intent = {"id": "pi_1", "object": "payment_intent", "metadata": {"paymentId": "p"}}
    outcome = call(error(402, type="card_error", code="card_declined", decline_code="x", payment_intent=intent))
    assert isinstance(outcome, Declined)
    assert type(outcome.error) is dict
    assert outcome.error["payment_intent"] == intent
    assert outcome.error["code"] == "card_declined"


@pytest.mark.parametrize("status", [400, 404, 413, 422])
def test_gateway_hands_over_a_refusal(status: int) -> None:
    outcome = call(error(status, type="invalid_request_error", param="amount", code="amount_too_small"))
    assert isinstance(outcome, Refused)
    assert (outcome.http_status, outcome.error["param"], outcome.request_id) == (status, "amount", "req_1")


@pytest.mark.parametrize("odd", [{"object": []}, {"payment_intent": 5}, {"code": {}}, {"type": []}, {"message": 7}])
def test_gateway_hands_over_refusals_of_odd_shapes(odd: dict[str, Any]) -> None:
    outcome = call(HostileServer([answer(json.dumps({"error": odd}).encode(), 400)]))
    assert outcome == Refused(odd, 400, "req_1")


@pytest.mark.parametrize(
    ("do", "line"),
    [
        (lambda g: g.retrieve_payment_intent("pi_1"), "GET /v1/payment_intents/pi_1?expand[0]=latest_charge"),
        (lambda g: g.retrieve_payment_intent("../x?y"), "GET /v1/payment_intents/..%2Fx%3Fy?expand[0]=latest_charge"),
        (lambda g: g.cancel_payment_intent("pi_1", {}, "k"), "POST /v1/payment_intents/pi_1/cancel"),
        (
            lambda g: g.list_payment_intents(1, 2, "pi_9", 7),
            "GET /v1/payment_intents?limit=7&created[gte]=1&created[lte]=2&starting_after=pi_9",
        ),
        (lambda g: g.capture_payment_intent("pi/1", {}, "k"), "POST /v1/payment_intents/pi%2F1/capture"),
        (lambda g: g.create_refund({}, "k"), "POST /v1/refunds"),
        (lambda g: g.retrieve_refund("re/1"), "GET /v1/refunds/re%2F1"),
        (lambda g: g.retrieve_charge("ch/1"), "GET /v1/charges/ch%2F1"),
        (lambda g: g.retrieve_dispute("dp/1"), "GET /v1/disputes/dp%2F1"),
        (lambda g: g.list_refunds(), "GET /v1/refunds?limit=100"),
        (lambda g: g.list_refunds("pi_1", 0), "GET /v1/refunds?limit=100&payment_intent=pi_1&created[gte]=0"),
        (lambda g: g.list_disputes(5), "GET /v1/disputes?limit=100&created[gte]=5"),
        (lambda g: g.list_events(ending_before="evt_1"), "GET /v1/events?limit=100&ending_before=evt_1"),
        (
            lambda g: g.list_balance_transactions(source="ch_1"),
            "GET /v1/balance_transactions?limit=100&source=ch_1&expand[0]=data.source",
        ),
    ],
)
def test_gateway_addresses_each_call(do: Call, line: str) -> None:
    server = HostileServer()
    assert isinstance(call(server, do), Answered)
    request = server.requests[0].decode().replace("%5B", "[").replace("%5D", "]")
    assert request.startswith(f"{line} HTTP/1.1\r\n")


@pytest.mark.parametrize(("status", "is_kept"), [(500, True), (503, True), (424, True), (200, False)])
def test_gateway_takes_only_a_doubt_for_one_that_stripe_keeps(status: int, is_kept: bool) -> None:  # noqa: FBT001
    """A 2xx whose body was lost on the way may be read at the next replay."""
    headers = "Request-Id: req_1\r\nIdempotent-Replayed: true\r\n"
    outcome = call(HostileServer([answer(b"<html>", status, headers=headers)]))
    assert isinstance(outcome, Unknown)
    assert outcome.is_replayed == is_kept


def test_paced_gateway_calls_when_it_is_its_turn() -> None:
    class Pace:
        def __init__(self, *, opens: bool) -> None:
            self.opens = opens

        async def read(self, call: Callable[[], Awaitable[Outcome]]) -> Outcome:
            return await call() if self.opens else Unknown("shut")

    server = HostileServer()
    assert call(server, lambda g: g.paced(Pace(opens=False)).retrieve_refund("re_1")) == Unknown("shut")
    assert server.requests == []
    assert isinstance(call(server, lambda g: g.paced(Pace(opens=True)).retrieve_refund("re_1")), Answered)


def test_gateway_sends_everything_to_the_configured_base() -> None:
    gateway = StripeGateway(settings_for(9))
    addresses = gateway._client._requestor.base_addresses
    assert set(addresses.values()) == {"http://127.0.0.1:9"}


def test_gateway_lets_programmer_errors_out() -> None:
    with pytest.raises(TypeError):
        call(HostileServer(), lambda g: g.create_payment_intent({1: 2}, "k"))  # type: ignore[dict-item]


def test_gateway_survives_a_notice_in_the_answer() -> None:
    notice = "Request-Id: req_1\r\nStripe-Notice: upgrade soon\r\n"
    assert isinstance(call(HostileServer([answer(headers=notice)])), Answered)


def test_gateway_speaks_only_with_whom_a_certificate_names() -> None:
    """Whoever stands in between would get the API key, and could answer that a payment has succeeded."""

    async def main() -> None:
        async with StripeGateway(settings_for(1)) as gateway:
            connector = gateway._transport._open_session().connector
            assert isinstance(connector, aiohttp.TCPConnector)
            assert isinstance(connector._ssl, ssl.SSLContext)
            assert (connector._ssl.verify_mode, connector._ssl.check_hostname) == (ssl.CERT_REQUIRED, True)

    asyncio.run(main())


@pytest.mark.parametrize(
    ("date", "told"), [("Wed, 25 Nov 2026 10:00:00 GMT", True), ("yesterday", False), (None, False)]
)
def test_gateway_knows_stripes_time_from_its_last_answer(date: str | None, *, told: bool) -> None:
    headers = "" if date is None else f"Date: {date}\r\n"

    async def run() -> tuple[datetime | None, datetime | None]:
        server = HostileServer([answer(headers=headers)])
        async with server, StripeGateway(settings_for(server.port)) as gateway:
            before = gateway.stripe_time()
            await create(gateway)
            return before, gateway.stripe_time()

    before, after = asyncio.run(run())
    assert before is None
    if not told:
        assert after is None
    else:
        assert after is not None
        assert timedelta(0) <= after - datetime(2026, 11, 25, 10, tzinfo=UTC) < timedelta(minutes=1)
