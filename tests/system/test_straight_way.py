"""The main job from outside: HTTP and SQL alone, with the names of the contract."""

import re
from collections.abc import Callable, Iterator
from typing import Any
from uuid import uuid4

import httpx
import pgmq
import pytest

from tests.conftest import wait_until
from tests.system.running import PROCESSES, System, payments_up


@pytest.fixture(scope="module")
def system() -> Iterator[System]:
    with payments_up() as running:
        yield running


def authorize(system: System, **changes: Any) -> httpx.Response:
    body = {"cartId": str(uuid4()), "amount": 1999, "currency": "EUR", "paymentMethod": "pm_card_visa"} | changes
    body = {name: value for name, value in body.items() if value is not None}
    return system.http.post("/payments/authorize", json=body, headers={"Prefer": "wait=20"})


def test_a_payment_goes_all_the_way(system: System, eventually: Callable[..., Any]) -> None:
    answer = authorize(system, metadata={"basket": "blue"})
    assert answer.status_code == 201
    assert answer.headers["Preference-Applied"].startswith("wait")
    payment = answer.json()
    assert answer.headers["Location"].endswith(f"/payments/{payment['paymentId']}")
    assert payment["status"] == "SUCCEEDED"
    assert payment["amountCaptured"] == payment["amountAuthorized"] == 1999
    assert re.fullmatch(r"ch_\w+", payment["processorReference"])

    (intent,) = system.intents_of(payment["paymentId"])
    assert (intent["amount_captured"], intent["currency"], intent["metadata"]["cartId"]) == (
        1999,
        "eur",
        payment["cartId"],
    )

    events = "select event_type, sequence from payments.outbox where aggregate_id = %s order by sequence"
    assert system.rows(events, payment["paymentId"]) == [("payment-requested", 1), ("payment-succeeded", 2)]
    status = """select bool_and(s.dispatched) from payments.outbox_status s
        join payments.outbox o using (outbox_id) where o.aggregate_id = %s"""
    eventually(lambda: system.rows(status, payment["paymentId"]) == [(True,)])
    # Both ways back: Stripe's answer, and its webhooks.
    sources = """select array_agg(distinct source order by source) from payments.inbox
        where payment_id = %s and processed_at is not null"""
    eventually(lambda: system.rows(sources, payment["paymentId"]) == [(["stripe-api", "stripe-webhook"],)])
    history = system.http.get(f"/payments/{payment['paymentId']}/history").json()["items"]
    assert [one["to"] for one in history if one["from"] != one["to"]] == ["REQUESTED", "SUCCEEDED"]


def test_the_consumer_reads_the_outcome_with_the_pgmq_package(system: System, eventually: Callable[..., Any]) -> None:
    payment = authorize(system).json()
    queue = pgmq.PGMQueue(conn_string=system.env["DATABASE_URL"], init_extension=False)

    def arrived() -> Any:
        messages = queue.read_batch("ordering", vt=1, batch_size=1000) or []
        return [one for one in messages if one.message["paymentId"] == payment["paymentId"]]

    try:
        (message,) = eventually(arrived)
    finally:
        queue.close()
    assert message.message == {
        "paymentId": payment["paymentId"],
        "orderId": payment["orderId"],
        "amount": 1999,
        "currency": "EUR",
        "processorReference": payment["processorReference"],
        "succeededAt": message.message["succeededAt"],
    }
    expected = {
        "ce-specversion": "1.0",
        "ce-type": "payment-succeeded",
        "ce-source": "/payments",
        "ce-subject": payment["paymentId"],
        "ce-sequence": "0000000002",
        "content-type": "application/json",
        "x-pgmq-group": payment["paymentId"],
    }
    assert message.headers.items() >= expected.items()


@pytest.mark.parametrize(
    ("token", "reason", "decline_code"),
    [
        ("pm_card_visa_chargeDeclined", "CARD_DECLINED", "generic_decline"),
        ("pm_card_visa_chargeDeclinedInsufficientFunds", "INSUFFICIENT_FUNDS", "insufficient_funds"),
        ("pm_card_visa_chargeDeclinedLostCard", "CARD_DECLINED", "lost_card"),
        ("pm_card_chargeDeclinedExpiredCard", "EXPIRED_CARD", None),
        ("pm_card_chargeDeclinedProcessingError", "PROCESSING_ERROR", None),
    ],
)
def test_a_declined_card_is_a_402_with_its_reason(
    system: System, token: str, reason: str, decline_code: str | None, eventually: Callable[..., Any]
) -> None:
    answer = authorize(system, paymentMethod=token)
    assert answer.status_code == 402
    assert answer.headers["Content-Type"].startswith("application/problem+json")
    problem = answer.json()
    if decline_code:
        assert problem["declineCode"] == decline_code
    payment = system.http.get(f"/payments/{problem['paymentId']}").json()
    assert (payment["status"], payment["failure"]["reason"]) == ("FAILED", reason)
    assert sum(one["amount_captured"] for one in system.intents_of(payment["paymentId"])) == 0
    told = "select message ->> 'reason' from pgmq.q_ordering where message ->> 'paymentId' = %s"
    eventually(lambda: system.rows(told, payment["paymentId"]) == [(reason,)])
    again = authorize(system, cartId=payment["cartId"])
    assert again.status_code == 201  # the cart may try another card
    assert again.json()["paymentId"] != payment["paymentId"]


def test_a_payment_without_a_method_is_finished_in_the_browser(system: System) -> None:
    payment = authorize(system, paymentMethod=None).json()
    assert payment["status"] == "ACTION_REQUIRED"
    body = {"client_secret": payment["nextAction"]["clientSecret"], "payment_method": "pm_card_visa"}
    httpx.post(f"{system.env['STRIPE_API_BASE']}/_sandbox/browser/confirm", json=body).raise_for_status()
    events = "select array_agg(event_type order by sequence) from payments.outbox where aggregate_id = %s"
    wait_until(lambda: system.http.get(f"/payments/{payment['paymentId']}").json()["status"] == "SUCCEEDED")
    assert system.rows(events, payment["paymentId"]) == [
        (["payment-requested", "payment-action-required", "payment-succeeded"],)
    ]


def test_an_unknown_payment_method_fails_only_its_own_payment(system: System) -> None:
    answer = authorize(system, paymentMethod="pm_nobody_knows_it")
    assert (answer.status_code, answer.json()["code"]) == (402, "payment_declined")
    assert authorize(system).json()["status"] == "SUCCEEDED"


def test_no_secret_stands_in_the_logs(system: System) -> None:
    authorize(system, paymentMethod=None)
    output = system.output.read_text()
    assert "request.answered" in output
    for pattern in (r"sk_test_\w{8}", r"whsec_\w{8}", r"pi_\w+_secret_\w+"):
        assert not re.search(pattern, output), pattern


@pytest.mark.parametrize("process", PROCESSES)
def test_a_killed_process_comes_back_and_nothing_is_lost(
    system: System, process: str, eventually: Callable[..., Any]
) -> None:
    before = [authorize(system, paymentMethod="pm_card_visa").json()["paymentId"]]
    system.kill(process)

    def accepted() -> Any:
        try:
            answer = authorize(system)
        except httpx.TransportError:
            return None
        return answer.status_code == 201 and answer.json()

    after = eventually(accepted, 60)
    eventually(lambda: system.http.get(f"/payments/{after['paymentId']}").json()["status"] == "SUCCEEDED", 60)
    for payment_id in [*before, after["paymentId"]]:
        assert len(system.intents_of(payment_id)) == 1
    assert system.rows("select * from payments.audit_imbalances") == []
