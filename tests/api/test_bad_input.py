"""Whatever is wrong with a request, the answer is a clear 4xx problem, and nothing is written."""

import json
import socket
import time
import uuid
from collections.abc import Iterator
from typing import Any

import httpx
import psycopg
import pytest

from payments.api.problems import PROBLEMS
from tests.api.driving import ApiProcess, bearer, rows_seen_by, wish

CARD = "4242424242424242"
CART = "0197f2c4-0000-7000-8000-000000000001"
DEEP = 12_000


@pytest.fixture(scope="module")
def eye(api: ApiProcess) -> Iterator[psycopg.Connection[Any]]:
    with api.database.connect() as conn:
        yield conn


@pytest.fixture(autouse=True)
def _nothing_is_written(eye: psycopg.Connection[Any]) -> Iterator[None]:
    yield
    assert not any(rows_seen_by(eye).values())


def post(shop: httpx.Client, body: bytes | str, **headers: str) -> httpx.Response:
    content = body.encode() if isinstance(body, str) else body
    return shop.post("/payments/authorize", content=content, headers={"Content-Type": "application/json"} | headers)


def problem(answer: httpx.Response, status: int, code: str) -> dict[str, Any]:
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["x-request-id"]
    found: dict[str, Any] = answer.json()
    assert (answer.status_code, found["code"]) == (status, code), found
    kind = PROBLEMS[code]
    assert found["type"] == "urn:payments:problem:" + code.replace("_", "-")
    assert (found["title"], found["status"], found["retryable"]) == (kind.title, status, kind.retryable)
    assert found["detail"]
    return found


def raw(**changes: Any) -> str:
    """A body in which a value may be any JSON text: {'amount': Json('1.0')}."""
    parts = [
        f"{json.dumps(name)}: {value if isinstance(value, Json) else json.dumps(value)}"
        for name, value in wish(**{"cartId": CART, **changes}).items()
    ]
    return "{" + ", ".join(parts) + "}"


class Json(str):
    """JSON text as it stands."""

    __slots__ = ()


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("", "the body is empty"),
        (" \n ", "the body is empty"),
        ("{", "line 1, column 2"),
        ('{"cartId": }', "line 1, column 12"),
        ('{"a": 1}\n{"a": 1}', "line 2, column 1: Extra data"),
        ("{'a': 1}", "line 1, column 2"),
        ('{"a": 01}', "line 1, column"),
        ('{"a": "\t"}', "Invalid control character"),
        ('{"a": "\\x"}', "line 1, column"),
        (b'{"a": "\xff"}', "byte 7: not UTF-8"),
        (b'{"a": "\xed\xa0\x80"}', "byte 7: not UTF-8"),
        (b"\xef\xbb\xbf{}", "line 1, column 1"),
        ("{}".encode("utf-16"), "not UTF-8"),
        (raw(amount=Json("NaN")), "NaN and Infinity"),
        (raw(amount=Json("-Infinity")), "NaN and Infinity"),
        (raw(cartId=CART, amount=Json('5, "amount": 1250')), "same key twice"),
        ('{"metadata": {"a": "1", "a": "2"}}', "same key twice"),
        ("[" * DEEP, "nested too deep"),
        ('{"a":' * DEEP, "nested too deep"),
        ("[" * DEEP + "]" * DEEP, "nested too deep"),
    ],
)
def test_what_is_no_json_is_refused_with_its_place(shop: httpx.Client, body: bytes | str, said: str) -> None:
    found = problem(post(shop, body), 400, "malformed_json")
    assert said in found["detail"]
    assert [fault["pointer"] for fault in found["errors"]] == [""]


@pytest.mark.parametrize("body", ["[]", "null", "1", '"text"', "true", "[{}]", "1e400000", "9" * 5_000])
def test_a_body_that_is_no_object_is_refused(shop: httpx.Client, body: str) -> None:
    found = problem(post(shop, body), 400, "invalid_request")
    assert found["errors"] == [{"pointer": "", "detail": "must be an object"}]


