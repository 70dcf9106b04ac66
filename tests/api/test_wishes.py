"""Capture, void and refund: what is answered, what is written, and what is refused."""

import json
import uuid
from typing import Any

import httpx
import msgspec
import psycopg
import pytest

from payments.api.schemas import Refund, RefundList
from payments.outbox.events import decode
from tests.api.driving import ApiProcess, bearer, make_key, settle, wish
from tests.api.refusals import problem
from tests.api.staging import columns_of, events_of, history_of, payment_in


def test_capture_takes_the_whole_hold_when_nothing_is_said(shop: httpx.Client, eye: psycopg.Connection[Any]) -> None:
    payment_id = payment_in(shop, eye, "AUTHORIZED")
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    answer = shop.post(f"/payments/{payment_id}/capture", headers={"traceparent": trace})
    assert (answer.status_code, answer.json()["status"]) == (202, "CAPTURING")
    assert answer.json() == shop.get(f"/payments/{payment_id}").json()
    kind, sequence, payload, headers = events_of(eye, payment_id)[-1]
    assert (kind, sequence) == ("capture-requested", 2)
    capture_id, to_capture = columns_of(eye, payment_id, "capture_id", "amount_to_capture")
    assert (payload["captureId"], payload["amount"], to_capture) == (str(capture_id), 1000, 1000)
    assert decode(kind, json.dumps(payload).encode()).payment_id == uuid.UUID(payment_id)
    assert (headers["traceparent"], headers["ce-sequence"], headers["ce-type"]) == (trace, "0000000002", kind)
    assert history_of(shop, payment_id)[-1] == ("capture-payment", "applied", "AUTHORIZED", "CAPTURING")


def test_capture_of_a_part_names_the_order(shop: httpx.Client, eye: psycopg.Connection[Any]) -> None:
    payment_id, order_id = payment_in(shop, eye, "AUTHORIZED"), str(uuid.uuid4())
    answer = shop.post(f"/payments/{payment_id}/capture", json={"amount": 600, "orderId": order_id})
    assert (answer.status_code, answer.json()["orderId"]) == (202, order_id)
    payload = events_of(eye, payment_id)[-1][2]
    assert (payload["amount"], payload["orderId"], payload["currency"]) == (600, order_id, "EUR")


def test_void_of_a_hold_is_announced(shop: httpx.Client, eye: psycopg.Connection[Any]) -> None:
    payment_id = payment_in(shop, eye, "AUTHORIZED")
    answer = shop.post(f"/payments/{payment_id}/void", json={})
    assert (answer.status_code, answer.json()["status"]) == (202, "VOIDING")
    kind, sequence, payload, _ = events_of(eye, payment_id)[-1]
    assert (kind, sequence, payload["amount"]) == ("void-requested", 2, 1000)
    assert history_of(shop, payment_id)[-1] == ("void-payment", "applied", "AUTHORIZED", "VOIDING")


@pytest.mark.parametrize(
    ("what", "status"), [("capture", "AUTHORIZED"), ("void", "AUTHORIZED"), ("refunds", "SUCCEEDED")]
)
def test_the_relay_is_told_of_a_wish_after_its_commit(
    shop: httpx.Client, api: ApiProcess, eye: psycopg.Connection[Any], what: str, status: str
) -> None:
    payment_id = payment_in(shop, eye, status)
    with psycopg.connect(api.database.admin_dsn(), autocommit=True) as listener:
        listener.execute("listen payments_outbox")
        assert shop.post(f"/payments/{payment_id}/{what}").is_success
        assert next(iter(listener.notifies(timeout=10, stop_after=1))).channel == "payments_outbox"
    assert events_of(eye, payment_id)[-1][0].endswith("-requested")


def test_void_before_the_charge_is_found_by_the_worker(shop: httpx.Client, eye: psycopg.Connection[Any]) -> None:
    payment_id = payment_in(shop, eye, "REQUESTED")
    assert shop.post(f"/payments/{payment_id}/void").json()["status"] == "VOIDING"
    assert [event[0] for event in events_of(eye, payment_id)] == ["payment-requested"]
    assert columns_of(eye, payment_id, "last_sequence") == (1,)


def test_void_takes_the_clients_secret_away(shop: httpx.Client, eye: psycopg.Connection[Any]) -> None:
    payment_id = payment_in(shop, eye, "ACTION_REQUIRED")
    answer = shop.post(f"/payments/{payment_id}/void").json()
    assert (answer["status"], answer["nextAction"]) == ("VOIDING", None)


