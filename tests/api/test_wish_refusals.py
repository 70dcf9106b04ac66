"""Wishes that cannot be: wrong bodies, wrong states, too much money. Nothing is written, and the answer says why."""

import json
import re
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import msgspec
import psycopg
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from payments.api.openapi import document
from payments.api.problems import Refusal
from payments.api.wish_bodies import parse_capture, parse_refund, parse_saved_method, parse_void
from payments.domain.card_numbers import find_card_number
from payments.domain.wishes import CaptureWish, RefundWish
from tests.api.driving import ApiProcess
from tests.api.refusals import CART, problem
from tests.api.staging import columns_of, effects_of, new_key, payment_in

CARD = "4242424242424242"
SCHEMAS = document()["components"]["schemas"]
ALL = ("capture", "void", "refunds")


@pytest.fixture(scope="module")
def held(shop: httpx.Client, eye: psycopg.Connection[Any]) -> Iterator[str]:
    """An authorized payment that stays as it is, whatever is asked of it."""
    payment_id = payment_in(shop, eye, "AUTHORIZED")
    before = columns_of(eye, payment_id, "status", "version")
    yield payment_id
    assert columns_of(eye, payment_id, "status", "version") == before
    assert effects_of(eye, payment_id) == {}


def send(shop: httpx.Client, path: str, body: bytes | str, method: str = "POST") -> httpx.Response:
    # ASCII, or else a lone surrogate could not be sent at all.
    content = body.encode() if isinstance(body, str) else body
    return shop.request(method, path, content=content, headers={"Content-Type": "application/json"})


@pytest.mark.parametrize("what", ALL)
@pytest.mark.parametrize(
    ("body", "code"),
    [
        ("{", "malformed_json"),
        (" ", "malformed_json"),
        ('{"a": 1, "a": 1}', "malformed_json"),
        (b'{"reason": "\xff"}', "malformed_json"),
        ("[" * 12_000, "malformed_json"),
        ("[]", "invalid_request"),
        ("null", "invalid_request"),
        ('{"amout": 5}', "invalid_request"),
        ('{"\\ud800": 5}', "invalid_request"),
        (f'{{"card": "{CARD}"}}', "card_number_not_allowed"),
        (f'{{"amount": {CARD}}}', "card_number_not_allowed"),
    ],
)
def test_a_body_that_is_wrong_anywhere_is_refused(
    shop: httpx.Client, held: str, what: str, body: bytes | str, code: str
) -> None:
    problem(send(shop, f"/payments/{held}/{what}", body), 400, code)


@pytest.mark.parametrize(
    ("what", "body", "fault"),
    [
        *(
            (what, f'{{"amount": {amount}}}', ("/amount", said))
            for what in ("capture", "refunds")
            for amount, said in [
                ("0", "above 0"),
                ("-5", "above 0"),
                ("5.0", "without fraction"),
                ("1e2", "without fraction"),
                ('"5"', "not a string"),
                ("true", "not true or false"),
                ("null", "not null"),
                ("100000000", "at most 99999999"),
                ("9223372036854775808", "at most 99999999"),
            ]
        ),
        ("capture", '{"orderId": "x"}', ("/orderId", "must be a UUID")),
        ("capture", '{"orderId": null}', ("/orderId", "must be a string")),
        ("capture", '{"reason": "x"}', ("/reason", "not a known field")),
        ("void", '{"amount": 1}', ("/amount", "not a known field")),
        ("refunds", '{"reason": ""}', ("/reason", "1 to 500")),
        ("refunds", json.dumps({"reason": "x" * 501}), ("/reason", "1 to 500")),
        ("refunds", '{"reason": 7}', ("/reason", "must be a string")),
        ("refunds", '{"reason": null}', ("/reason", "must be a string")),
        ("refunds", '{"reason": "a\\u0000b"}', ("/reason", "NUL")),
        ("refunds", '{"reason": "\\ud800"}', ("/reason", "lone surrogate")),
        ("refunds", '{"reason": "compensation"}', ("/reason", "the service's own")),
        ("refunds", '{"orderId": "x"}', ("/orderId", "not a known field")),
    ],
)
def test_a_field_that_breaks_a_rule_is_named(
    shop: httpx.Client, held: str, what: str, body: str, fault: tuple[str, str]
) -> None:
    found = problem(send(shop, f"/payments/{held}/{what}", body), 400, "invalid_request")
    assert [each["pointer"] for each in found["errors"]] == [fault[0]]
    assert fault[1] in found["errors"][0]["detail"]


