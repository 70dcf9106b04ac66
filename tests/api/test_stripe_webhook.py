"""The webhook's route: 200 only for what Stripe signed and we have kept."""

import hmac
import json
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256

import httpx
import psycopg
import pytest

from tests.api.driving import WEBHOOK_SECRET, ApiProcess
from tests.conftest import wait_until
from tests.postgres_faults.missing_standby import cancel_waits, missing_standby


def event(characters: int = 0) -> bytes:
    identifier = f"evt_{uuid.uuid4().hex}"
    return json.dumps(
        {
            "id": identifier,
            "type": "payment_intent.succeeded",
            "data": {"object": {"id": "pi_1", "object": "payment_intent", "description": "x" * characters}},
        }
    ).encode()


def signed(body: bytes, secret: str = WEBHOOK_SECRET) -> dict[str, str]:
    now = str(int(time.time()))
    signature = hmac.new(secret.encode(), f"{now}.".encode() + body, sha256).hexdigest()
    return {"Stripe-Signature": f"t={now},v1={signature}", "Content-Type": "application/json; charset=utf-8"}


def deliver(api: ApiProcess, body: bytes, headers: dict[str, str]) -> httpx.Response:
    return httpx.post(f"{api.url}/webhooks/stripe", content=body, headers=headers)


def kept(api: ApiProcess, body: bytes) -> int:
    with api.database.connect() as conn:
        sql = "select count(*) from payments.inbox where source = 'stripe-webhook' and message_id = %s"
        row = conn.execute(sql, (json.loads(body)["id"],)).fetchone()
    assert row is not None
    return int(row[0])


def test_a_signed_event_is_kept_once_and_announced(api: ApiProcess) -> None:
    body = event()
    with psycopg.connect(api.database.admin_dsn(), autocommit=True) as listener:
        listener.execute("listen payments_inbox")
        answers = [deliver(api, body, signed(body)) for _ in range(3)]
        assert next(iter(listener.notifies(timeout=10, stop_after=1))).channel == "payments_inbox"
    assert [(answer.status_code, answer.json()) for answer in answers] == [(200, {"received": True})] * 3
    assert kept(api, body) == 1


def test_an_event_may_be_larger_than_what_callers_send(api: ApiProcess) -> None:
    body = event(200_000)
    assert deliver(api, body, signed(body)).status_code == 200
    assert kept(api, body) == 1


def test_an_event_whose_commit_is_in_doubt_is_asked_for_again(api: ApiProcess) -> None:
    """A 200 would be the last that Stripe tells of it."""
    body = event()
    with missing_standby(api.database), ThreadPoolExecutor(1) as thread:
        delivery = thread.submit(deliver, api, body, signed(body))
        wait_until(lambda: cancel_waits(api.database, "payments_api") > 0)
        answer = delivery.result()
    assert (answer.status_code, answer.json()["code"]) == (503, "database_unavailable")
    assert deliver(api, body, signed(body)).status_code == 200
    assert kept(api, body) == 1


@pytest.mark.parametrize(
    "headers",
    [{}, {"Stripe-Signature": ""}, {"Stripe-Signature": "t=1,v1=00"}, {"Stripe-Signature": "\x80"}],
)
def test_an_unsigned_event_is_refused(api: ApiProcess, headers: dict[str, str]) -> None:
    body = event()
    latin = {name: value.encode("latin-1") for name, value in headers.items()}
    answer = httpx.post(f"{api.url}/webhooks/stripe", content=body, headers=latin)
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_signature")
    assert kept(api, body) == 0


def test_an_event_signed_by_another_is_refused(api: ApiProcess) -> None:
    body = event()
    assert deliver(api, body, signed(body, "whsec_wrong")).json()["code"] == "invalid_signature"
    assert deliver(api, body + b" ", signed(body)).json()["code"] == "invalid_signature"
    assert kept(api, body) == 0


def test_an_event_with_two_signature_headers_is_refused(api: ApiProcess) -> None:
    """Whoever stands between must not choose which of them counts."""
    body = event()
    right = signed(body)["Stripe-Signature"]
    for other in (right, "t=1,v1=00"):
        for both in ([right, other], [other, right]):
            headers = [("Stripe-Signature", each) for each in both]
            answer = httpx.post(f"{api.url}/webhooks/stripe", content=body, headers=headers)
            assert (answer.status_code, answer.json()["code"]) == (400, "invalid_signature")
    assert kept(api, body) == 0


@pytest.mark.parametrize("body", [b"{}", b"[]", b"nonsense", b"\xff", b"[" * 50_000])
def test_a_signed_body_that_is_no_event_is_refused(api: ApiProcess, body: bytes) -> None:
    answer = deliver(api, body, signed(body))
    assert (answer.status_code, answer.json()["code"]) == (400, "malformed_event")


def test_an_event_above_the_limit_is_413(api: ApiProcess) -> None:
    body = b" " * 524_289
    answer = deliver(api, body, signed(body))
    assert (answer.status_code, answer.json()["code"]) == (413, "body_too_large")