def test_refund_gives_back_what_is_left(shop: httpx.Client, eye: psycopg.Connection[Any]) -> None:
    payment_id = payment_in(shop, eye, "SUCCEEDED")
    first = shop.post(f"/payments/{payment_id}/refunds", json={"amount": 300, "reason": "too small"})
    assert (first.status_code, first.json()["amount"], first.json()["reason"]) == (201, 300, "too small")
    assert first.json()["status"] == "REQUESTED"
    assert first.headers["location"] == f"/refunds/{first.json()['refundId']}"
    assert shop.get(first.headers["location"]).json() == first.json()
    rest = shop.post(f"/payments/{payment_id}/refunds")
    assert (rest.status_code, rest.json()["amount"], rest.json()["reason"]) == (201, 700, None)
    assert shop.get(f"/payments/{payment_id}/refunds").json() == {"items": [first.json(), rest.json()]}
    kinds = [(kind, sequence) for kind, sequence, _, _ in events_of(eye, payment_id)]
    assert kinds == [("payment-requested", 1), ("refund-requested", 2), ("refund-requested", 3)]
    payload = events_of(eye, payment_id)[1][2]
    assert (payload["refundId"], payload["amount"], payload["reason"]) == (first.json()["refundId"], 300, "too small")
    assert "reason" not in events_of(eye, payment_id)[2][2]
    assert decode("refund-requested", json.dumps(payload).encode()).payment_id == uuid.UUID(payment_id)
    assert columns_of(eye, payment_id, "amount_reserved", "amount_refunded", "last_sequence") == (1000, 0, 3)
    assert history_of(shop, payment_id)[-1] == ("refund-payment", "applied", "SUCCEEDED", "SUCCEEDED")
    over = shop.post(f"/payments/{payment_id}/refunds", json={"amount": 1})
    assert problem(over, 409, "amount_exceeds_captured")["paymentId"] == payment_id
    problem(shop.post(f"/payments/{payment_id}/refunds"), 409, "amount_exceeds_captured")


def test_two_equal_refunds_without_a_key_are_two(shop: httpx.Client, eye: psycopg.Connection[Any]) -> None:
    payment_id = payment_in(shop, eye, "SUCCEEDED")
    answers = [shop.post(f"/payments/{payment_id}/refunds", json={"amount": 400}) for _ in range(2)]
    assert len({answer.json()["refundId"] for answer in answers}) == 2


@pytest.mark.parametrize("status", ["CAPTURING", "SUCCEEDED"])
def test_the_same_capture_again_has_no_effect(shop: httpx.Client, eye: psycopg.Connection[Any], status: str) -> None:
    payment_id = payment_in(shop, eye, "AUTHORIZED")
    first = shop.post(f"/payments/{payment_id}/capture").json()
    if status == "SUCCEEDED":
        settle(eye, payment_id, "SUCCEEDED")
    before = columns_of(eye, payment_id, "version", "capture_id")
    again = shop.post(f"/payments/{payment_id}/capture", json={"amount": 1000})
    assert (again.status_code, again.json()["status"], first["status"]) == (202, status, "CAPTURING")
    assert columns_of(eye, payment_id, "version", "capture_id") == before
    other = shop.post(f"/payments/{payment_id}/capture", json={"amount": 999})
    problem(other, 409, "not_capturable")


def test_saved_payment_methods_are_charged(shop: httpx.Client, eye: psycopg.Connection[Any]) -> None:
    customer_id = str(uuid.uuid4())
    saved = {"processorCustomer": "cus_1", "paymentMethod": "pm_card_visa"}
    for _ in range(2):
        answer = shop.put(f"/customers/{customer_id}/payment-method", json=saved)
        assert (answer.status_code, answer.content) == (204, b"")
    methods = {}
    for named in (..., "pm_card_visa", "pm_card_mastercard"):
        body = wish(customerId=customer_id, paymentMethod=named)
        payment_id = shop.post("/payments/authorize", json=body).json()["paymentId"]
        methods[named] = columns_of(eye, payment_id, "payment_method", "processor_customer")
    assert methods == {
        ...: ("pm_card_visa", "cus_1"),
        "pm_card_visa": ("pm_card_visa", "cus_1"),
        "pm_card_mastercard": ("pm_card_mastercard", "cus_1"),
    }