@pytest.mark.parametrize(
    ("changes", "pointer", "said"),
    [
        ({"amount": ...}, "/amount", "is required"),
        ({"currency": ...}, "/currency", "is required"),
        ({"cartId": ...}, "/cartId", "is required"),
        ({"amount": True}, "/amount", "not true or false"),
        ({"amount": Json("1250.0")}, "/amount", "without fraction or exponent"),
        ({"amount": Json("1e2")}, "/amount", "without fraction or exponent"),
        ({"amount": Json("1E+3")}, "/amount", "without fraction or exponent"),
        ({"amount": Json("1e400000")}, "/amount", "without fraction or exponent"),
        ({"amount": Json("-1e-400000")}, "/amount", "without fraction or exponent"),
        ({"amount": "1250"}, "/amount", "not a string"),
        ({"amount": None}, "/amount", "not null"),
        ({"amount": [1250]}, "/amount", "not an array"),
        ({"amount": {}}, "/amount", "not an object"),
        ({"amount": 0}, "/amount", "above 0"),
        ({"amount": Json("-0")}, "/amount", "above 0"),
        ({"amount": -1250}, "/amount", "above 0"),
        ({"amount": 49}, "/amount", "at least 50 in EUR"),
        ({"amount": 100_000_000}, "/amount", "at most 99999999"),
        ({"amount": 2**63 - 1}, "/amount", "at most 99999999"),
        ({"amount": 2**63}, "/amount", "at most 99999999"),
        ({"amount": 2**64}, "/amount", "at most 99999999"),
        ({"amount": Json("9" * 60_000)}, "/amount", "at most 99999999"),
        ({"amount": Json("-" + "9" * 60_000)}, "/amount", "above 0"),
        ({"currency": "eur"}, "/currency", "capitals"),
        ({"currency": "XXX"}, "/currency", "is not the ISO 4217 code"),
        ({"currency": "XAU"}, "/currency", "is not the ISO 4217 code"),
        ({"currency": "EURO"}, "/currency", "is not the ISO 4217 code"),
        ({"currency": ""}, "/currency", "is not the ISO 4217 code"),
        ({"currency": "\uff25\uff35\uff32"}, "/currency", "is not the ISO 4217 code"),
        ({"currency": "EUR\n"}, "/currency", "is not the ISO 4217 code"),
        ({"currency": 978}, "/currency", "must be a string"),
        ({"currency": None}, "/currency", "must be a string"),
        ({"currency": "KWD", "amount": 5_125}, "/amount", "multiple of 10"),
        ({"currency": "ISK", "amount": 4_010}, "/amount", "multiple of 100"),
        ({"currency": "UGX", "amount": 50}, "/amount", "at least 100"),
        ({"currency": "HUF", "amount": 17_499}, "/amount", "at least 17500"),
        ({"cartId": "x"}, "/cartId", "must be a UUID"),
        ({"cartId": ""}, "/cartId", "must be a UUID"),
        ({"cartId": CART[:-1]}, "/cartId", "must be a UUID"),
        ({"cartId": CART.replace("-", "")}, "/cartId", "must be a UUID"),
        ({"cartId": "{" + CART + "}"}, "/cartId", "must be a UUID"),
        ({"cartId": "urn:uuid:" + CART}, "/cartId", "must be a UUID"),
        ({"cartId": CART + "\n"}, "/cartId", "must be a UUID"),
        ({"cartId": "a" * 50_000}, "/cartId", "must be a UUID"),
        ({"cartId": 7}, "/cartId", "must be a string"),
        ({"cartId": None}, "/cartId", "must be a string"),
        ({"customerId": None}, "/customerId", "must be a string"),
        ({"customerId": "me"}, "/customerId", "must be a UUID"),
        ({"orderId": ["a"]}, "/orderId", "must be a string"),
        ({"captureMethod": "later"}, "/captureMethod", "automatic, manual"),
        ({"captureMethod": "Manual"}, "/captureMethod", "automatic, manual"),
        ({"captureMethod": False}, "/captureMethod", "must be a string"),
        ({"paymentMethod": "card_123"}, "/paymentMethod", "pm_"),
        ({"paymentMethod": "pm_"}, "/paymentMethod", "pm_"),
        ({"paymentMethod": "pm_a b"}, "/paymentMethod", "pm_"),
        ({"paymentMethod": "pm_" + "a" * 251}, "/paymentMethod", "pm_"),
        ({"paymentMethod": "pm_visa\n"}, "/paymentMethod", "pm_"),
        ({"paymentMethod": "pm_visa\x00"}, "/paymentMethod", "NUL"),
        ({"metadata": []}, "/metadata", "must be an object"),
        ({"metadata": None}, "/metadata", "must be an object"),
        ({"metadata": {str(n): "x" for n in range(21)}}, "/metadata", "at most 20 keys"),
        ({"metadata": {"k" * 41: "x"}}, "/metadata/" + "k" * 40 + "…", "1 to 40 characters"),
        ({"metadata": {"": "x"}}, "/metadata/", "1 to 40 characters"),
        ({"metadata": {"a": "x" * 501}}, "/metadata/a", "at most 500"),
        ({"metadata": {"a": 1}}, "/metadata/a", "must be a string"),
        ({"metadata": {"a": {"b": "c"}}}, "/metadata/a", "must be a string"),
        ({"metadata": {"a": "x\x00"}}, "/metadata/a", "NUL"),
        ({"metadata": {"a": "\ud800"}}, "/metadata/a", "lone surrogate"),
        ({"metadata": {"\udfff": "x"}}, "/metadata/?", "lone surrogate"),
        ({"cartId": "\ud800"}, "/cartId", "lone surrogate"),
        ({"amout": 5}, "/amout", "not a known field"),
        ({"CartId": CART}, "/CartId", "not a known field"),
        ({"__proto__": {}}, "/__proto__", "not a known field"),
        ({"<script>alert(1)</script>" * 9: 1}, "/?script?alert?1???script??script?alert?1…", "not a known field"),
        ({"\ud800": 1}, "/?", "not a known field"),
    ],
)
def test_a_field_that_breaks_a_rule_is_named(
    shop: httpx.Client, changes: dict[str, Any], pointer: str, said: str
) -> None:
    began = time.monotonic()
    found = problem(post(shop, raw(**changes)), 400, "invalid_request")
    assert time.monotonic() - began < 2
    assert [fault["pointer"] for fault in found["errors"]] == [pointer]
    assert said in found["errors"][0]["detail"]


