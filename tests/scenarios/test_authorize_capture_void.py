"""Holds: authorized, captured, voided, expired, and whatever comes too late; money never stays where it should not."""

import calendar
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import Any
from uuid import uuid4

import httpx
import pytest

from tests.conftest import wait_until
from tests.scenarios.stripe import CANCEL, CAPTURE, event, signed
from tests.scenarios.world import AMOUNT, World
from tests.system.running import System, payments_up

DAY_S = 86_400


@pytest.fixture(scope="module")
def system() -> Iterator[System]:
    # Looking at Stripe comes too late here: what is known came by webhook or in an answer.
    with payments_up(
        "--copies",
        "2",
        STRIPE_TIMEOUT_S="2",
        PAYMENTS_LEASE_S="4",
        PAYMENTS_RECONCILE_AFTER_S="600",
        PAYMENTS_EVENTS_BACKFILL_S="3600",
    ) as running:
        running.outwait_first_looks()
        yield running


def manual() -> dict[str, Any]:
    return {"captureMethod": "manual", "orderId": str(uuid4())}


def test_16_browser_has_to_act(world: World) -> None:
    payment = world.authorize(paymentMethod="pm_card_authenticationRequired").json()
    assert payment["status"] == "ACTION_REQUIRED"
    intent = world.stripe.intent(payment["paymentId"])
    assert payment["nextAction"]["clientSecret"].startswith(intent["id"])
    assert world.stripe.authenticate(intent["id"], "fail").status_code == 200
    secret = world.until(payment["paymentId"], "ACTION_REQUIRED")["nextAction"]["clientSecret"]
    assert world.stripe.confirm(secret).status_code == 200  # with another card
    assert world.until(payment["paymentId"], "SUCCEEDED")["nextAction"] is None
    world.agree()


def test_16_voided_while_the_browser_has_to_act(world: World) -> None:
    payment = world.authorize(paymentMethod=None).json()
    answer = world.act(payment["paymentId"], "void")
    assert (answer.status_code, answer.json()["nextAction"]) == (202, None)
    world.until(payment["paymentId"], "VOIDED")
    assert world.stripe.confirm(payment["nextAction"]["clientSecret"]).status_code == 400
    world.agree()


def test_17_processing_for_days(world: World) -> None:
    world.stripe.behave(processing_delay_s=5 * DAY_S)
    bank = {"currency": "USD", "wait_s": None}
    try:
        good = world.authorize(paymentMethod="pm_usBankAccount_success", **bank).json()["paymentId"]
        bad = world.authorize(paymentMethod="pm_usBankAccount_insufficientFunds", **bank).json()["paymentId"]
        for payment_id in (good, bad):
            world.until(payment_id, "PROCESSING")
        world.agree()
        world.stripe.advance(4 * DAY_S)
        assert {world.payment(one)["status"] for one in (good, bad)} == {"PROCESSING"}
        world.stripe.advance(2 * DAY_S)
    finally:
        world.stripe.behave(processing_delay_s=3)
    world.until(good, "SUCCEEDED")
    assert world.until(bad, "FAILED")["failure"]["reason"] == "INSUFFICIENT_FUNDS"
    world.agree()


def declined(world: World, cart: str, **changes: Any) -> tuple[str, str]:
    """A payment that has failed, and the client secret that Stripe gave for it all the same."""
    answer = world.authorize(cartId=cart, paymentMethod="pm_card_visa_chargeDeclined", **changes)
    assert answer.status_code == 402
    payment_id = answer.json()["paymentId"]
    created = world.heard(payment_id, "payment_intent.created")
    return payment_id, created["data"]["object"]["client_secret"]


def test_18_declined_and_confirmed_again(world: World) -> None:
    payment_id, secret = declined(world, str(uuid4()))
    wait_until(lambda: world.stripe.intent(payment_id)["status"] == "canceled")
    assert world.stripe.confirm(secret).status_code == 400
    assert world.payment(payment_id)["status"] == "FAILED"
    world.agree()


