"""Wishes that come twice, too late, or against each other: the payment's state decides, or Stripe's truth is recorded.

The recorder stands still, except where its part is the point.
"""

from typing import Any
from uuid import uuid4

import pytest

from tests.conftest import wait_until
from tests.worker.wishes import (
    AMOUNT,
    CANCEL,
    CAPTURE,
    CREATE,
    PART,
    REFUND,
    Wish,
    attempted,
    change,
    request_refund,
    wish_for,
)
from tests.worker.world import INTENTS, World

NEW = [CAPTURE, CANCEL, REFUND]


def the_refusal(wish: Wish) -> dict[str, Any]:
    """What the recorder is told; nothing is dead, and no second key was tried."""
    (answer,) = wish.answers()
    assert (answer["outcome"], answer["subjectId"]) == ("refused", str(wish.subject_id))
    assert wish.world.dead() == []
    assert wish.keys() == {wish.key()}
    return dict(answer["error"])


def at_stripe(world: World, path: str, **form: Any) -> None:
    assert world.sandbox.call("POST", path, data=form).status_code == 200


def test_22_command_repeated_has_one_effect(world: World) -> None:
    wishes = [wish_for(world, operation) for operation in NEW]
    for wish in wishes:
        wish.send()
    world.start_worker(records=False)
    for wish in wishes:
        wait_until(wish.done)
        wish.send()
        wait_until(wish.at_rest)
        assert wish.effects() == wish.wanted
        assert wish.keys() == {wish.key()}
        assert len(wish.lines()) <= 2  # the first two may have been under way at once; the third finds the answer
        assert len(wish.answers()) == len(wish.lines())


def test_20_stripes_state_is_recorded_when_it_refuses(world: World) -> None:
    cases = [
        (wish_for(world, operation, sends=False), done, state)
        for operation in (CAPTURE, CANCEL)
        for done, state in (("capture", "succeeded"), ("cancel", "canceled"))
    ]
    for wish, done, _ in cases:
        at_stripe(world, f"{INTENTS}/{wish.intent_id}/{done}")
        wish.send()
    world.start_worker(records=False)
    for wish, _, state in cases:
        wait_until(wish.done)
        error = the_refusal(wish)
        assert error["code"] == "payment_intent_unexpected_state"
        assert error["payment_intent"]["status"] == state


def test_refund_of_what_was_refunded_already_is_recorded(world: World) -> None:
    wish = wish_for(world, REFUND, sends=False)
    at_stripe(world, "/v1/refunds", payment_intent=wish.intent_id)
    wish.send()
    world.start_worker(records=False)
    wait_until(wish.done)
    assert the_refusal(wish)["code"] == "charge_already_refunded"
    assert wish.effects() == []


def test_refund_above_what_is_left_is_recorded(world: World) -> None:
    wish = wish_for(world, REFUND, sends=False)
    at_stripe(world, "/v1/refunds", payment_intent=wish.intent_id, amount=AMOUNT - PART + 1)
    wish.send()
    world.start_worker(records=False)
    wait_until(wish.done)
    assert the_refusal(wish)["param"] == "amount"
    assert wish.effects() == []


def test_20_capture_finds_the_payment_voiding_and_asks_for_nothing(world: World) -> None:
    wish = wish_for(world, CAPTURE, sends=False)
    change(world, wish.payment_id, status="VOIDING")
    wish.send()
    world.start_worker(records=False)
    wait_until(wish.at_rest)
    assert wish.lines() == []
    assert world.dead() == []


def test_20_cancel_finds_the_payment_going_on_and_asks_for_nothing(world: World) -> None:
    wishes = []
    for status in ("CAPTURING", "SUCCEEDED", "AUTHORIZED", "PROCESSING", "CONFLICTED"):
        wish = wish_for(world, CANCEL, sends=False)
        change(
            world,
            wish.payment_id,
            status=status,
            capture_id=wish.payment_id,
            amount_to_capture=PART,
            amount_captured=AMOUNT if status == "SUCCEEDED" else 0,
        )
        wish.send(cancellationReason="abandoned")
        wishes.append(wish)
    world.start_worker(records=False)
    for wish in wishes:
        wait_until(wish.at_rest)
        assert wish.lines() == []


