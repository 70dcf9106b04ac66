"""Calling Stripe: whatever becomes of a call, a wish is carried out at most once, and nothing unknown called failed."""

import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any
from uuid import uuid4

import pytest

from tests.conftest import wait_until
from tests.scenarios.stripe import CAPTURE, CREATE
from tests.scenarios.world import World
from tests.system.running import System, payments_up

STRIPE_TIMEOUT_S = 1.0
BEYOND_TIMEOUT_S = STRIPE_TIMEOUT_S + 1.0
LEASE_S = 3
CALLS_PER_S = 20
WORKERS = ("worker", "worker.2")


@pytest.fixture(scope="module")
def system() -> Iterator[System]:
    with payments_up(
        "--copies",
        "2",
        STRIPE_TIMEOUT_S=str(STRIPE_TIMEOUT_S),
        STRIPE_CALLS_PER_S=str(CALLS_PER_S),
        PAYMENTS_LEASE_S=str(LEASE_S),
        # What the commands' own retries make of it is to be seen here.
        PAYMENTS_RECONCILE_AFTER_S="3600",
        PAYMENTS_EVENTS_BACKFILL_S="3600",
    ) as running:
        running.outwait_first_looks()
        yield running


def in_doubt(world: World, kind: str, **more: Any) -> dict[str, Any]:
    """A payment whose first call met a fault, so that nobody knows its outcome."""
    cart = str(uuid4())
    world.stripe.fault(kind, cart, **more)
    payment = world.accepted(cartId=cart)
    world.in_doubt(payment["paymentId"])
    assert world.payment(payment["paymentId"])["status"] == "REQUESTED"
    return payment


@pytest.mark.parametrize(
    ("kind", "delay_s"),
    [("after_executing", BEYOND_TIMEOUT_S), ("after_executing", 0.0), ("mid_body", 0.0)],
    ids=["silence", "broken connection", "half an answer"],
)
def test_01_timeout_after_stripe_executed(world: World, kind: str, delay_s: float) -> None:
    world.stripe.webhooks(mode="hold")  # else Stripe's event would tell before the replay
    payment = in_doubt(world, kind, delay_s=delay_s)
    world.until(payment["paymentId"], "SUCCEEDED")
    first, *_, last = world.stripe.calls(payment["paymentId"])
    assert (first["executed"], first["replayed"], last["replayed"]) == (True, False, True)
    assert len(world.stripe.keys(payment["paymentId"])) == 1
    world.stripe.release()
    world.agree()


def test_02_timeout_before_stripe_saw_it(world: World) -> None:
    payment = in_doubt(world, "before_executing", delay_s=BEYOND_TIMEOUT_S)
    world.until(payment["paymentId"], "SUCCEEDED")
    assert [one["executed"] for one in world.stripe.calls(payment["paymentId"])] == [False, True]
    assert len(world.stripe.keys(payment["paymentId"])) == 1
    world.agree()


def test_03_crash_between_the_answer_and_our_commit(world: World) -> None:
    world.stripe.webhooks(mode="hold")
    cart = str(uuid4())
    world.stripe.fault("slow", cart, delay_s=STRIPE_TIMEOUT_S / 2)
    with world.system.connect() as conn, conn.transaction():
        payment_id = world.accepted(cartId=cart)["paymentId"]
        wait_until(lambda: world.stripe.intents(payment_id))
        # Whoever records the answer now waits for us, and is killed meanwhile.
        conn.execute("select 1 from payments.stripe_requests where payment_id = %s for update", [payment_id])
        waiting = "select 1 from pg_locks l join pg_stat_activity a using (pid) where not granted and a.usename = %s"
        wait_until(lambda: world.system.rows(waiting, "payments_worker"))
        for worker in WORKERS:
            world.system.kill(worker)
    world.until(payment_id, "SUCCEEDED")
    assert [one["replayed"] for one in world.stripe.calls(payment_id)] == [False, True]
    assert len(world.stripe.keys(payment_id)) == 1
    world.stripe.release()
    world.agree()


def test_04_key_in_use(world: World) -> None:
    world.stripe.webhooks(mode="hold")
    payment = in_doubt(world, "slow", delay_s=3 * STRIPE_TIMEOUT_S)
    world.until(payment["paymentId"], "SUCCEEDED")
    calls = world.stripe.calls(payment["paymentId"])
    assert 409 in [one["status"] for one in calls]
    assert calls[-1]["replayed"]
    assert len(world.stripe.keys(payment["paymentId"])) == 1
    world.stripe.release()
    world.agree()


