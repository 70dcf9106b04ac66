"""The parser of wishes, against everything that Hypothesis can think of."""

import json
from typing import Any
from uuid import UUID

import jsonschema_rs
import msgspec
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from payments.api import schemas
from payments.api.authorize_body import AuthorizePayment, parse
from payments.api.idempotency import fingerprint, parse_key
from payments.api.openapi import document
from payments.api.problems import Refusal
from payments.domain.card_numbers import find_card_number
from payments.domain.money import AMOUNT_MAX, CURRENCIES, decide_amount_fault

AGREED = {  # authorize-payment.schema.json, as the Ordering domain knows it
    "type": "object",
    "properties": {
        "cartId": {"type": "string", "format": "uuid"},
        "customerId": {"type": "string", "format": "uuid"},
        "amount": {"type": "integer", "minimum": 0},
        "currency": {"type": "string", "pattern": "^[A-Z]{3}$"},
    },
    "required": ["cartId", "amount", "currency"],
}
OURS = jsonschema_rs.Draft202012Validator(
    {"$ref": "#/components/schemas/AuthorizePayment", "components": document()["components"]}, validate_formats=True
)

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=40),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=10), inner, max_size=5),
    max_leaves=20,
)
uuids = st.uuids().map(str) | st.uuids().map(lambda each: str(each).upper())
texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"))


