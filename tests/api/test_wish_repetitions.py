"""The same wish again under its Idempotency-Key, and callers who wait for what becomes of it."""

import threading
import time
import uuid
from collections.abc import Callable
from typing import Any

import httpx
import psycopg
import pytest

from tests.api.driving import ApiProcess, announce, make_key, settle, wish
from tests.api.refusals import problem
from tests.api.staging import effects_of, new_key, payment_in

WISHES = {"capture": "AUTHORIZED", "void": "AUTHORIZED", "refunds": "SUCCEEDED"}
BODIES: dict[str, dict[str, Any]] = {"capture": {"amount": 600}, "void": {}, "refunds": {"amount": 600, "reason": "x"}}
EFFECTS = {
    "capture": {"capture-requested": 1, "idempotency_keys": 1},
    "void": {"void-requested": 1, "idempotency_keys": 1},
    "refunds": {"refund-requested": 1, "refunds": 1, "idempotency_keys": 1},
}
AT_ONCE_S = 10  # far below the wait, far above what a busy machine needs


@pytest.fixture(params=WISHES)
def what(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_the_same_key_and_body_get_the_same_bytes(shop: httpx.Client, eye: psycopg.Connection[Any], what: str) -> None:
    payment_id, key = payment_in(shop, eye, WISHES[what]), new_key()
    address, body = f"/payments/{payment_id}/{what}", BODIES[what]
    first = shop.post(address, json=body, headers=key)
    assert "idempotency-replayed" not in first.headers
    if what == "capture":
        settle(eye, payment_id, "SUCCEEDED")
    again = shop.post(
        address.upper().replace("PAYMENTS", "payments").replace(what.upper(), what), json=body, headers=key
    )
    assert (again.status_code, again.content) == (first.status_code, first.content)
    assert again.headers["idempotency-replayed"] == "true"
    assert again.headers.get("location") == first.headers.get("location")
    assert effects_of(eye, payment_id) == EFFECTS[what]


def test_the_same_key_with_another_body_or_path_is_422(
    shop: httpx.Client, eye: psycopg.Connection[Any], what: str
) -> None:
    payment_id, other_id, key = payment_in(shop, eye, WISHES[what]), payment_in(shop, eye, WISHES[what]), new_key()
    assert shop.post(f"/payments/{payment_id}/{what}", json=BODIES[what], headers=key).is_success
    answers = [
        shop.post(f"/payments/{payment_id}/capture", json={"amount": 599}, headers=key),
        shop.post(f"/payments/{payment_id}/refunds", json={"amount": 599}, headers=key),
        shop.post(f"/payments/{other_id}/{what}", json=BODIES[what], headers=key),
        shop.post("/payments/authorize", json=wish(), headers=key),
    ]
    for answer in answers:
        problem(answer, 422, "idempotency_key_reused")
    assert effects_of(eye, payment_id) == EFFECTS[what]
    assert effects_of(eye, other_id) == {}


def test_a_key_of_authorize_is_no_key_of_a_wish(shop: httpx.Client, eye: psycopg.Connection[Any], what: str) -> None:
    key = new_key()
    shop.post("/payments/authorize", json=wish(), headers=key)
    payment_id = payment_in(shop, eye, WISHES[what])
    problem(shop.post(f"/payments/{payment_id}/{what}", headers=key), 422, "idempotency_key_reused")


def test_keys_belong_to_their_client(api: ApiProcess, shop: httpx.Client, eye: psycopg.Connection[Any]) -> None:
    payment_id, key = payment_in(shop, eye, "SUCCEEDED"), new_key()
    address, body = f"/payments/{payment_id}/refunds", {"amount": 100}
    mine = shop.post(address, json=body, headers=key)
    with api.client(make_key(api.database, "another", ["refunds:write"])) as another:
        theirs = another.post(address, json=body, headers=key)
    with api.client(make_key(api.database, "shop", ["refunds:write"])) as rotated:
        again = rotated.post(address, json=body, headers=key)
    assert theirs.json()["refundId"] != mine.json()["refundId"]
    assert again.content == mine.content


def test_after_a_refusal_a_key_is_as_good_as_new(shop: httpx.Client, eye: psycopg.Connection[Any], what: str) -> None:
    payment_id, key = payment_in(shop, eye, "REQUESTED", captureMethod="manual"), new_key()
    address = f"/payments/{payment_id}/{what}"
    if what != "void":
        assert shop.post(address, json=BODIES[what], headers=key).status_code == 409
        settle(eye, payment_id, "AUTHORIZED")
    if what == "refunds":
        settle(eye, payment_id, "SUCCEEDED")
    answer = shop.post(address, json=BODIES[what], headers=key)
    assert answer.is_success
    assert "idempotency-replayed" not in answer.headers


@pytest.mark.parametrize("wished", ["capture", "void"])
def test_a_wish_that_was_there_before_is_answered_and_kept_under_its_own_key(
    shop: httpx.Client, eye: psycopg.Connection[Any], wished: str
) -> None:
    payment_id, key = payment_in(shop, eye, "AUTHORIZED"), new_key()
    address = f"/payments/{payment_id}/{wished}"
    first = shop.post(address)
    second = shop.post(address, headers=key)
    assert (second.status_code, second.json()) == (202, first.json())
    settle(eye, payment_id, {"capture": "SUCCEEDED", "void": "VOIDED"}[wished])
    third = shop.post(address, headers=key)
    assert (third.content, third.headers["idempotency-replayed"]) == (second.content, "true")
    assert effects_of(eye, payment_id) == {f"{wished}-requested": 1, "idempotency_keys": 1}


def later(api: ApiProcess, act: Callable[[psycopg.Connection[Any]], str], *, notify: bool) -> None:
    """Settles something from another thread, as soon as `act` finds it."""

    def run() -> None:
        with api.database.connect() as conn:
            time.sleep(0.2)
            settled = act(conn)
            if notify:
                announce(conn, settled)

    threading.Thread(target=run).start()


def settling(payment_id: str, passing: str, status: str) -> Callable[[psycopg.Connection[Any]], str]:
    def act(conn: psycopg.Connection[Any]) -> str:
        for _ in range(300):
            row = conn.execute("select status from payments.payments where payment_id = %s", (payment_id,)).fetchone()
            if row == (passing,):
                settle(conn, payment_id, status)
                return payment_id
            time.sleep(0.02)
        raise AssertionError(f"the payment never became {passing}")

    return act


@pytest.mark.parametrize("notify", [True, False])
@pytest.mark.parametrize(
    ("wished", "passing", "status"),
    [
        ("capture", "CAPTURING", "SUCCEEDED"),
        ("capture", "CAPTURING", "AUTHORIZED"),
        ("void", "VOIDING", "VOIDED"),
        ("void", "VOIDING", "FAILED"),
    ],
)
def test_capture_and_void_wait_for_what_becomes_of_the_payment(  # noqa: PLR0917 - what is asked, and what comes
    shop: httpx.Client,
    api: ApiProcess,
    eye: psycopg.Connection[Any],
    wished: str,
    passing: str,
    status: str,
    *,
    notify: bool,
) -> None:
    payment_id, began = payment_in(shop, eye, "AUTHORIZED"), time.monotonic()
    later(api, settling(payment_id, passing, status), notify=notify)
    answer = shop.post(f"/payments/{payment_id}/{wished}", headers={"Prefer": "wait=20"})
    assert time.monotonic() - began < AT_ONCE_S
    assert (answer.status_code, answer.json()["status"]) == (202, status)
    assert answer.headers["preference-applied"] == "wait=20"


@pytest.mark.parametrize("notify", [True, False])
@pytest.mark.parametrize("status", ["PENDING", "PROCESSED"])
def test_a_refund_waits_for_stripes_word(
    shop: httpx.Client, api: ApiProcess, eye: psycopg.Connection[Any], status: str, *, notify: bool
) -> None:
    payment_id, began, key = payment_in(shop, eye, "SUCCEEDED"), time.monotonic(), new_key()

    def act(conn: psycopg.Connection[Any]) -> str:
        for _ in range(300):
            row = conn.execute(
                "update payments.refunds set status = %s, processor_reference = %s where payment_id = %s "
                "and status = 'REQUESTED' returning refund_id",
                (status, f"re_{uuid.uuid4().hex}", payment_id),
            ).fetchone()
            if row is not None:
                return str(row[0])
            time.sleep(0.02)
        raise AssertionError("the refund never came")

    later(api, act, notify=notify)
    answer = shop.post(f"/payments/{payment_id}/refunds", headers=key | {"Prefer": "wait=20"})
    assert time.monotonic() - began < AT_ONCE_S
    assert (answer.status_code, answer.json()["status"]) == (201, status)
    assert answer.json() == shop.get(answer.headers["location"]).json()
    # A repetition is answered as the first was; one that waits, with the refund as it stands.
    plain = shop.post(f"/payments/{payment_id}/refunds", headers=key)
    assert (plain.json()["status"], plain.headers["idempotency-replayed"]) == ("REQUESTED", "true")
    waiting = shop.post(f"/payments/{payment_id}/refunds", headers=key | {"Prefer": "wait=20"})
    assert (waiting.json()["status"], waiting.headers["idempotency-replayed"]) == (status, "true")


def test_when_time_is_up_the_answer_is_as_things_stand(
    shop: httpx.Client, eye: psycopg.Connection[Any], what: str
) -> None:
    payment_id, began = payment_in(shop, eye, WISHES[what]), time.monotonic()
    answer = shop.post(f"/payments/{payment_id}/{what}", headers={"Prefer": "wait=1"})
    assert 1 <= time.monotonic() - began < AT_ONCE_S
    assert answer.is_success
    assert answer.json()["status"] in {"CAPTURING", "VOIDING", "REQUESTED"}