def test_a_payment_method_is_saved_in_the_place_of_the_one_before(
    shop: httpx.Client, eye: psycopg.Connection[Any]
) -> None:
    customer_id = str(uuid.uuid4())
    for customer, method in (("cus_1", "pm_card_visa"), ("cus_2", "pm_card_mastercard")):
        saved = {"processorCustomer": customer, "paymentMethod": method}
        assert shop.put(f"/customers/{customer_id}/payment-method", json=saved).status_code == 204
        payment_id = shop.post("/payments/authorize", json=wish(customerId=customer_id)).json()["paymentId"]
        assert columns_of(eye, payment_id, "payment_method", "processor_customer") == (method, customer)


def test_refunds_need_their_own_scope(api: ApiProcess) -> None:
    path = f"/payments/{uuid.uuid4()}"
    with api.client(make_key(api.database, "writer", ["payments:write"])) as writer:
        problem(writer.post(f"{path}/refunds"), 403, "scope_missing")
        problem(writer.post(f"{path}/void"), 404, "payment_not_found")
    with api.client(make_key(api.database, "refunder", ["refunds:write"])) as refunder:
        problem(refunder.post(f"{path}/capture"), 403, "scope_missing")
        problem(refunder.post(f"{path}/refunds"), 404, "payment_not_found")
    assert httpx.post(f"{api.url}{path}/refunds", headers=bearer("pay_no")).status_code == 401


def test_refunds_are_read_as_the_page_says(shop: httpx.Client, eye: psycopg.Connection[Any]) -> None:
    payment_id = payment_in(shop, eye, "SUCCEEDED")
    assert shop.get(f"/payments/{payment_id}/refunds").json() == {"items": []}
    made = [shop.post(f"/payments/{payment_id}/refunds", json={"amount": 10}).json() for _ in range(3)]
    eye.execute(
        "update payments.refunds set status = 'FAILED', failure_reason = 'lost_or_stolen_card', "
        "processor_reference = 're_9' where refund_id = %s",
        (made[1]["refundId"],),
    )
    answer = shop.get(f"/payments/{payment_id}/refunds")
    found = msgspec.json.decode(answer.content, type=RefundList).items
    assert [str(item.refund_id) for item in found] == [item["refundId"] for item in made]
    assert [item.status for item in found] == ["REQUESTED", "FAILED", "REQUESTED"]
    failed = shop.get(f"/refunds/{made[1]['refundId'].upper()}")
    assert msgspec.json.decode(failed.content, type=Refund) == found[1]
    assert (found[1].failure_reason, found[1].processor_reference) == ("lost_or_stolen_card", "re_9")
    assert set(failed.json()) == {field.encode_name for field in msgspec.structs.fields(Refund)}


def test_what_is_not_there_is_404(shop: httpx.Client) -> None:
    for thing in (uuid.uuid4(), "x", "authorize"):
        problem(shop.get(f"/refunds/{thing}"), 404, "refund_not_found")
        problem(shop.get(f"/payments/{thing}/refunds"), 404, "payment_not_found")
        for what in ("capture", "void", "refunds"):
            problem(shop.post(f"/payments/{thing}/{what}"), 404, "payment_not_found")


@pytest.mark.parametrize(
    "path", ["/payments", "/payments/{}", "/payments/{}/history", "/payments/{}/refunds", "/schema"]
)
def test_head_is_answered_as_get_without_the_body(shop: httpx.Client, eye: psycopg.Connection[Any], path: str) -> None:
    address = path.format(payment_in(shop, eye, "REQUESTED"))
    got, headed = shop.get(address), shop.head(address)
    assert (headed.status_code, headed.content) == (200, b"")
    # In HTTP/1.1 a body sent all the same would be taken for the next answer.
    assert shop.get("/health/live").json() == {"status": "live"}
    for name in ("content-type", "content-length", "etag"):
        assert headed.headers.get(name) == got.headers.get(name)


def test_head_of_what_is_not_there_is_404_and_of_a_wish_405(shop: httpx.Client, api: ApiProcess) -> None:
    assert shop.head(f"/payments/{uuid.uuid4()}").status_code == 404
    answer = shop.head(f"/payments/{uuid.uuid4()}/void")
    assert (answer.status_code, set(answer.headers["allow"].split(", "))) == (405, {"POST", "OPTIONS"})
    assert '"method":"HEAD"' in api.settled_log()
