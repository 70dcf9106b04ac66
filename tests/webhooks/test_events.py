"""Bodies that are signed: an event is read strictly, and what PostgreSQL could not hold is made fit for it."""

import contextlib
import json
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from payments.webhooks.events import DEPTH_MAX, MalformedEvent, read_received
from tests.domain.stripe_objects import event, intent

PAYMENT = UUID("01890000-0000-7000-8000-000000000001")


def body(**fields: Any) -> bytes:
    return json.dumps({**event("payment_intent.succeeded", intent(PAYMENT, "succeeded")), **fields}).encode()


def nested(depth: int) -> bytes:
    return b'{"id":"evt_1","type":"x","data":{"object":{"a":' + b"[" * depth + b"]" * depth + b"}}}"


def test_event_is_read() -> None:
    received = read_received(body(id="evt_1"))
    assert (received.event_id, received.event_type, received.payment_id) == (
        "evt_1",
        "payment_intent.succeeded",
        PAYMENT,
    )
    assert json.loads(received.payload) == json.loads(body(id="evt_1")) | {"data": json.loads(received.payload)["data"]}


def test_event_of_something_foreign_names_no_payment() -> None:
    assert read_received(body(data={"object": {"metadata": {"paymentId": "17"}}})).payment_id is None


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"null",
        b"[]",
        b"1",
        b'"event"',
        b"{}",
        b"{",
        body()[:-1],
        body() + b"x",
        body().decode().encode("utf-16"),
        b"\xef\xbb\xbf" + body(),
        b"\xff" + body(),
        body(id=None),
        body(id="ch_1"),
        body(id="evt_"),
        body(id="evt_ä"),
        body(id="evt_1\n"),
        body(id="evt_1\x00"),
        body(id="evt_" + "x" * 252),
        body(type=None),
        body(type=""),
        body(type=7),
        body(type="x" * 256),
        body(data=None),
        body(data=[]),
        body(data={}),
        body(data={"object": None}),
        body(data={"object": []}),
        body(created=float("nan")),
        body(created=float("inf")),
        body().replace(b'"amount": 1000', b'"amount": 1e400000'),
        body().replace(b'"amount": 1000', b'"amount": ' + b"9" * 5_000),
        nested(DEPTH_MAX + 1),
        nested(100_000),
    ],
)
def test_body_that_is_no_event_is_malformed(text: bytes) -> None:
    with pytest.raises(MalformedEvent):
        read_received(text)


def test_longest_id_and_deepest_nesting_are_read() -> None:
    assert read_received(body(id="evt_" + "x" * 251)).event_id.endswith("x")
    assert read_received(nested(DEPTH_MAX - 4)).event_id == "evt_1"


def test_nul_and_lone_surrogates_are_replaced_and_pairs_are_kept() -> None:
    thing = {"a\x00": "b\x00c", "d": "\ud800", "e": "\udc00\ud800", "smile": "😀"}
    payload = json.loads(read_received(body(data={"object": thing})).payload)
    assert payload["data"]["object"] == {"a\ufffd": "b\ufffdc", "d": "\ufffd", "e": "\ufffd\ufffd", "smile": "😀"}


JUNK: Any = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=20,
)


@given(st.binary(max_size=200) | JUNK.map(lambda value: json.dumps(value).encode()))
def test_no_body_raises_anything_else(text: bytes) -> None:
    with contextlib.suppress(MalformedEvent):
        assert read_received(text).event_id.startswith("evt_")


@given(JUNK)
def test_what_is_kept_is_json_without_what_postgresql_refuses(junk: Any) -> None:
    try:
        payload = read_received(body(data={"object": {"junk": junk}})).payload
    except MalformedEvent:
        return
    assert b"\\u0000" not in payload
    json.loads(payload)["data"]["object"]["junk"]
    payload.decode().encode("utf-8")