def test_05_parameters_changed_under_a_key(world: World) -> None:
    world.stripe.webhooks(mode="hold")
    cart = str(uuid4())
    world.stripe.fault("after_executing", cart)
    meanwhile = world.stripe.fault("before_executing", cart, times=None)
    payment_id = world.accepted(cartId=cart)["paymentId"]
    wait_until(lambda: world.stripe.fired(meanwhile))
    # What only a mistake of ours could do: the stored parameters are others than were sent.
    spoil = """update payments.stripe_requests
        set parameters = jsonb_set(parameters::jsonb, '{metadata,mistake}', '"ours"')::json where payment_id = %s"""
    world.execute(spoil, payment_id)
    world.stripe.withdraw(meanwhile)

    (letter,) = wait_until(lambda: world.dead_letters(payment_id))
    assert letter["origin"] == "queue:payment_requested"
    assert world.call(payment_id)["state"] == "parked"
    assert world.logged("call.parked", payment_id)
    assert world.payment(payment_id)["status"] == "REQUESTED"
    calls = world.stripe.calls(payment_id)
    assert calls[-1]["status"] == 400
    world.stripe.release()
    world.until(payment_id, "SUCCEEDED")  # the call is parked, and Stripe's event tells the truth all the same
    assert world.stripe.calls(payment_id) == calls
    assert len(world.stripe.keys(payment_id)) == 1
    world.agree(dead_letters=1)


@pytest.mark.parametrize("code", ["rate_limit", "lock_timeout"])
def test_06_rate_limit(world: World, code: str) -> None:
    cart = str(uuid4())
    world.stripe.fault("status", cart, status=429, error={"code": code}, times=2)
    payment_id = world.accepted(cartId=cart)["paymentId"]
    world.until(payment_id, "SUCCEEDED")
    calls = world.stripe.calls(payment_id)
    assert [one["status"] for one in calls] == [429, 429, 200]
    pauses = [after["at"] - before["at"] for before, after in pairwise(calls)]
    assert min(pauses) >= 0.5, "slow down: no second call at once"
    assert len(world.stripe.keys(payment_id)) == 1
    assert world.call(payment_id)["attempts"] == 1
    world.agree()


def test_08_decline_is_replayed_and_a_new_attempt_has_a_new_key(world: World) -> None:
    world.stripe.webhooks(mode="hold")
    cart, declined = str(uuid4()), "pm_card_visa_chargeDeclined"
    world.stripe.fault("after_executing", cart)
    first = world.authorize(cartId=cart, paymentMethod=declined)
    assert (first.status_code, first.json()["declineCode"]) == (402, "generic_decline")
    first_id = first.json()["paymentId"]
    assert [(one["status"], one["replayed"]) for one in world.stripe.calls(first_id)] == [(402, False), (402, True)]

    second_id = world.paid(cartId=cart)["paymentId"]
    assert world.stripe.keys(first_id).isdisjoint(world.stripe.keys(second_id))
    assert (len(world.stripe.keys(first_id)), len(world.stripe.keys(second_id))) == (1, 1)
    assert world.payment(first_id)["status"] == "FAILED"
    world.stripe.release()
    world.agree()


@pytest.mark.parametrize("status", [401, 403])
def test_10_key_refused(world: World, status: int) -> None:
    before = world.paid()  # so that the breaker is closed
    refused = world.stripe.fault_everywhere("status", status=status)
    ids = [world.accepted()["paymentId"] for _ in range(8)]
    wait_until(lambda: world.stripe.fired(refused) and world.logged("breaker.opened"))
    # Whoever was under way may still have called; after that, one probe at a time.
    tried = wait_until(lambda: world.stripe.fired(refused))
    wait_until(lambda: world.stripe.fired(refused) > tried)
    assert world.stripe.fired(refused) <= len(ids) + 4
    assert {world.payment(one)["status"] for one in ids} == {"REQUESTED"}
    world.stripe.withdraw(refused)
    for one in ids:
        world.until(one, "SUCCEEDED")
    assert before["status"] == "SUCCEEDED"
    world.agree()


def test_11_poison_command(world: World) -> None:
    cart = str(uuid4())
    error = {"code": "parameter_unknown", "param": "automatic_payment_methods"}
    world.stripe.fault("status", cart, status=400, error=error, times=None)
    poisoned = world.accepted(cartId=cart)["paymentId"]
    world.execute("""select pgmq.send('payment_requested', '{"no": "command"}')""")
    ids = [world.paid()["paymentId"] for _ in range(3)]
    assert len(ids) == 3
    (letter,) = wait_until(lambda: world.dead_letters(poisoned))
    assert letter["origin"] == "queue:payment_requested"
    assert world.payment(poisoned)["status"] == "REQUESTED"
    assert len(world.stripe.calls(poisoned)) == 1
    wait_until(lambda: [one for one in world.dead_letters(None) if one["payload"] == {"no": "command"}])
    world.agree(dead_letters=2, waiting=(poisoned,))