def test_all_faults_are_told_at_once(shop: httpx.Client) -> None:
    found = problem(post(shop, raw(cartId="x", amount=-1, currency="eur", size="XL")), 400, "invalid_request")
    assert {fault["pointer"] for fault in found["errors"]} == {"/cartId", "/amount", "/currency", "/size"}


def test_a_thousand_faults_are_answered_with_some_of_them(shop: httpx.Client) -> None:
    found = problem(post(shop, raw(**{f"field{n}": n for n in range(1_000)})), 400, "invalid_request")
    assert len(found["errors"]) == 50


@pytest.mark.parametrize(
    "changes",
    [
        {"metadata": {"note": CARD}},
        {"metadata": {"note": "card 4242 4242 4242 4242 exp 12/34"}},
        {"metadata": {"note": "4242-4242-4242-4242"}},
        {"metadata": {"note": "\uff14\uff12\uff14\uff12" * 4}},
        {"metadata": {CARD: "x"}},
        {"card": CARD},
        {"card": int(CARD)},
        {"card": Json(CARD + ".0")},
        {"card": {"deep": [{"er": CARD}]}},
        {CARD: "x"},
        {"amount": int(CARD)},
        {"currency": CARD},
        {"cartId": CARD},
        {"orderId": f"order-{CARD}"},
        {"paymentMethod": f"pm_{CARD}"},
        {"paymentMethod": CARD},
        {"captureMethod": "378282246310005"},
    ],
)
def test_a_card_number_is_refused_and_never_repeated(
    shop: httpx.Client, api: ApiProcess, changes: dict[str, Any]
) -> None:
    answer = post(shop, raw(**changes))
    problem(answer, 400, "card_number_not_allowed")
    for text in (answer.text, str(answer.headers), api.settled_log()):
        assert CARD not in text
        assert "4242" not in text.replace(str(api.port), "")


@pytest.mark.parametrize(
    "path",
    [
        f"/payments/{CARD}",
        f"/{CARD}",
        f"/payments?cartId={CARD}",
        f"/payments?{CARD}=1",
        "/payments?cartId=4242%204242+4242-4242",
    ],
)
def test_a_card_number_in_an_address_is_refused_and_never_repeated(
    shop: httpx.Client, api: ApiProcess, path: str
) -> None:
    answer = shop.get(path)
    problem(answer, 400, "card_number_not_allowed")
    assert "4242" not in answer.text
    assert CARD not in api.settled_log()


def test_a_card_number_in_a_header_is_refused_or_ignored(shop: httpx.Client, api: ApiProcess) -> None:
    problem(post(shop, raw(), **{"Idempotency-Key": f"order-{CARD}"}), 400, "card_number_not_allowed")
    answer = post(shop, "{}", **{"X-Request-Id": CARD, "traceparent": f"00-{'a' * 32}-{CARD}-01"})
    assert answer.headers["x-request-id"] != CARD
    assert CARD not in api.settled_log()


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("", "blank"),
        ('""', "1 to 255"),
        ("k" * 256, "1 to 255"),
        ('"' + "k" * 256 + '"', "1 to 255"),
        ("two words", "visible ASCII"),
        ('"two words"', "visible ASCII"),
        ("clé".encode("latin-1"), "visible ASCII"),
        ("キー".encode(), "visible ASCII"),
        ("tab\tbed", "visible ASCII"),
        ('"open', "visible ASCII"),
        ('"a"b"', "visible ASCII"),
        ('"a\\b"', "visible ASCII"),
        ('"key"; a=1', "visible ASCII"),
    ],
)
def test_a_key_that_is_none_is_refused(shop: httpx.Client, key: str | bytes, said: str) -> None:
    answer = shop.post("/payments/authorize", json=wish(), headers={"Idempotency-Key": key})
    assert said in problem(answer, 400, "invalid_idempotency_key")["detail"]


def test_two_keys_are_refused(shop: httpx.Client) -> None:
    headers = [("Idempotency-Key", "a"), ("Idempotency-Key", "b"), ("Content-Type", "application/json")]
    problem(shop.post("/payments/authorize", content=raw(), headers=headers), 400, "invalid_idempotency_key")


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
        ("DELETE", "/payments", {"GET", "OPTIONS"}),
        ("PUT", f"/payments/{CART}", {"GET", "OPTIONS"}),
        ("PATCH", "/webhooks/stripe", {"POST", "OPTIONS"}),
        ("POST", "/health/live", {"GET", "OPTIONS"}),
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
