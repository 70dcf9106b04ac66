"""Whatever is wrong with a request, the answer is a clear 4xx problem, and nothing is written."""

import re
import time
from typing import Any

import httpx
import pytest

from tests.api.driving import ApiProcess, wish
from tests.api.refusals import CART, Json, post, problem, raw

CARD = "4242424242424242"
DEEP = 12_000
pytestmark = pytest.mark.usefixtures("nothing_is_written")


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
        {"metadata": {f"{number:040}": "x" * 500 for number in range(19)} | {"last": CARD}},
        {"metadata": {"first": CARD} | {f"{number:040}": "x" * 500 for number in range(19)}},
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
        # Not the bare "4242": the random ids of a request may well hold that.
        assert re.search(r"4242\D{0,2}4242", text) is None


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
    assert re.search(r"4242\D{0,2}4242", answer.text) is None
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
