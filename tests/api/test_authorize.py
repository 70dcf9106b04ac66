"""Authorizing: what is answered, what is recorded, and what a repetition gets."""

import re
import uuid
from typing import Any

import httpx
import jsonschema_rs
import msgspec
import psycopg
import pytest

from payments.api.schemas import Payment
from tests.api.driving import ApiProcess, count_rows, make_key, settle, wish

REQUESTED_SCHEMA = {
    "type": "object",
    "properties": {
        "paymentId": {"type": "string", "format": "uuid"},
        "orderId": {"type": "string", "format": "uuid"},
        "customerId": {"type": "string", "format": "uuid"},
        "amount": {"type": "integer", "minimum": 0},
        "currency": {"type": "string", "pattern": "^[A-Z]{3}$"},
        "requestedAt": {"type": "string", "format": "date-time"},
    },
    "required": ["paymentId", "orderId", "amount", "currency", "requestedAt"],
}


def authorize(shop: httpx.Client, body: dict[str, Any], key: str | None = None, **headers: str) -> httpx.Response:
    return shop.post("/payments/authorize", json=body, headers=({"Idempotency-Key": key} if key else {}) | headers)


def row(api: ApiProcess, sql: str, *values: object) -> tuple[Any, ...]:
    with api.database.connect() as conn:
        found = conn.execute(sql, values).fetchone()  # type: ignore[arg-type]
    assert found is not None
    return found  # type: ignore[no-any-return]


def test_authorize_answers_201_with_the_payment_and_its_place(shop: httpx.Client) -> None:
    body = wish(captureMethod="manual", customerId=str(uuid.uuid4()), orderId=str(uuid.uuid4()))
    answer = authorize(shop, body)
    assert answer.status_code == 201
    payment = msgspec.json.decode(answer.content, type=Payment)
    assert answer.headers["location"] == f"/payments/{payment.payment_id}"
    assert payment.payment_id.version == 7
    shown = answer.json()
    assert shown | body == shown
    assert (payment.status, payment.amount_authorized, payment.version) == ("REQUESTED", 0, 1)
    assert (payment.failure, payment.next_action, payment.disputed) == (None, None, False)


def test_authorize_lets_the_cart_stand_in_for_the_order(shop: httpx.Client) -> None:
    body = wish()
    assert authorize(shop, body).json()["orderId"] == body["cartId"]


def test_authorize_records_history_event_and_metadata_with_the_payment(shop: httpx.Client, api: ApiProcess) -> None:
    trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    body = wish(customerId=str(uuid.uuid4()), metadata={"basket": "Lübeck ✓"}, paymentMethod="pm_card_visa")
    payment_id = authorize(shop, body, traceparent=trace).json()["paymentId"]
    history = row(
        api,
        "select signal, source, from_status, to_status, decision from payments.payment_history where payment_id = %s",
        payment_id,
    )
    assert history == ("authorize-payment", "api", None, "REQUESTED", "applied")
    event_id, sequence, payload, headers, occurred_at = row(
        api,
        "select event_id, sequence, payload, headers, payments.rfc3339(occurred_at) "
        "from payments.outbox where aggregate_id = %s",
        payment_id,
    )
    assert sequence == 1
    assert payload == {
        "paymentId": payment_id,
        "orderId": body["cartId"],
        "customerId": body["customerId"],
        "amount": 1250,
        "currency": "EUR",
        "requestedAt": occurred_at,
    }
    jsonschema_rs.validate(REQUESTED_SCHEMA, payload)
    assert headers["ce-id"] == str(event_id)
    assert (headers["ce-type"], headers["ce-sequence"]) == ("payment-requested", "0000000001")
    assert (headers["ce-subject"], headers["x-pgmq-group"]) == (payment_id, payment_id)
    assert (headers["traceparent"], headers["ce-time"]) == (trace, occurred_at)
    kept = row(
        api, "select metadata, payment_method, client_id from payments.payments where payment_id = %s", payment_id
    )
    assert kept == ({"basket": "Lübeck ✓"}, "pm_card_visa", "shop")