@st.composite
def wishes(draw: st.DrawFn) -> dict[str, Any]:
    """Right bodies."""
    currency = draw(st.sampled_from(sorted(CURRENCIES)))
    minimum, step = CURRENCIES[currency]
    body = {
        "cartId": draw(uuids),
        "amount": draw(st.integers(-(-minimum // step), AMOUNT_MAX // step)) * step,
        "currency": currency,
    }
    optional: dict[str, st.SearchStrategy[Any]] = {
        "customerId": uuids,
        "orderId": uuids,
        "captureMethod": st.sampled_from(["automatic", "manual"]),
        "paymentMethod": st.from_regex(r"\Apm_[A-Za-z]{1,40}\Z"),
        "metadata": st.dictionaries(texts.filter(lambda key: 1 <= len(key) <= 40), texts, max_size=20),
    }
    for name in draw(st.sets(st.sampled_from(sorted(optional)))):
        body[name] = draw(optional[name])
    assume(not any(map(find_card_number, _texts(body))))
    return body


def _texts(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [text for pair in value.items() for each in pair for text in _texts(each)]
    return [str(value)]


def outcome(body: bytes) -> AuthorizePayment | Refusal:
    try:
        return parse(body)
    except Refusal as refusal:
        msgspec.json.encode(refusal.problem)  # whatever stood in the body, the answer can be sent
        return refusal


@given(st.binary(max_size=300))
@example(b"\xef\xbb\xbf")
@example(b'{"a": 1e400000}')
@example(b"-")
def test_parse_answers_any_bytes_with_a_refusal_or_a_wish(body: bytes) -> None:
    assert isinstance(outcome(body), AuthorizePayment | Refusal)


@given(json_values)
@example({"cartId": "\ud800", "\udfff": 1})
@example({"metadata": {"\x00": "\x00"}})
def test_parse_answers_any_json_with_a_refusal_or_a_wish(value: Any) -> None:
    assert isinstance(outcome(json.dumps(value).encode()), AuthorizePayment | Refusal)


@given(wishes(), st.sampled_from(["cartId", "amount", "currency", "customerId", "metadata", "new"]), json_values)
def test_parse_takes_a_changed_wish_only_if_the_page_says_it_may(body: dict[str, Any], name: str, value: Any) -> None:
    body[name] = value
    text = json.dumps(body)
    if isinstance(outcome(text.encode()), AuthorizePayment):
        assert OURS.is_valid(json.loads(text))


@given(wishes())
def test_parse_gives_a_right_wish_back_as_it_came(body: dict[str, Any]) -> None:
    wish = parse(json.dumps(body).encode())
    assert OURS.is_valid(body)
    assert (str(wish.cart_id), wish.amount, wish.currency) == (body["cartId"].lower(), body["amount"], body["currency"])
    assert str(wish.order_id) == body.get("orderId", body["cartId"]).lower()
    assert wish.customer_id == (UUID(body["customerId"]) if "customerId" in body else None)
    assert wish.capture_method == body.get("captureMethod", "automatic")
    assert wish.payment_method == body.get("paymentMethod")
    assert wish.metadata == body.get("metadata", {})
    assert type(wish.amount) is int
    msgspec.json.decode(json.dumps(body), type=schemas.AuthorizePayment)


@given(wishes())
def test_parse_takes_the_same_wish_however_it_is_written(body: dict[str, Any]) -> None:
    written = json.dumps(dict(reversed(body.items())), ensure_ascii=False, indent=3).encode()
    one, other = parse(json.dumps(body).encode()), parse(written)
    assert fingerprint("POST", "/x", one) == fingerprint("POST", "/x", other)


@given(wishes(), wishes())
def test_fingerprints_differ_for_different_wishes(one: dict[str, Any], other: dict[str, Any]) -> None:
    mine, theirs = (parse(json.dumps(body).encode()) for body in (one, other))
    assume(mine != theirs)
    assert fingerprint("POST", "/x", mine) != fingerprint("POST", "/x", theirs)
    assert fingerprint("POST", "/x", mine) != fingerprint("POST", "/y", mine)


@given(st.uuids(), st.integers(0, AMOUNT_MAX), st.sampled_from(sorted(CURRENCIES)), st.none() | st.uuids())
@example(UUID("42424242-4242-4242-4242-424242424242"), 100, "EUR", UUID("37828224-6310-0053-7828-224631000500"))
def test_parse_takes_what_the_neighbours_agreed_on_unless_a_business_rule_forbids_it(
    cart: UUID, amount: int, currency: str, customer: UUID | None
) -> None:
    body = {"cartId": str(cart), "amount": amount, "currency": currency} | (
        {"customerId": str(customer)} if customer else {}
    )
    jsonschema_rs.validate(AGREED, body)
    assert isinstance(outcome(json.dumps(body).encode()), AuthorizePayment) == (
        amount > 0 and decide_amount_fault(amount, currency) is None
    )


@given(st.binary(max_size=300))
@example(b'"a\\"b"')
def test_parse_key_answers_any_bytes_with_a_refusal_or_a_key(value: bytes) -> None:
    try:
        key = parse_key([(b"idempotency-key", value)])
    except Refusal:
        return
    assert key is not None
    assert key.isascii()
    assert 1 <= len(key) <= 255


@given(st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1, max_size=255))
def test_parse_key_takes_a_token_bare_and_quoted_alike(key: str) -> None:
    assume(not find_card_number(key))
    quoted = '"' + key.replace("\\", "\\\\").replace('"', '\\"') + '"'
    assert parse_key([(b"idempotency-key", quoted.encode())]) == key
    if not key.startswith('"'):
        assert parse_key([(b"idempotency-key", f" {key} ".encode())]) == key


@pytest.mark.parametrize(
    ("amount", "currency", "fault"),
    [
        (50, "EUR", None),
        (49, "EUR", "at least 50"),
        (AMOUNT_MAX, "USD", None),
        (AMOUNT_MAX + 1, "USD", "at most"),
        (5_120, "KWD", None),
        (5_124, "KWD", "multiple of 10"),
        (500, "ISK", None),
        (501, "ISK", "multiple of 100"),
        (1, "VND", None),
        (50, "JPY", None),
        (49, "JPY", "at least 50"),
    ],
)
def test_decide_amount_fault_follows_stripes_currency_page(amount: int, currency: str, fault: str | None) -> None:
    found = decide_amount_fault(amount, currency)
    assert found is None if fault is None else fault in (found or "")
