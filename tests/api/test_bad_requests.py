"""Whatever is wrong with a request around its body, the answer is a clear 4xx problem, and nothing is written."""

import socket
import uuid

import httpx
import pytest

from tests.api.driving import ApiProcess, bearer, wish
from tests.api.refusals import CART, post, problem, raw

pytestmark = pytest.mark.usefixtures("nothing_is_written")


@pytest.mark.parametrize(
    "content_type",
    [
        "text/plain",
        "application/x-www-form-urlencoded",
        "application/json; charset=latin-1",
        "application/jsonx",
        "",
        "application/json; q",
    ],
)
def test_another_content_type_is_415(shop: httpx.Client, content_type: str) -> None:
    problem(post(shop, raw(), **{"Content-Type": content_type}), 415, "unsupported_media_type")


@pytest.mark.parametrize("encoding", ["gzip", "br", "deflate", "gzip, identity", "x"])
def test_a_compressed_body_is_415(shop: httpx.Client, encoding: str) -> None:
    problem(post(shop, raw(), **{"Content-Encoding": encoding}), 415, "unsupported_media_type")


def test_a_body_above_the_limit_is_413(shop: httpx.Client) -> None:
    problem(post(shop, b" " * 65_537), 413, "body_too_large")
    problem(post(shop, b" " * 65_536), 400, "malformed_json")


def test_a_chunked_body_above_the_limit_is_413_without_being_read_to_its_end(api: ApiProcess) -> None:
    head = f"POST /payments/authorize HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {api.key}\r\n"
    head += "Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    chunk = b"10000\r\n" + b" " * 65_536 + b"\r\n"
    with socket.create_connection(("127.0.0.1", api.port), timeout=10) as sock:
        sock.sendall(head.encode())
        sent = 0
        try:
            while sent < 64 * 65_536:
                sock.sendall(chunk)
                sent += 65_536
        except OSError:
            pass  # the server has had enough
        received = sock.recv(65_536)
    assert received.startswith(b"HTTP/1.1 413 ")
    assert b"x-request-id: " in received


def test_a_length_that_announces_too_much_is_413_at_once(api: ApiProcess) -> None:
    head = f"POST /payments/authorize HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {api.key}\r\n"
    head += "Content-Type: application/json\r\nContent-Length: 1000000000000\r\n\r\n"
    with socket.create_connection(("127.0.0.1", api.port), timeout=10) as sock:
        sock.sendall(head.encode())
        assert sock.recv(65_536).startswith(b"HTTP/1.1 413 ")


def test_a_sender_that_asks_first_is_told_before_it_sends(api: ApiProcess) -> None:
    head = f"POST /payments/authorize HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {api.key}\r\n"
    head += "Content-Type: application/json\r\nContent-Length: 70000\r\nExpect: 100-continue\r\n\r\n"
    with socket.create_connection(("127.0.0.1", api.port), timeout=10) as sock:
        sock.sendall(head.encode())
        assert sock.recv(65_536).startswith(b"HTTP/1.1 413 ")


@pytest.mark.parametrize(
    ("query", "parameter"),
    [
        ("limit=0", "limit"),
        ("limit=201", "limit"),
        ("limit=-1", "limit"),
        ("limit=1.0", "limit"),
        ("limit=", "limit"),
        ("limit=%D9%A1", "limit"),
        ("limit=" + "9" * 5_000, "limit"),
        ("limit=1&limit=1", "limit"),
        ("cartId=x", "cartId"),
        ("customerId=%00", "customerId"),
        ("status=PAID", "status"),
        ("status=succeeded", "status"),
        ("cursor=x", "cursor"),
        ("cursor=", "cursor"),
        ("cursor=%F0%9F%98%80", "cursor"),
        ("page=2", "page"),
        ("limit", ""),
        ("a=%FF", ""),
        ("&".join(f"a{n}=1" for n in range(50)), ""),
    ],
)
def test_a_bad_query_parameter_is_named(shop: httpx.Client, query: str, parameter: str) -> None:
    found = problem(shop.get(f"/payments?{query}"), 400, "invalid_parameter")
    assert f"query:{parameter}" in [fault["pointer"] for fault in found["errors"]]


@pytest.mark.parametrize("wait", ["31", "-1", "1.5", "soon", "", "1e1"])
def test_a_wait_out_of_range_is_refused_in_a_query_and_bounded_as_a_preference(shop: httpx.Client, wait: str) -> None:
    problem(shop.get(f"/payments/{CART}?wait={wait}"), 400, "invalid_parameter")