def test_authorize_leaves_absent_things_out_and_begins_a_trace(shop: httpx.Client, api: ApiProcess) -> None:
    payment_id = authorize(shop, wish(), traceparent="00-zz-1-01").json()["paymentId"]
    payload, headers = row(api, "select payload, headers from payments.outbox where aggregate_id = %s", payment_id)
    assert "customerId" not in payload
    assert re.fullmatch("00-[0-9a-f]{32}-[0-9a-f]{16}-00", headers["traceparent"])


def test_same_key_and_body_gets_the_same_bytes_even_when_the_payment_moved_on(
    shop: httpx.Client, api: ApiProcess
) -> None:
    body, key = wish(), str(uuid.uuid4())
    first = authorize(shop, body, key)
    with api.database.connect() as conn:
        settle(conn, first.json()["paymentId"], "SUCCEEDED")
    before = count_rows(api.database)
    again = authorize(shop, dict(reversed(body.items())), f'"{key}"')
    assert (again.status_code, again.content) == (201, first.content)
    assert again.headers["location"] == first.headers["location"]
    assert again.headers["idempotency-replayed"] == "true"
    assert "idempotency-replayed" not in first.headers
    assert count_rows(api.database) == before


def test_the_relay_is_told_of_a_new_payment_after_its_commit(shop: httpx.Client, api: ApiProcess) -> None:
    with psycopg.connect(api.database.admin_dsn(), autocommit=True) as listener:
        listener.execute("listen payments_outbox")
        payment_id = authorize(shop, wish()).json()["paymentId"]
        assert next(iter(listener.notifies(timeout=10, stop_after=1))).channel == "payments_outbox"
        events = listener.execute("select from payments.outbox where aggregate_id = %s", (payment_id,)).fetchall()
    assert len(events) == 1


def test_defaults_spelled_out_are_the_same_request(shop: httpx.Client) -> None:
    body, key = wish(), str(uuid.uuid4())
    first = authorize(shop, body, key)
    spelled = body | {"captureMethod": "automatic", "metadata": {}, "orderId": body["cartId"].upper()}
    assert authorize(shop, spelled, key).content == first.content


@pytest.mark.parametrize(
    "change",
    [{"amount": 1251}, {"captureMethod": "manual"}, {"metadata": {"a": "b"}}, {"cartId": str(uuid.UUID(int=7))}],
)
def test_same_key_and_another_body_is_422(shop: httpx.Client, api: ApiProcess, change: dict[str, Any]) -> None:
    body, key = wish(), str(uuid.uuid4())
    authorize(shop, body, key)
    before = count_rows(api.database)
    again = authorize(shop, body | change, key)
    assert (again.status_code, again.json()["code"]) == (422, "idempotency_key_reused")
    assert count_rows(api.database) == before


def test_an_idempotency_key_belongs_to_the_client_and_survives_its_api_key(api: ApiProcess, shop: httpx.Client) -> None:
    key, mine, theirs = str(uuid.uuid4()), wish(), wish()
    first = authorize(shop, mine, key)
    with api.client(make_key(api.database, "other", ["payments:write"])) as other:
        others = authorize(other, theirs, key)
        assert others.json()["paymentId"] != first.json()["paymentId"]
        assert authorize(other, theirs, key).content == others.content
        assert authorize(shop, mine, key).content == first.content
    with api.client(make_key(api.database, "shop", ["payments:write"])) as rotated:
        assert authorize(rotated, mine, key).content == first.content


def test_a_cart_that_another_client_pays_is_409_even_under_the_same_key(api: ApiProcess, shop: httpx.Client) -> None:
    """Word for word the same, and yet no repetition: the answer kept is the other client's."""
    key, body = str(uuid.uuid4()), wish()
    payment_id = authorize(shop, body, key).json()["paymentId"]
    with api.client(make_key(api.database, "other", ["payments:write"])) as other:
        answer = authorize(other, body, key)
    assert (answer.status_code, answer.json()["code"]) == (409, "cart_has_live_payment")
    assert answer.json()["paymentId"] == payment_id


