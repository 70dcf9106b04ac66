"""Money on its way back: never more than was taken, each wish once, and the bank's change of mind is followed."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import uuid4

import httpx
import pytest

from tests.conftest import wait_until
from tests.scenarios.stripe import REFUND
from tests.scenarios.world import AMOUNT, World
from tests.system.running import System, payments_up

LATER_S = 3_600.0  # by the sandbox's clock: not during this test, unless told


@pytest.fixture(scope="module")
def system() -> Iterator[System]:
    with payments_up(
        "--copies",
        "2",
        STRIPE_TIMEOUT_S="1",
        PAYMENTS_LEASE_S="3",
        PAYMENTS_RECONCILE_AFTER_S="600",
        PAYMENTS_EVENTS_BACKFILL_S="3600",
    ) as running:
        running.outwait_first_looks()
        yield running


def refund(world: World, payment_id: str, **body: Any) -> dict[str, Any]:
    """A refund as it was accepted; with `Prefer: wait` usually settled."""
    answer = world.act(payment_id, "refunds", body)
    assert answer.status_code == 201, answer.text
    return dict(answer.json())


def test_27_refund_of_an_uncaptured_payment(world: World) -> None:
    payment_id = world.held()["paymentId"]
    answer = world.act(payment_id, "refunds")
    assert (answer.status_code, answer.json()["code"]) == (409, "not_refundable")
    assert "void" in answer.json()["detail"]
    assert world.refunds(payment_id) == []
    world.agree()


def test_28_concurrent_refunds_above_the_captured_amount(world: World) -> None:
    payment_id = world.paid(amount=1000)["paymentId"]
    url = f"{world.system.env['API_URL']}/payments/{payment_id}/refunds"
    headers = {"Authorization": f"Bearer {world.system.env['API_KEY']}"}
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: httpx.post(url, json={"amount": 300}, headers=headers), range(12)))
    taken = [one.json()["refundId"] for one in answers if one.status_code == 201]
    refused = [one.json()["code"] for one in answers if one.status_code != 201]
    assert (len(taken), set(refused)) == (3, {"amount_exceeds_captured"})
    for refund_id in taken:
        world.refund_until(refund_id, "PROCESSED")
    assert refund(world, payment_id)["amount"] == 100, "the rest, unless told otherwise"
    assert world.act(payment_id, "refunds", {"amount": 1}).status_code == 409
    world.agree()


def test_29_two_equal_partial_refunds(world: World) -> None:
    payment_id = world.paid()["paymentId"]
    ids = [refund(world, payment_id, amount=500, reason="one shoe did not fit")["refundId"] for _ in range(2)]
    key = {"Idempotency-Key": str(uuid4())}
    keyed = [world.act(payment_id, "refunds", {"amount": 500}, **key) for _ in range(2)]
    assert keyed[0].status_code == keyed[1].status_code == 201
    assert keyed[0].json()["refundId"] == keyed[1].json()["refundId"]
    ids.append(keyed[0].json()["refundId"])
    for refund_id in ids:
        world.refund_until(refund_id, "PROCESSED")
    assert len(set(ids)) == 3
    assert world.payment(payment_id)["amountRefunded"] == 1500
    world.agree()


@pytest.mark.parametrize(
    ("kind", "delay_s"),
    [("after_executing", 2.0), ("mid_body", 0.0), ("before_executing", 0.0)],
    ids=["silence", "half an answer", "not seen"],
)
def test_30_refund_times_out(world: World, kind: str, delay_s: float) -> None:
    world.stripe.webhooks(mode="hold")
    cart = str(uuid4())
    payment_id = world.paid(cartId=cart)["paymentId"]
    world.stripe.fault(kind, cart, REFUND, delay_s=delay_s)
    after = max(one["seq"] for one in world.stripe.calls(path="*"))
    refund_id = refund(world, payment_id)["refundId"]
    world.refund_until(refund_id, "PROCESSED")
    calls = world.stripe.calls(path=REFUND, after=after)
    assert len(calls) == 2
    assert len({one["idempotency_key"] for one in calls}) == 1
    assert len(world.stripe.intent(payment_id)["refunds"]) == 1
    world.stripe.release()
    world.agree()


def test_31_pending_and_failed_after_success(world: World) -> None:
    world.stripe.behave(refund_delay_s=LATER_S)
    try:
        payment_id = world.paid(paymentMethod="pm_card_pendingRefund")["paymentId"]
        first = refund(world, payment_id)
        pending = world.refund_until(first["refundId"], "PENDING")
        assert world.payment(payment_id)["amountRefunded"] == 0
        assert world.act(payment_id, "refunds", {"amount": 1}).status_code == 409, "its amount is reserved"
        world.agree()

        world.stripe.tell_refund(pending["processorReference"], "succeeded")
        world.refund_until(first["refundId"], "PROCESSED")
        assert world.payment(payment_id)["amountRefunded"] == AMOUNT
        world.agree()

        world.stripe.tell_refund(pending["processorReference"], "failed")
        failed = world.refund_until(first["refundId"], "FAILED")
        assert failed["failureReason"]
        assert world.payment(payment_id)["amountRefunded"] == 0
        assert world.events(payment_id)[-2:] == ["refund-processed", "refund-failed"]

        second = refund(world, payment_id)  # what was reserved is free again
        pending = world.refund_until(second["refundId"], "PENDING")
        world.stripe.tell_refund(pending["processorReference"], "failed")
        world.refund_until(second["refundId"], "FAILED")
    finally:
        world.stripe.behave(refund_delay_s=5)
    world.agree()


def test_31_every_order_of_its_events(world: World) -> None:
    world.stripe.behave(refund_delay_s=LATER_S)
    world.stripe.webhooks(mode="hold")
    ids = []
    try:
        for backwards in (True, False):
            payment_id = world.paid(paymentMethod="pm_card_pendingRefund")["paymentId"]
            refund_id = refund(world, payment_id)["refundId"]
            reference = world.refund_until(refund_id, "PENDING")["processorReference"]
            world.stripe.tell_refund(reference, "succeeded")
            world.stripe.tell_refund(reference, "failed")
            held = [one["event"] for one in world.stripe.deliveries(status="held", object=reference)]
            assert len(held) > 3
            world.stripe.release(events=held[::-1] if backwards else held)
            ids.append(refund_id)
    finally:
        world.stripe.behave(refund_delay_s=5)
    for refund_id in ids:
        world.refund_until(refund_id, "FAILED")
    world.stripe.release()
    world.agree()


@pytest.mark.parametrize("makes_refund", [False, True], ids=["as a charge", "also as a refund"])
def test_32_released_hold_is_no_refund(world: World, makes_refund: bool) -> None:  # noqa: FBT001
    world.stripe.behave(release_makes_refund=makes_refund)
    try:
        voided = world.held()["paymentId"]
        assert world.act(voided, "void").status_code == 202
        world.until(voided, "VOIDED")
        partly = world.held()["paymentId"]
        assert world.act(partly, "capture", {"amount": 999}).status_code == 202
        world.until(partly, "SUCCEEDED")
        for payment_id in (voided, partly):
            (charge,) = world.stripe.intent(payment_id)["charges"]
            kinds = [one["type"] for one in world.stripe.deliveries(object=charge["id"])]
            assert "charge.refunded" in kinds
        world.agree()
    finally:
        world.stripe.behave(release_makes_refund=False)
    for payment_id in (voided, partly):
        assert world.refunds(payment_id) == []
        assert world.payment(payment_id)["amountRefunded"] == 0
        assert not [one for one in world.events(payment_id) if one.startswith("refund-")]


def test_33_refund_in_the_dashboard(world: World) -> None:
    payment_id = world.paid()["paymentId"]
    made = world.stripe.refund_in_dashboard(world.stripe.intent(payment_id)["id"], 1200)
    (adopted,) = wait_until(lambda: world.refunds(payment_id))
    assert (adopted["external"], adopted["amount"], adopted["processorReference"]) == (True, 1200, made["id"])
    world.refund_until(adopted["refundId"], "PROCESSED")
    assert world.payment(payment_id)["amountRefunded"] == 1200
    assert world.act(payment_id, "refunds", {"amount": 800}).status_code == 409
    refund(world, payment_id, amount=799)
    world.agree()


def test_33_refund_in_the_dashboard_beside_ours(world: World) -> None:
    payment_id = world.paid()["paymentId"]
    intent = world.stripe.intent(payment_id)
    workers = [world.freeze_at_rest(worker) for worker in ("worker", "worker.2")]
    try:
        answer = world.act(payment_id, "refunds", {"amount": 1500}, Prefer="wait=0")
        assert (answer.status_code, answer.json()["status"]) == (201, "REQUESTED")
        made = world.stripe.refund_in_dashboard(intent["id"], 1200)
    finally:
        for pid in workers:
            world.thaw(pid)
    # Stripe has not enough left for ours; theirs stands.
    assert world.refund_until(answer.json()["refundId"], "FAILED")["failureReason"]
    (theirs,) = wait_until(lambda: [one for one in world.refunds(payment_id) if one["external"]])
    assert theirs["processorReference"] == made["id"]
    world.refund_until(theirs["refundId"], "PROCESSED")
    world.agree()


@pytest.mark.parametrize("outcome", ["won", "lost"])
def test_34_dispute(world: World, outcome: str) -> None:
    payment_id = world.paid()["paymentId"]
    dispute = world.stripe.open_dispute(world.stripe.intent(payment_id)["id"])
    wait_until(lambda: world.payment(payment_id)["disputed"])
    during = refund(world, payment_id, amount=500)
    assert world.refund_until(during["refundId"], "FAILED")["failureReason"]  # Stripe has taken the money back already
    payment = world.payment(payment_id)
    assert (payment["status"], payment["amountCaptured"], payment["amountRefunded"]) == ("SUCCEEDED", AMOUNT, 0)
    world.stripe.close_dispute(dispute["id"], outcome)
    wait_until(lambda: "dispute-closed" in world.events(payment_id))
    assert world.payment(payment_id)["disputed"] is (outcome == "lost")
    query = "select status from payments.disputes where payment_id = %s"
    assert world.system.rows(query, payment_id) == [(outcome,)]
    if outcome == "won":
        after = refund(world, payment_id, amount=500)
        world.refund_until(after["refundId"], "PROCESSED")
    world.agree()


def test_34_dispute_opened_by_the_card_and_every_order_of_its_events(world: World) -> None:
    world.stripe.webhooks(mode="hold")
    ids = []
    for backwards in (True, False):
        payment_id = world.paid(paymentMethod="pm_card_createDispute")["paymentId"]
        intent = world.stripe.intent(payment_id)
        dispute = world.stripe.open_dispute(intent["id"])
        world.stripe.close_dispute(dispute["id"], "won")
        events = [one["event"] for one in world.stripe.deliveries(status="held", object=dispute["id"])]
        assert len(events) > 2
        world.stripe.release(events=events[::-1] if backwards else events)
        ids.append(payment_id)
    for payment_id in ids:
        wait_until(lambda: "dispute-closed" in world.events(payment_id))  # noqa: B023
        assert not world.payment(payment_id)["disputed"]
    world.stripe.release()
    world.agree()


def test_34_refund_while_only_an_inquiry_is_open(world: World) -> None:
    payment_id = world.paid(paymentMethod="pm_card_createDisputeInquiry")["paymentId"]
    wait_until(lambda: world.payment(payment_id)["disputed"])
    made = refund(world, payment_id)
    world.refund_until(made["refundId"], "PROCESSED")
    world.agree()