def test_23_partial_capture_releases_the_rest(world: World) -> None:
    wish, order_id = wish_for(world, CAPTURE, sends=False), uuid4()
    change(world, wish.payment_id, order_id=order_id)
    wish.send()
    world.start_worker(records=False)
    wait_until(wish.done)
    (intent,) = wish.intents()
    assert (intent["amount_captured"], intent["amount_released"]) == (PART, AMOUNT - PART)
    assert intent["metadata"]["orderId"] == str(order_id)


def test_capture_of_an_earlier_wish_is_not_made(world: World) -> None:
    wish = wish_for(world, CAPTURE, sends=False)
    change(world, wish.payment_id, capture_id=wish.payment_id)
    attempted(wish, {"payment_intent": wish.intent_id})
    wish.send()
    world.start_worker(records=False)
    wait_until(wish.done)
    assert wish.effects() == []
    assert [call["outcome"] for call in wish.calls()] == ["settled"]


def test_29_equal_partial_refunds_both_succeed(world: World) -> None:
    first = wish_for(world, REFUND, sends=False)
    refunds = [request_refund(world, first.payment_id, 150, "requested_by_customer") for _ in range(2)]
    for refund_id in refunds:
        world.send({"paymentId": str(first.payment_id), "refundId": str(refund_id)}, queue=first.queue)
    world.start_worker(records=False)
    wait_until(lambda: first.at_rest() and len(world.answers(first.payment_id)) == 2)
    (intent,) = first.intents()
    assert [one["amount"] for one in intent["refunds"]] == [150, 150]
    assert {one["metadata"]["refundId"] for one in intent["refunds"]} == {str(one) for one in refunds}
    assert {one["reason"] for one in intent["refunds"]} == {"requested_by_customer"}


def test_refund_reason_that_stripe_does_not_know_is_metadata(world: World) -> None:
    wish = wish_for(world, REFUND, sends=False)
    reason = "ö" * 600
    refund_id = request_refund(world, wish.payment_id, 100, reason)
    world.send({"paymentId": str(wish.payment_id), "refundId": str(refund_id)}, queue=wish.queue)
    world.start_worker(records=False)
    wait_until(wish.at_rest)
    (refund,) = wish.intents()[0]["refunds"]
    assert refund["reason"] is None
    assert refund["metadata"]["reason"] == reason[:500]


def test_refund_that_stripe_has_answered_for_is_not_made_again(world: World) -> None:
    wishes = []
    for status in ("PENDING", "PROCESSED", "FAILED"):
        wish = wish_for(world, REFUND, sends=False)
        attempted(wish, {"payment_intent": wish.intent_id, "amount": PART})
        failed = status == "FAILED"
        world.execute(
            "update payments.refunds set status = %s, failure_reason = %s, processor_reference = %s "
            "where refund_id = %s",
            status,
            "gone" if failed else None,
            None if failed else f"re_{status}",
            wish.subject_id,
        )
        wish.send()
        wishes.append(wish)
    world.start_worker(records=False)
    for wish in wishes:
        wait_until(wish.done)
        assert wish.effects() == []
        assert [call["outcome"] for call in wish.calls()] == ["settled"]


@pytest.mark.parametrize("status", ["ACTION_REQUIRED", "REQUESTED"])
def test_abandoned_payment_is_cancelled_without_being_touched(world: World, status: str) -> None:
    """By its customer, or by Stripe, which never confirmed what our call had made."""
    wish = wish_for(world, CANCEL, sends=False)
    (intent,) = wish.intents()
    action = '{"type": "x"}' if status == "ACTION_REQUIRED" else None
    change(world, wish.payment_id, status=status, next_action=action, amount_authorized=0)
    wish.send()  # a person's wish to void would have made it VOIDING
    wish.send(cancellationReason="abandoned")
    world.start_worker(records=False)
    wait_until(wish.done)
    assert world.status(wish.payment_id) == status
    (intent,) = wish.intents()
    assert (intent["status"], intent["cancellation_reason"]) == ("canceled", "abandoned")
    assert len(wish.lines()) == 1