def test_same_cart_and_another_key_is_409_naming_the_payment(shop: httpx.Client) -> None:
    body = wish()
    payment_id = authorize(shop, body, str(uuid.uuid4())).json()["paymentId"]
    again = authorize(shop, body, str(uuid.uuid4()))
    assert (again.status_code, again.json()["code"]) == (409, "cart_has_live_payment")
    assert (again.json()["paymentId"], again.json()["retryable"]) == (payment_id, False)


def test_same_cart_and_body_without_key_gets_the_live_payment_as_it_stands(shop: httpx.Client, api: ApiProcess) -> None:
    body = wish()
    first = authorize(shop, body)
    with api.database.connect() as conn:
        settle(conn, first.json()["paymentId"], "SUCCEEDED")
    again = authorize(shop, body)
    assert (again.status_code, again.json()["status"]) == (200, "SUCCEEDED")
    assert again.headers["location"] == first.headers["location"]


def test_same_cart_and_another_body_without_key_is_409(shop: httpx.Client) -> None:
    body = wish()
    payment_id = authorize(shop, body).json()["paymentId"]
    again = authorize(shop, body | {"amount": 9999})
    assert (again.status_code, again.json()["paymentId"]) == (409, payment_id)


@pytest.mark.parametrize("with_key", [True, False])
def test_a_cart_whose_payment_failed_may_try_again(shop: httpx.Client, api: ApiProcess, *, with_key: bool) -> None:
    body = wish()
    first = authorize(shop, body, str(uuid.uuid4()) if with_key else None).json()["paymentId"]
    with api.database.connect() as conn:
        settle(conn, first, "FAILED")
    second = authorize(shop, body, str(uuid.uuid4()) if with_key else None)
    assert second.status_code == 201
    assert second.json()["paymentId"] != first


def test_a_cart_whose_payment_is_in_conflict_takes_no_other(shop: httpx.Client, api: ApiProcess) -> None:
    body = wish()
    payment_id = authorize(shop, body).json()["paymentId"]
    with api.database.connect() as conn:
        settle(conn, payment_id, "CONFLICTED")
    for key in (None, str(uuid.uuid4())):
        again = authorize(shop, body | {"amount": 1251}, key)
        assert (again.status_code, again.json().get("paymentId")) == (409, payment_id)


def test_a_key_past_its_retention_still_does_not_charge_twice(shop: httpx.Client, api: ApiProcess) -> None:
    body, key = wish(), str(uuid.uuid4())
    first = authorize(shop, body, key)
    with api.database.connect() as conn:
        conn.execute("delete from payments.idempotency_keys where idempotency_key = %s", (key,))
        settle(conn, first.json()["paymentId"], "FAILED")
    again = authorize(shop, body, key)
    assert (again.status_code, again.json()["paymentId"]) == (201, first.json()["paymentId"])
    assert again.json()["status"] == "FAILED"
    assert authorize(shop, body | {"amount": 77}, key).status_code == 422


def test_a_key_used_for_another_kind_of_request_is_422(shop: httpx.Client, api: ApiProcess) -> None:
    key = str(uuid.uuid4())
    with api.database.connect() as conn:
        conn.execute(
            "insert into payments.idempotency_keys (client_id, idempotency_key, fingerprint, response_status) "
            "values ('shop', %s, sha256('a refund'), 201)",
            (key,),
        )
    before = count_rows(api.database)
    assert authorize(shop, wish(), key).json()["code"] == "idempotency_key_reused"
    assert count_rows(api.database) == before


def test_every_wish_that_the_neighbours_agreed_on_is_taken(shop: httpx.Client) -> None:
    for body in (wish(), wish(customerId=str(uuid.uuid4())), wish(cartId="42424242-4242-4242-4242-424242424242")):
        assert authorize(shop, body).status_code == 201