@pytest.mark.parametrize(
    ("body", "pointers"),
    [
        ({}, {"/processorCustomer", "/paymentMethod"}),
        ({"processorCustomer": "cus_1"}, {"/paymentMethod"}),
        ({"processorCustomer": "acct_1", "paymentMethod": "card_1"}, {"/processorCustomer", "/paymentMethod"}),
        ({"processorCustomer": "cus_", "paymentMethod": "pm_a b"}, {"/processorCustomer", "/paymentMethod"}),
        ({"processorCustomer": None, "paymentMethod": 7}, {"/processorCustomer", "/paymentMethod"}),
        ({"processorCustomer": "cus_1\x00", "paymentMethod": "pm_1"}, {"/processorCustomer"}),
        ({"processorCustomer": "cus_1", "paymentMethod": "pm_1", "default": "x"}, {"/default"}),
    ],
)
def test_a_payment_method_to_save_is_two_tokens(
    shop: httpx.Client, eye: psycopg.Connection[Any], body: dict[str, Any], pointers: set[str]
) -> None:
    customer_id = uuid.uuid4()
    answer = send(shop, f"/customers/{customer_id}/payment-method", json.dumps(body), "PUT")
    assert {fault["pointer"] for fault in problem(answer, 400, "invalid_request")["errors"]} == pointers
    found = eye.execute("select from payments.customers where customer_id = %s", (customer_id,)).fetchone()
    assert found is None


def test_a_customer_is_named_by_a_uuid(shop: httpx.Client) -> None:
    body = '{"processorCustomer": "cus_1", "paymentMethod": "pm_1"}'
    found = problem(send(shop, "/customers/me/payment-method", body, "PUT"), 400, "invalid_parameter")
    assert found["errors"][0]["pointer"] == "path:customerId"
    problem(send(shop, f"/customers/{CART}/payment-method", "", "PUT"), 400, "malformed_json")
    problem(shop.put(f"/customers/{CART}/payment-method", content=body), 415, "unsupported_media_type")


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("refunds", {"reason": CARD}),
        ("refunds", {"reason": "card 4242 4242 4242 4242, please"}),
        ("refunds", {"reason": "4242-4242-4242-4242"}),
        ("refunds", {CARD: 1}),
        ("capture", {"orderId": CARD}),
        ("void", {"note": [CARD]}),
    ],
)
def test_a_card_number_is_refused_and_never_repeated(
    shop: httpx.Client, api: ApiProcess, held: str, path: str, body: dict[str, Any]
) -> None:
    answer = send(shop, f"/payments/{held}/{path}", json.dumps(body))
    problem(answer, 400, "card_number_not_allowed")
    saved = send(shop, f"/customers/{CART}/payment-method", json.dumps({"paymentMethod": f"pm_{CARD}"}), "PUT")
    problem(saved, 400, "card_number_not_allowed")
    for text in (answer.text, saved.text, api.settled_log()):
        assert re.search(r"4242\D{0,2}4242", text) is None


@pytest.mark.parametrize("what", ALL)
def test_a_body_says_that_it_is_json_and_none_need_not(shop: httpx.Client, held: str, what: str) -> None:
    address = f"/payments/{held}/{what}"
    problem(shop.post(address, content="amount=5"), 415, "unsupported_media_type")
    problem(shop.post(address, data={"amount": "5"}), 415, "unsupported_media_type")
    problem(send(shop, address, b"{" + b" " * 70_000), 413, "body_too_large")
    problem(shop.post(f"{address}?amount=5"), 400, "invalid_parameter")
    problem(shop.post(address, headers={"Idempotency-Key": "two words"}), 400, "invalid_idempotency_key")
    # Asked in vain of a payment that does not exist: the empty body was no obstacle.
    problem(shop.post(f"/payments/{uuid.uuid4()}/{what}"), 404, "payment_not_found")


@pytest.mark.parametrize("what", ALL)
def test_nothing_is_refused_for_want_of_what_a_backup_may_have_lost(
    shop: httpx.Client, eye: psycopg.Connection[Any], held: str, what: str
) -> None:
    eye.execute("update payments.cluster set stripe_unlisted_since = now()")
    try:
        problem(shop.post(f"/payments/{uuid.uuid4()}/{what}"), 503, "catching_up")
        problem(shop.post(f"/payments/{held}/refunds"), 503, "catching_up")
    finally:
        eye.execute("update payments.cluster set stripe_unlisted_since = null")
    problem(shop.post(f"/payments/{held}/refunds"), 409, "not_refundable")