def money_back(world: World, payment_id: str, status: str) -> None:
    """Late money went back; the payment stays what it was, and history keeps both."""
    intent = wait_until(lambda: intent if is_even(intent := world.stripe.intent(payment_id)) else None)
    assert intent is not None
    payment = world.payment(payment_id)
    assert (payment["status"], payment["amountCaptured"]) == (status, 0)
    if intent["amount_captured"]:
        (refund,) = wait_until(lambda: [one for one in world.refunds(payment_id) if one["status"] == "PROCESSED"])
        assert (refund["reason"], refund["amount"]) == ("compensation", intent["amount_captured"])
    history = wait_until(lambda: told if "compensated" in str(told := world.history(payment_id)) else [])
    assert [one["to"] for one in history if one["from"] != one["to"]][-1] == status
    assert len([one for one in history if one["decision"] == "compensated"]) == 1
    world.agree()


def is_even(intent: dict[str, Any]) -> bool:
    held = intent["amount_authorized"] - intent["amount_captured"] - intent["amount_released"]
    return held == 0 and intent["amount_captured"] == intent["amount_refunded"]


@pytest.mark.parametrize("how", [{}, manual()], ids=["charged", "held"])
def test_18_confirmed_before_it_could_be_cancelled(world: World, how: dict[str, Any]) -> None:
    cart = str(uuid4())
    world.stripe.fault("status", cart, CANCEL, status=429, times=3)
    payment_id, secret = declined(world, cart, **how)
    assert world.stripe.confirm(secret).status_code == 200
    money_back(world, payment_id, "FAILED")


def test_19_void_while_the_authorization_is_under_way(world: World) -> None:
    cart = str(uuid4())
    world.stripe.fault("slow", cart, delay_s=1.0)
    payment_id = world.accepted(cartId=cart, **manual())["paymentId"]
    wait_until(lambda: world.stripe.intents(payment_id))
    answer = world.act(payment_id, "void", Prefer="wait=0")
    assert (answer.status_code, answer.json()["status"]) == (202, "VOIDING")
    world.until(payment_id, "VOIDED")
    assert world.stripe.intent(payment_id)["status"] == "canceled"
    assert world.act(payment_id, "void").status_code == 202
    assert "VOIDING" in world.way(payment_id)
    world.agree()


def test_19_void_before_anything_was_asked(world: World) -> None:
    workers = [world.freeze_at_rest(worker) for worker in ("worker", "worker.2")]
    try:
        payment_id = world.accepted()["paymentId"]
        assert world.act(payment_id, "void", Prefer="wait=0").status_code == 202
    finally:
        for pid in workers:
            world.thaw(pid)
    world.until(payment_id, "VOIDED")
    assert world.stripe.intents(payment_id) == []
    assert world.stripe.calls(payment_id) == []
    world.agree()


def test_20_capture_races_void(world: World) -> None:
    ids = [world.held()["paymentId"] for _ in range(6)]
    with ThreadPoolExecutor(2 * len(ids)) as pool:
        races = [(pool.submit(post, world, one, "capture"), pool.submit(post, world, one, "void")) for one in ids]
    for payment_id, race in zip(ids, races, strict=True):
        captured, voided = (one.result().status_code for one in race)
        assert sorted([captured, voided]) == [202, 409]
        world.until(payment_id, "SUCCEEDED" if captured == 202 else "VOIDED")
    world.agree()


def post(world: World, payment_id: str, what: str) -> httpx.Response:
    """POST on a connection of its own: a client of ours is not made for many threads."""
    url = f"{world.system.env['API_URL']}/payments/{payment_id}/{what}"
    return httpx.post(url, headers={"Authorization": f"Bearer {world.system.env['API_KEY']}"}, timeout=20.0)