def test_authorize_takes_no_query_parameters(shop: httpx.Client) -> None:
    problem(shop.post("/payments/authorize?wait=3", json=wish()), 400, "invalid_parameter")


@pytest.mark.parametrize(
    "path", ["/", "/nothing", "/payments/a/b/c", "/payments/authorize/now", "/Payments", "/%00", "/schema/../../etc"]
)
def test_an_unknown_path_is_404(shop: httpx.Client, path: str) -> None:
    problem(shop.get(path), 404, "not_found")


@pytest.mark.parametrize("payment_id", [CART, "x", CART + "0", "%00", "a" * 3_000, CART.replace("-", "")])
def test_an_unknown_payment_is_404(shop: httpx.Client, payment_id: str) -> None:
    problem(shop.get(f"/payments/{payment_id}"), 404, "payment_not_found")
    problem(shop.get(f"/payments/{payment_id}/history"), 404, "payment_not_found")


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", "/payments/authorize", {"POST", "OPTIONS"}),
        ("DELETE", "/payments", {"GET", "HEAD", "OPTIONS"}),
        ("PUT", f"/payments/{CART}", {"GET", "HEAD", "OPTIONS"}),
        ("PATCH", "/webhooks/stripe", {"POST", "OPTIONS"}),
        ("POST", "/health/live", {"GET", "HEAD", "OPTIONS"}),
    ],
)
def test_another_method_is_405_with_allow(shop: httpx.Client, method: str, path: str, allowed: set[str]) -> None:
    answer = shop.request(method, path)
    problem(answer, 405, "method_not_allowed")
    assert set(answer.headers["allow"].split(", ")) == allowed


@pytest.mark.parametrize(
    "request_head",
    [
        b"NONSENSE\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /\x00 HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nno colon\r\n\r\n",
        b"GET /health/live HTTP/1.1\r\n\r\n",
        b"GET /health/live HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"\x16\x03\x01\x02\x00",
    ],
)
def test_what_is_no_http_is_400(api: ApiProcess, request_head: bytes) -> None:
    with socket.create_connection(("127.0.0.1", api.port), timeout=10) as sock:
        sock.sendall(request_head)
        received = sock.recv(65_536)
    assert received.startswith(b"HTTP/1.1 400 ")
    assert b"application/problem+json" in received
    assert b"x-request-id: " in received


def test_a_head_without_end_is_431(api: ApiProcess) -> None:
    with socket.create_connection(("127.0.0.1", api.port), timeout=10) as sock:
        sock.sendall(b"GET /health/live HTTP/1.1\r\nHost: x\r\nX-Long: " + b"a" * 40_000)
        assert sock.recv(65_536).startswith(b"HTTP/1.1 431 ")


def test_a_long_head_that_comes_at_once_is_431(api: ApiProcess) -> None:
    with socket.create_connection(("127.0.0.1", api.port), timeout=10) as sock:
        sock.sendall(b"GET /health/live HTTP/1.1\r\nHost: x\r\nX-Long: " + b"a" * 60_000 + b"\r\n\r\n")
        assert sock.recv(65_536).startswith(b"HTTP/1.1 431 ")


def test_a_request_that_asks_for_another_protocol_keeps_its_body(shop: httpx.Client) -> None:
    headers = {"Connection": "Upgrade, HTTP2-Settings", "Upgrade": "h2c", "HTTP2-Settings": "AAMAAABkAAQAAP__"}
    answer = post(shop, '{"cartId": "nonsense"}', **headers)
    assert "/cartId" in {error["pointer"] for error in problem(answer, 400, "invalid_request")["errors"]}


def test_many_requests_on_one_connection_are_no_long_head(api: ApiProcess) -> None:
    with httpx.Client(base_url=api.url, headers=bearer(api.key) | {"X-Padding": "a" * 20_000}) as client:
        assert [client.get("/health/live").status_code for _ in range(10)] == [200] * 10
        assert [client.post("/payments/authorize", json={}).status_code for _ in range(10)] == [400] * 10


def test_a_request_id_is_kept_when_it_is_sane(shop: httpx.Client) -> None:
    assert shop.get("/nothing", headers={"X-Request-Id": "order-7:1"}).headers["x-request-id"] == "order-7:1"
    for hostile in ("", "a" * 129, "a b", "<b>", "a\tb"):
        answer = shop.get("/nothing", headers={"X-Request-Id": hostile})
        assert uuid.UUID(answer.headers["x-request-id"]).version == 7


def test_no_stack_trace_stands_in_the_log_after_all_this(api: ApiProcess) -> None:
    assert "Traceback" not in api.settled_log()
    assert "request.failed" not in api.settled_log()