STATES = (
    "REQUESTED", "ACTION_REQUIRED", "PROCESSING", "AUTHORIZED", "CAPTURING", "VOIDING", "SUCCEEDED", "FAILED", "VOIDED",
    "EXPIRED", "CONFLICTED",
)  # fmt: skip
REFUSED = {
    "capture": set(STATES) - {"AUTHORIZED", "CAPTURING"},
    "void": {"CAPTURING", "SUCCEEDED", "FAILED", "EXPIRED", "CONFLICTED"},
    "refunds": set(STATES) - {"SUCCEEDED"},
}
CODES = {"capture": "not_capturable", "void": "not_voidable", "refunds": "not_refundable"}
HINTS = {("void", "SUCCEEDED"): "refund", ("refunds", "AUTHORIZED"): "void", ("capture", "SUCCEEDED"): "automatic"}


@pytest.mark.parametrize("status", STATES)
@pytest.mark.parametrize("what", ALL)
def test_a_wish_in_the_wrong_state_is_409_and_leaves_nothing(
    shop: httpx.Client, eye: psycopg.Connection[Any], what: str, status: str
) -> None:
    payment_id = payment_in(shop, eye, status)
    before = columns_of(eye, payment_id, "status", "version"), effects_of(eye, payment_id)
    answer = shop.post(f"/payments/{payment_id}/{what}", headers=new_key())
    if status not in REFUSED[what]:
        assert answer.is_success
        return
    found = problem(answer, 409, CODES[what])
    assert (found["paymentId"], HINTS.get((what, status), "") in found["detail"]) == (payment_id, True)
    assert (columns_of(eye, payment_id, "status", "version"), effects_of(eye, payment_id)) == before


def test_more_than_the_hold_is_not_captured(shop: httpx.Client, held: str) -> None:
    found = problem(shop.post(f"/payments/{held}/capture", json={"amount": 1001}), 409, "amount_exceeds_authorized")
    assert "1000 EUR" in found["detail"]


def test_what_a_currency_cannot_count_is_refused(shop: httpx.Client, eye: psycopg.Connection[Any]) -> None:
    payment_id = payment_in(shop, eye, "AUTHORIZED", currency="KWD", amount=10_000)
    found = problem(shop.post(f"/payments/{payment_id}/capture", json={"amount": 9_995}), 400, "invalid_request")
    assert found["errors"][0]["pointer"] == "/amount"
    assert shop.post(f"/payments/{payment_id}/capture", json={"amount": 9_990}).status_code == 202


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=40),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=8,
)
fields = st.sampled_from(["amount", "orderId", "reason", "processorCustomer", "paymentMethod", "x"])


def refusal_of(parse: Callable[[bytes], object], body: bytes) -> Refusal | None:
    try:
        parse(body)
    except Refusal as refusal:
        return refusal
    return None


@given(st.dictionaries(fields, json_values, max_size=3))
@example({"reason": "\ud800"})
def test_any_body_is_a_wish_or_a_refusal_that_can_be_sent(body: dict[str, Any]) -> None:
    for parse in (parse_capture, parse_void, parse_refund, parse_saved_method):
        refusal = refusal_of(parse, json.dumps(body).encode())
        assert refusal is None or msgspec.json.encode(refusal.problem)


@given(
    amount=st.none() | st.integers(1, 99_999_999),
    order_id=st.none() | st.uuids(),
    reason=st.none()
    | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), min_size=1, max_size=500).filter(
        lambda text: text != "compensation" and not find_card_number(text)
    ),
)
def test_a_right_body_is_understood_as_it_was_meant(
    amount: int | None, order_id: uuid.UUID | None, reason: str | None
) -> None:
    def body(**said: Any) -> bytes:
        return json.dumps({name: value for name, value in said.items() if value is not None}).encode()

    assert parse_capture(body(amount=amount, orderId=order_id and str(order_id))) == CaptureWish(
        amount=amount, order_id=order_id
    )
    assert parse_refund(body(amount=amount, reason=reason)) == RefundWish(amount=amount, reason=reason)
    assert set(SCHEMAS["CapturePayment"]["properties"]) == {"amount", "orderId"}
    assert set(SCHEMAS["RefundPayment"]["properties"]) == {"amount", "reason"}