def freeze_in_a_call(world: World) -> tuple[str, int]:
    """Stop the first worker while it waits for Stripe's answer; the payment and the worker's id."""
    while True:
        cart = str(uuid4())
        world.stripe.fault("slow", cart, delay_s=0.8 * STRIPE_TIMEOUT_S)
        payment_id = world.accepted(cartId=cart)["paymentId"]
        wait_until(lambda: world.stripe.intents(payment_id))  # noqa: B023
        pid = world.freeze_at_rest("worker")
        if world.call(payment_id)["state"] == "in_flight":
            return payment_id, pid
        world.thaw(pid)  # too late: it was answered before


def test_12_two_workers_hold_one_command(world: World, eventually: Callable[..., Any]) -> None:
    second = world.freeze_at_rest("worker.2")
    try:
        world.stripe.webhooks(mode="hold")
        payment_id, first = freeze_in_a_call(world)
    finally:
        world.thaw(second)
    try:
        world.until(payment_id, "SUCCEEDED")  # the lease ran out, and the other took over
    finally:
        world.thaw(first)
    eventually(lambda: world.logged("lease.lost", payment_id))
    assert len(world.stripe.keys(payment_id)) == 1
    answers = "select count(*) from payments.inbox where payment_id = %s and source = 'stripe-api'"
    eventually(lambda: world.system.rows(answers, payment_id)[0][0] >= 1)
    assert [one["decision"] for one in world.history(payment_id) if one["to"] != one["from"]] == ["applied"] * 2
    world.stripe.release()
    world.agree()


def test_13_parameters_are_sent_as_they_were_stored(world: World) -> None:
    cart = str(uuid4())
    away = world.stripe.fault("before_executing", cart, times=None)
    payment_id = world.accepted(cartId=cart)["paymentId"]
    world.in_doubt(payment_id)
    # As an earlier version of the service would have written them.
    older = """update payments.stripe_requests
        set parameters = jsonb_set(parameters::jsonb, '{metadata,writtenBy}', '"version 0"')::json
        where payment_id = %s returning parameters"""
    ((stored,),) = world.system.rows(older, payment_id)
    for worker in WORKERS:
        world.system.kill(worker)  # the next version starts
    world.stripe.withdraw(away)
    world.until(payment_id, "SUCCEEDED")
    assert world.stripe.intent(payment_id)["metadata"] == stored["metadata"]
    assert world.call(payment_id)["parameters"] == stored
    assert len(world.stripe.keys(payment_id)) == 1
    world.agree()


@pytest.mark.parametrize(
    "lie", [{"amount": 1}, {"currency": "usd"}, {"livemode": True}], ids=lambda lie: next(iter(lie))
)
def test_14_answer_that_contradicts_us(world: World, lie: dict[str, Any]) -> None:
    world.stripe.webhooks(mode="drop")
    cart = str(uuid4())
    world.stripe.fault("alter", cart, set=lie)
    payment_id = world.accepted(cartId=cart)["paymentId"]
    world.until(payment_id, "CONFLICTED")
    assert world.events(payment_id) == ["payment-requested"]
    (conflict,) = [one for one in world.history(payment_id) if one["decision"] == "conflicted"]
    assert conflict["why"]
    listed = world.http.get("/payments", params={"status": "CONFLICTED"}).json()["items"]
    assert payment_id in [one["paymentId"] for one in listed]
    assert world.logged("payment.conflicted", payment_id)
    world.agree(conflicted=(payment_id,))


def test_14_answer_about_another_object(world: World) -> None:
    cart = str(uuid4())
    payment_id = world.held(cartId=cart)["paymentId"]
    world.stripe.webhooks(mode="drop")
    world.stripe.fault("alter", cart, CAPTURE, set={"id": "pi_somebody_elses"})
    assert world.act(payment_id, "capture").status_code == 202
    world.until(payment_id, "CONFLICTED")
    assert "payment-succeeded" not in world.events(payment_id)
    world.agree(conflicted=(payment_id,))


def test_15_stripe_is_down(world: World) -> None:
    down = world.stripe.fault_everywhere("status", status=503)
    ids = [world.accepted()["paymentId"] for _ in range(2 * CALLS_PER_S)]
    wait_until(lambda: world.stripe.fired(down) >= 6)
    assert {world.payment(one)["status"] for one in ids} == {"REQUESTED"}
    back_at = time.time()
    world.stripe.withdraw(down)
    for one in ids:
        world.until(one, "SUCCEEDED")
    calls = sorted(one["at"] for one in world.stripe.calls(path=CREATE) if one["at"] > back_at)
    # Bounded in every second; workers reserve at most a second ahead.
    busiest = max(sum(start <= at < start + 1 for at in calls) for start in calls)
    assert busiest <= 2 * CALLS_PER_S
    world.agree()
