"""Scenarios 7, 9 and 45: what a call did at Stripe is found, or proved never to have been; never guessed."""

import json
from typing import Any
from uuid import UUID, uuid4

import pytest

from payments.reconciler import lost
from payments.reconciler import sweep as sweeping
from tests.commands.test_operator_commands import payments
from tests.conftest import wait_until
from tests.domain.stripe_objects import event
from tests.worker.wishes import AMOUNT, PART, REFUND, wish_for
from tests.worker.world import World

# Nothing but the calls' own reconciliation may help: the list of events is asked for once, at the start.
QUICK: dict[str, Any] = {"PAYMENTS_RECONCILE_AFTER_S": "0.3", "PAYMENTS_EVENTS_BACKFILL_S": "86400"}
CREATE = "create_payment_intent"
OLD = "interval '24 hours'"


def generations(world: World, payment_id: UUID, operation: str = CREATE) -> list[tuple[Any, ...]]:
    return world.rows(
        "select generation, state, outcome from payments.stripe_requests where payment_id = %s and operation = %s"
        " order by generation",
        payment_id,
        operation,
    )


def forget_keys(world: World) -> None:
    """A day passes: Stripe forgets its keys, and our calls are too old to be sent again."""
    world.sandbox.steer("POST", "clock", advance_s=0)
    world.execute(
        f"update payments.stripe_requests set first_attempt_at = first_attempt_at - {OLD},"
        f" last_attempt_at = last_attempt_at - {OLD}, created_at = created_at - {OLD}"
    )


def a_day_ago(world: World) -> None:
    world.sandbox.steer("POST", "clock", advance_s=-86_400)


def now_again(world: World) -> None:
    world.sandbox.steer("POST", "clock", advance_s=86_400)
    forget_keys(world)


def leave_in_doubt(world: World, payment_id: UUID, fault: str) -> None:
    """An attempt, a day ago, whose answer nobody heard."""
    a_day_ago(world)
    world.sandbox.fault(fault, payment_id, times=None)
    worker = world.start_worker(**QUICK)
    wait_until(lambda: (world.call(payment_id) or {}).get("state") == "in_doubt")
    worker.stop()
    world.sandbox.clear_faults()
    now_again(world)


@pytest.mark.parametrize("executed", [True, False], ids=["executed", "not executed"])
def test_07_500_that_stripe_replays_is_looked_up_before_a_new_key(world: World, *, executed: bool) -> None:
    payment_id = world.request()
    world.sandbox.fault("status", payment_id, status=500, executed=executed)
    world.start_worker(**QUICK)
    wait_until(world.settled(payment_id))
    (intent,) = world.sandbox.intents(payment_id)
    assert intent["amount_captured"] == 1000
    proved_absent = [(1, "answered", "absent"), (2, "answered", "answered")]
    assert generations(world, payment_id) == ([(1, "answered", "settled")] if executed else proved_absent)
    assert world.dead() == []


@pytest.mark.parametrize("fault", ["after_executing", "before_executing"])
def test_09_first_retry_a_day_later_looks_before_it_calls(world: World, fault: str) -> None:
    payment_id = world.request()
    leave_in_doubt(world, payment_id, fault)
    world.start_worker(**QUICK)
    wait_until(world.settled(payment_id))
    (intent,) = world.sandbox.intents(payment_id)
    assert intent["amount_captured"] == 1000
    assert len(intent["charges"]) == 1
    is_found = fault == "after_executing"
    assert generations(world, payment_id)[0][1:] == ("answered", "settled" if is_found else "absent")
    assert len(generations(world, payment_id)) == (1 if is_found else 2)
    (source,) = world.row(
        "select source from payments.payment_history where payment_id = %s and to_status = 'SUCCEEDED'", payment_id
    )
    assert source == ("reconciler" if is_found else "stripe-api")