def test_18_ended_payment_is_cancelled_once(world: World) -> None:
    wishes = []
    for status in ("FAILED", "EXPIRED", "VOIDED"):
        wish = wish_for(world, CANCEL, sends=False)
        reason = "CARD_DECLINED" if status == "FAILED" else None
        change(world, wish.payment_id, status=status, failure_reason=reason, amount_authorized=0)
        wishes.append(wish)
    world.start_worker(records=False)
    for wish in wishes * 2:
        wish.send(cancellationReason="abandoned")
        wait_until(wish.done)
    for wish in wishes:
        assert wish.effects() == wish.wanted
        assert len(wish.lines()) == 1


def test_cancel_that_was_refused_is_asked_for_again_under_a_new_key(world: World) -> None:
    wish = wish_for(world, CANCEL)
    state = {"type": "invalid_request_error", "code": "payment_intent_unexpected_state"}
    wish.fault("status", status=400, error=state)
    worker = world.start_worker(records=False)
    wait_until(wish.done)
    assert wish.effects() == []
    wish.send()
    wait_until(wish.effects)
    wait_until(wish.done)
    assert [line["idempotency_key"] for line in wish.lines()] == [wish.key(1), wish.key(2)]
    assert [(call["generation"], call["outcome"]) for call in wish.calls()] == [(1, "refused"), (2, "answered")]
    assert [answer["outcome"] for answer in wish.answers()] == ["refused", "answered"]
    assert worker.logged("call.answered")


def voiding(world: World) -> Wish:
    """A wish to be paid that was taken back, before anything is known of what it made."""
    payment_id = world.payment()
    change(world, payment_id, status="VOIDING")
    return Wish(world, CREATE, payment_id, payment_id, None, {"paymentId": str(payment_id)})


def test_19_void_of_what_was_never_asked_needs_no_call(world: World) -> None:
    never, intended, absent = creates = [voiding(world) for _ in range(3)]
    attempted(intended, {}, attempts=0, state="intended")
    attempted(absent, {}, state="answered", outcome="absent", answered_at="2026-11-22T12:00:00Z")
    for create in creates:
        world.send(create.command, queue="void_requested")
    world.start_worker(records=False)
    for create in creates:
        wait_until(world.settled(create.payment_id, "VOIDED"))
    wait_until(lambda: world.queued("void_requested") == 0)
    assert world.sandbox.requests() == []
    assert (never.state(), intended.state(), absent.state()) == (None, "answered", "answered")
    assert world.rows("select * from payments.audit_imbalances") == []


def test_19_void_of_what_may_exist_waits_until_it_is_known(world: World) -> None:
    states = ("in_flight", "in_doubt", "to_reconcile", "parked")
    creates = [voiding(world) for _ in states]
    for create, state in zip(creates, states, strict=True):
        attempted(create, {}, state=state)
        world.send(create.command, queue="void_requested")
    world.start_worker(records=False)
    wait_until(lambda: world.queued("void_requested") == 0)
    assert world.sandbox.requests() == []
    for create, state in zip(creates, states, strict=True):
        assert world.status(create.payment_id) == "VOIDING"
        assert create.state() == state


def test_19_void_while_the_authorization_is_under_way_finds_out_first(world: World) -> None:
    wish = wish_for(world, CREATE)
    wish.fault("slow", delay_s=0.6, when="after")
    world.start_worker(records=False)
    wait_until(wish.effects)
    change(world, wish.payment_id, status="VOIDING")
    world.send(wish.command, queue="void_requested")
    wait_until(lambda: wish.done() and world.queued("void_requested") == 0)
    assert world.status(wish.payment_id) == "VOIDING"  # the recorder's to go on, from the answer in the inbox
    assert len(wish.answers()) == 1
    assert wish.effects() == wish.wanted