@pytest.mark.parametrize(
    ("done", "wish", "status"),
    [("cancel", "capture", "VOIDED"), ("capture", "capture", "SUCCEEDED"), ("cancel", "void", "VOIDED")],
)
def test_20_it_was_done_at_stripe_already(world: World, done: str, wish: str, status: str) -> None:
    payment_id = world.held()["paymentId"]
    world.stripe.webhooks(mode="drop")
    world.stripe.api(f"payment_intents/{world.stripe.intent(payment_id)['id']}/{done}")
    assert world.act(payment_id, wish).status_code == 202
    world.until(payment_id, status)
    world.agree()


def test_21_order_cancelled_though_it_was_charged(world: World) -> None:
    cart = str(uuid4())
    world.stripe.fault("slow", cart, delay_s=1.0)
    world.stripe.webhooks(mode="hold")
    payment_id = world.accepted(cartId=cart)["paymentId"]
    wait_until(lambda: world.stripe.intents(payment_id))
    assert world.act(payment_id, "void", Prefer="wait=0").status_code == 202
    world.until(payment_id, "SUCCEEDED")
    world.stripe.release()
    world.stripe.webhooks(mode="deliver")
    (refund,) = wait_until(lambda: [one for one in world.refunds(payment_id) if one["status"] == "PROCESSED"])
    assert (refund["reason"], refund["amount"], refund["external"]) == ("compensation", AMOUNT, False)
    assert world.payment(payment_id)["amountRefunded"] == AMOUNT
    world.agree()


def test_21_captured_in_the_dashboard_and_then_voided(world: World) -> None:
    payment_id = world.held()["paymentId"]
    world.stripe.webhooks(mode="drop")
    world.stripe.api(f"payment_intents/{world.stripe.intent(payment_id)['id']}/capture")
    world.stripe.webhooks(mode="deliver")
    assert world.act(payment_id, "void").status_code == 202
    world.until(payment_id, "SUCCEEDED")
    wait_until(lambda: [one for one in world.refunds(payment_id) if one["status"] == "PROCESSED"])
    world.agree()


def test_21_order_cancelled_while_the_bank_takes_days(world: World) -> None:
    world.stripe.behave(processing_delay_s=5 * DAY_S)
    try:
        asked = world.authorize(wait_s=None, paymentMethod="pm_usBankAccount_success", currency="USD").json()
        payment_id = asked["paymentId"]
        world.until(payment_id, "PROCESSING")
        assert world.act(payment_id, "void", Prefer="wait=0").status_code == 202
        # Stripe refuses to cancel what the bank is working on.
        wait_until(lambda: world.call(payment_id, "cancel_payment_intent").get("state") == "answered")
        world.stripe.advance(6 * DAY_S)
    finally:
        world.stripe.behave(processing_delay_s=3)
    world.until(payment_id, "SUCCEEDED")
    (refund,) = wait_until(lambda: [one for one in world.refunds(payment_id) if one["status"] == "PROCESSED"])
    assert (refund["reason"], refund["amount"]) == ("compensation", AMOUNT)
    world.agree()


@pytest.mark.parametrize("keyed", [True, False], ids=["same key", "no key"])
def test_22_capture_repeated(world: World, keyed: bool) -> None:  # noqa: FBT001
    cart = str(uuid4())
    payment_id = world.held(cartId=cart)["paymentId"]
    world.stripe.fault("after_executing", cart, CAPTURE)
    key = {"Idempotency-Key": str(uuid4())} if keyed else {}
    answers = [world.act(payment_id, "capture", **key) for _ in range(3)]
    assert [one.status_code for one in answers] == [202] * 3
    payment = world.until(payment_id, "SUCCEEDED")
    assert payment["amountCaptured"] == AMOUNT
    assert world.act(payment_id, "capture", **key).status_code == 202
    intent = world.stripe.intent(payment_id)
    calls = world.stripe.calls(path=f"/v1/payment_intents/{intent['id']}/capture")
    assert len({one["idempotency_key"] for one in calls}) == 1
    assert world.events(payment_id).count("capture-requested") == 1
    world.agree()