def test_09_one_sweep_in_many_parts_serves_all_calls(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """250 PaymentIntents of others, three pages; and a part is one page."""
    monkeypatch.setattr(sweeping, "PAGES_MAX", 1)
    a_day_ago(world)
    made, unmade = world.request(), world.request()
    world.sandbox.fault("after_executing", made, times=None)
    world.sandbox.fault("before_executing", unmade, times=None)
    worker = world.start_worker(**QUICK)
    doubts = "select count(*) from payments.stripe_requests where state = 'in_doubt'"
    wait_until(lambda: world.row(doubts) == (2,))
    worker.stop()
    world.sandbox.clear_faults()
    for number in range(250):
        if number % 50 == 0:
            world.sandbox.steer("POST", "clock", advance_s=10)
        world.sandbox.call("POST", "/v1/payment_intents", data={"amount": 500, "currency": "eur"}).raise_for_status()
    world.sandbox.steer("POST", "clock", advance_s=86_400 - 50)
    forget_keys(world)
    world.start_worker(**QUICK)
    wait_until(lambda: world.status(made) == "SUCCEEDED" and world.status(unmade) == "SUCCEEDED")
    assert generations(world, made) == [(1, "answered", "settled")]
    assert generations(world, unmade)[0] == (1, "answered", "absent")
    assert [len(world.sandbox.intents(payment_id)) for payment_id in (made, unmade)] == [1, 1]


@pytest.mark.parametrize("http_status", [None, 503])
def test_09_no_new_key_while_the_last_attempt_may_still_be_at_work(world: World, http_status: int | None) -> None:
    """Also when the answer of an earlier attempt still stands beside the call."""
    payment_id = world.request()
    world.sandbox.fault("before_executing", payment_id, times=None)
    worker = world.start_worker(**QUICK)
    wait_until(lambda: (world.call(payment_id) or {}).get("state") == "in_doubt")
    worker.stop()
    world.sandbox.clear_faults()
    world.execute(
        "update payments.stripe_requests set state = 'to_reconcile', http_status = %s,"
        f" first_attempt_at = now() - {OLD}, last_attempt_at = now() - interval '30 s'",
        http_status,
    )
    settings: dict[str, Any] = {**QUICK, "STRIPE_TIMEOUT_S": "20", "PAYMENTS_LEASE_S": "900"}
    world.start_worker(**settings)
    # Time enough for some turns: the job has none of its own, the call is not quiet yet.
    wait_until(lambda: world.rows("select from payments.reconciler_progress where job = 'turn/sweep'"))
    assert generations(world, payment_id) == [(1, "to_reconcile", None)]


def test_two_payment_intents_for_one_payment_are_left_to_an_operator(world: World) -> None:
    payment_id = world.request()
    leave_in_doubt(world, payment_id, "after_executing")
    again = {"amount": 1000, "currency": "eur", "metadata[paymentId]": str(payment_id)}
    world.sandbox.call("POST", "/v1/payment_intents", data=again).raise_for_status()
    world.start_worker(**QUICK)
    wait_until(lambda: world.status(payment_id) == "CONFLICTED")
    wait_until(lambda: generations(world, payment_id) == [(1, "parked", None)])
    ((letter_payment, error, payload),) = world.dead()
    assert letter_payment == payment_id
    assert "two for one wish" in error
    assert payload == {"paymentId": str(payment_id)}


@pytest.mark.parametrize("executed", [True, False], ids=["executed", "not executed"])
def test_void_of_a_payment_whose_parked_call_was_discarded_is_carried_out(
    world: World, monkeypatch: pytest.MonkeyPatch, *, executed: bool
) -> None:
    """The operator does nothing for the charge; what it may have made is looked for all the same."""
    monkeypatch.setattr(lost, "LOST_AFTER_S", 0.0)
    monkeypatch.setattr(lost, "EVERY_S", 0.2)
    world.execute("insert into payments.reconciler_progress (job, position) values ('turn/events', 'infinity')")
    payment_id = world.request(capture_method="manual")
    world.sandbox.fault("status", payment_id, status=400, executed=executed)
    world.start_worker(**QUICK)
    (number,) = wait_until(lambda: world.rows("select dead_letter_id from payments.dead_letters"))[0]
    discard = ("dead-letters", "discard", str(number), "--reason", "the cart is gone")
    assert payments(*discard, DATABASE_URL=world.database.admin_dsn()).returncode == 0
    world.execute("update payments.payments set status = 'VOIDING'")
    wait_until(world.settled(payment_id, "VOIDED"))
    assert [intent["status"] for intent in world.sandbox.intents(payment_id)] == ["canceled"] * executed
    assert generations(world, payment_id) == [(1, "answered", "settled" if executed else "absent")]


def hold(world: World) -> tuple[UUID, str]:
    payment_id = world.request(capture_method="manual")
    worker = world.start_worker(**QUICK)
    wait_until(world.settled(payment_id, "AUTHORIZED"))
    worker.stop()
    (intent,) = world.sandbox.intents(payment_id)
    return payment_id, intent["id"]


def doubtful_call(world: World, payment_id: UUID, subject_id: UUID, operation: str, parameters: dict[str, Any]) -> None:
    world.execute(
        "insert into payments.stripe_requests"
        " (payment_id, subject_id, operation, idempotency_key, parameters, attempts, state,"
        " first_attempt_at, last_attempt_at) values (%s, %s, %s, %s, %s::json, 1, 'to_reconcile',"
        f" now() - {OLD}, now() - {OLD})",
        payment_id,
        subject_id,
        operation,
        f"{subject_id}/{operation}/1",
        json.dumps(parameters),
    )


@pytest.mark.parametrize("done", [True, False], ids=["done", "not done"])
def test_capture_in_doubt(world: World, *, done: bool) -> None:
    payment_id, intent_id = hold(world)
    if done:
        world.sandbox.call("POST", f"/v1/payment_intents/{intent_id}/capture").raise_for_status()
    capture_id = uuid4()
    world.execute(
        "update payments.payments set status = 'CAPTURING', capture_id = %s, amount_to_capture = 1000", capture_id
    )
    doubtful_call(world, payment_id, capture_id, "capture_payment_intent", {"payment_intent": intent_id})
    world.start_worker(**QUICK)
    wait_until(world.settled(payment_id))
    outcomes = [outcome for _, _, outcome in generations(world, payment_id, "capture_payment_intent")]
    assert outcomes == (["settled"] if done else ["absent", "answered"])
    (intent,) = world.sandbox.intents(payment_id)
    assert intent["amount_captured"] == 1000


@pytest.mark.parametrize("done", [True, False], ids=["done", "not done"])
def test_cancel_in_doubt(world: World, *, done: bool) -> None:
    payment_id, intent_id = hold(world)
    if done:
        world.sandbox.call("POST", f"/v1/payment_intents/{intent_id}/cancel").raise_for_status()
    world.execute("update payments.payments set status = 'VOIDING'")
    doubtful_call(world, payment_id, payment_id, "cancel_payment_intent", {"payment_intent": intent_id})
    world.start_worker(**QUICK)
    wait_until(world.settled(payment_id, "VOIDED"))
    outcomes = [outcome for _, _, outcome in generations(world, payment_id, "cancel_payment_intent")]
    assert outcomes[0] in ({"settled"} if done else {"absent", "superseded"})
    (intent,) = world.sandbox.intents(payment_id)
    assert intent["status"] == "canceled"


@pytest.mark.parametrize("done", [True, False], ids=["done", "not done"])
def test_refund_in_doubt(world: World, *, done: bool) -> None:
    payment_id = world.request()
    worker = world.start_worker(**QUICK)
    wait_until(world.settled(payment_id))
    worker.stop()
    (intent,) = world.sandbox.intents(payment_id)
    refund_id = uuid4()
    if done:
        made = {
            "payment_intent": intent["id"],
            "amount": 300,
            "metadata[refundId]": str(refund_id),
            "metadata[paymentId]": str(payment_id),
        }
        world.sandbox.call("POST", "/v1/refunds", data=made).raise_for_status()
    world.execute(
        "insert into payments.refunds (refund_id, payment_id, amount, currency) values (%s, %s, 300, 'EUR')",
        refund_id,
        payment_id,
    )
    parameters = {"payment_intent": intent["id"], "amount": 300}
    doubtful_call(world, payment_id, refund_id, "create_refund", parameters)
    world.start_worker(**QUICK)
    wait_until(lambda: world.row("select status from payments.refunds") == ("PROCESSED",))
    outcomes = [outcome for _, _, outcome in generations(world, payment_id, "create_refund")]
    assert outcomes == (["settled"] if done else ["absent", "answered"])
    (intent,) = world.sandbox.intents(payment_id)
    assert intent["amount_refunded"] == 300


@pytest.mark.parametrize("executed", [True, False], ids=["executed", "not executed"])
def test_refund_whose_parked_call_was_discarded_ends_as_stripe_has_it(
    world: World, monkeypatch: pytest.MonkeyPatch, *, executed: bool
) -> None:
    """Where Stripe has nothing, its amount is free again: also for the refund that the operator made instead."""
    monkeypatch.setattr(lost, "LOST_AFTER_S", 0.0)
    monkeypatch.setattr(lost, "EVERY_S", 0.2)
    wish = wish_for(world, REFUND, sends=False)
    world.sandbox.steer("POST", "faults", fault="status", match={"path": "/v1/refunds"}, status=400, executed=executed)
    wish.send()
    world.start_worker(**QUICK)
    (number,) = wait_until(lambda: world.rows("select dead_letter_id from payments.dead_letters"))[0]
    by_hand = {"payment_intent": str(wish.intent_id), "amount": AMOUNT}
    if not executed:
        made = world.sandbox.call("POST", "/v1/refunds", data=by_hand).raise_for_status().json()
        world.execute(
            "insert into payments.inbox (source, message_id, message_type, payload)"
            " values ('stripe-webhook', 'evt_1', 'refund.created', %s)",
            json.dumps(event("refund.created", made)),
        )
    discard = ("dead-letters", "discard", str(number), "--reason", "given back in the Dashboard")
    assert payments(*discard, DATABASE_URL=world.database.admin_dsn()).returncode == 0
    ends = [(PART, "PROCESSED", None)] if executed else [(PART, "FAILED", "discarded"), (AMOUNT, "PROCESSED", None)]
    found = "select amount, status, failure_reason from payments.refunds order by amount"
    wait_until(lambda: world.rows(found) == ends)
    assert wish.effects() == [PART] * executed
    assert world.queued(wish.queue) == 0