def test_23_partial_capture(world: World) -> None:
    payment_id = world.held()["paymentId"]
    over = world.act(payment_id, "capture", {"amount": AMOUNT + 1})
    assert (over.status_code, over.json()["code"]) == (409, "amount_exceeds_authorized")
    order = str(uuid4())
    assert world.act(payment_id, "capture", {"amount": 500, "orderId": order}).status_code == 202
    payment = world.until(payment_id, "SUCCEEDED")
    assert (payment["amountAuthorized"], payment["amountCaptured"], payment["orderId"]) == (AMOUNT, 500, order)
    intent = world.stripe.intent(payment_id)
    assert (intent["amount_captured"], intent["amount_released"]) == (500, AMOUNT - 500)
    again = world.act(payment_id, "capture", {"amount": 600})
    assert again.status_code == 409

    too_much = world.act(payment_id, "refunds", {"amount": 501})
    assert (too_much.status_code, too_much.json()["code"]) == (409, "amount_exceeds_captured")
    refund = world.act(payment_id, "refunds", {"amount": 500})
    assert refund.status_code == 201
    world.refund_until(refund.json()["refundId"], "PROCESSED")
    world.agree()


def test_24_hold_expires(world: World) -> None:
    # Stripe has held it for six of its seven days when we hear of it: only `capture_before` can tell.
    world.stripe.advance(-6 * DAY_S)
    payment = world.held()
    before = calendar.timegm(datetime.fromisoformat(payment["captureBefore"]).utctimetuple())
    assert 0.9 * DAY_S < before - time.time() < 1.1 * DAY_S
    world.stripe.advance(6.9 * DAY_S)
    assert world.payment(payment["paymentId"])["status"] == "AUTHORIZED"
    world.stripe.advance(0.2 * DAY_S)
    assert world.until(payment["paymentId"], "EXPIRED")["amountCaptured"] == 0
    late = world.act(payment["paymentId"], "capture")
    assert (late.status_code, late.json()["code"]) == (409, "not_capturable")
    world.agree()


def tell_canceled(world: World, payment_id: str, reason: str) -> None:
    """A webhook that says what is not so (yet): the PaymentIntent is canceled."""
    intent = world.stripe.intent(payment_id)
    thing = {name: intent[name] for name in ("id", "amount", "currency", "metadata", "capture_method")}
    thing |= {"object": "payment_intent", "status": "canceled", "cancellation_reason": reason}
    version = world.heard(payment_id, "payment_intent.created")["api_version"]
    body = event("payment_intent.canceled", thing, f"evt_{uuid4().hex}", api_version=version)
    assert world.deliver(body, signed(body, *world.webhook_secrets)).status_code == 200


@pytest.mark.parametrize("how", [{}, manual()], ids=["charged", "held"])
def test_26_late_success_after_voided(world: World, how: dict[str, Any]) -> None:
    payment = world.authorize(paymentMethod=None, **how).json()
    payment_id, secret = payment["paymentId"], payment["nextAction"]["clientSecret"]
    tell_canceled(world, payment_id, "requested_by_customer")
    world.until(payment_id, "VOIDED")
    assert world.stripe.confirm(secret).status_code == 200
    money_back(world, payment_id, "VOIDED")


def test_26_late_success_after_expired(world: World) -> None:
    payment_id = world.held()["paymentId"]
    tell_canceled(world, payment_id, "automatic")
    world.until(payment_id, "EXPIRED")
    world.stripe.api(f"payment_intents/{world.stripe.intent(payment_id)['id']}/capture", amount_to_capture="700")
    money_back(world, payment_id, "EXPIRED")


def test_26_late_success_after_failed(world: World) -> None:
    cart = str(uuid4())
    world.stripe.fault("status", cart, CANCEL, status=429, times=3)
    payment_id, secret = declined(world, cart)
    second = world.paid(cartId=cart)  # the cart has another payment by now
    assert world.stripe.confirm(secret).status_code == 200
    money_back(world, payment_id, "FAILED")
    assert world.payment(second["paymentId"])["status"] == "SUCCEEDED"
