"""Frozen in the middle of something, thawed when another has long taken over: no late word counts, nothing is doubled.

A process is frozen at a moment that is known: an administrator holds a lock that it waits for, or Stripe has its call
and has not answered. Its PostgreSQL session goes on alone, and keeps its locks until the server ends it.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from uuid import uuid4

import psycopg
import pytest

from tests.conftest import wait_until
from tests.scenarios.stripe import CAPTURE, REFUND
from tests.scenarios.world import World
from tests.system.running import System, payments_up

STIRRED_S = 45.0  # a session that idles in a transaction is ended after 15 s, a turn or a fetch is free about as soon
STRIPE_TIMEOUT_S = 2.0
IN_TRANSACTION = "select state from pg_stat_activity where usename = %s and xact_start is not null"


@pytest.fixture(scope="module")
def system() -> Iterator[System]:
    with payments_up(
        "--copies",
        "2",
        STRIPE_TIMEOUT_S=str(STRIPE_TIMEOUT_S),
        PAYMENTS_LEASE_S="4",
        PAYMENTS_RECONCILE_AFTER_S="3600",
        PAYMENTS_EVENTS_BACKFILL_S="2",
    ) as running:
        yield running


@contextmanager
def alone(world: World, kind: str) -> Iterator[Callable[[], None]]:
    """Only the first process of a kind is awake; call what is given to wake the second."""
    pid = world.freeze_at_rest(f"{kind}.2")
    try:
        yield lambda: world.thaw(pid)
    finally:
        world.thaw(pid)


@contextmanager
def thawed_at_last(world: World, pid: int) -> Iterator[None]:
    try:
        yield
    finally:
        world.thaw(pid)


def freeze_in_transaction(world: World, kind: str, lock: str, *values: Any, act: Callable[[], object]) -> int:
    """Freezes the process while it waits for a lock of ours, and lets its session have it; the process's id.

    From then on its statement has succeeded, and nobody commits it.
    """
    role = f"payments_{kind}"
    waits = "select 1 from pg_stat_activity where usename = %s and wait_event_type = 'Lock' and xact_start is not null"
    while True:
        with psycopg.connect(world.system.env["DATABASE_URL"]) as ours:
            ours.execute(lock, values)
            act()
            wait_until(lambda: world.system.rows(waits, role))
            pid = world.freeze(kind)
        states = wait_until(lambda: quiet if "active" not in (quiet := states_of(world, role)) else None)
        if "idle in transaction" in states:
            return pid
        world.thaw(pid)  # it had waited for too long already
        act = lambda: None  # noqa: E731 - it tries again by itself


def states_of(world: World, role: str) -> list[str]:
    return [row[0] for row in world.system.rows(IN_TRANSACTION, role)] or ["none"]


def told(world: World, payment_id: str) -> list[str]:
    """What Ordering's queue holds about a payment."""
    query = "select headers ->> 'ce-type' from pgmq.q_ordering where message ->> 'paymentId' = %s order by msg_id"
    return [row[0] for row in world.system.rows(query, payment_id)]


def test_52_relay_frozen_in_a_dispatch(world: World) -> None:
    payment = world.authorize(paymentMethod=None).json()
    payment_id = payment["paymentId"]
    wait_until(lambda: told(world, payment_id) == ["payment-action-required"])
    with alone(world, "relay") as wake_the_other:
        confirm = lambda: world.stripe.confirm(payment["nextAction"]["clientSecret"])  # noqa: E731
        pid = freeze_in_transaction(world, "relay", "lock table pgmq.q_ordering in exclusive mode", act=confirm)
        with thawed_at_last(world, pid):
            wake_the_other()
            assert world.until(payment_id, "SUCCEEDED")
            assert told(world, payment_id) == ["payment-action-required"], "the frozen one keeps the lane's lock"
            wait_until(lambda: told(world, payment_id) == ["payment-action-required", "payment-succeeded"], STIRRED_S)
    wait_until(lambda: world.logged("relay ", "database.lost"))
    world.agree()


def test_52_recorder_frozen_with_claimed_rows(world: World) -> None:
    payment = world.authorize(paymentMethod=None).json()
    payment_id = payment["paymentId"]
    with alone(world, "worker") as wake_the_other:
        confirm = lambda: world.stripe.confirm(payment["nextAction"]["clientSecret"])  # noqa: E731
        lock = "select from payments.payments where payment_id = %s for update"
        pid = freeze_in_transaction(world, "worker", lock, payment_id, act=confirm)
        with thawed_at_last(world, pid):
            wake_the_other()
            world.until(payment_id, "SUCCEEDED", deadline_s=STIRRED_S)
    wait_until(lambda: world.logged("worker ", "recorder.database_away"))
    assert world.way(payment_id) == ["REQUESTED", "ACTION_REQUIRED", "SUCCEEDED"]
    world.agree()


def test_52_recorder_frozen_in_a_fetch(world: World) -> None:
    payment = world.authorize(paymentMethod=None).json()
    payment_id = payment["paymentId"]
    intent_id = world.stripe.intent(payment_id)["id"]
    ours = world.heard(payment_id, "payment_intent.created")["api_version"]
    world.stripe.webhooks(api_version="2020-08-27")  # a hint: the object is asked for
    try:
        with alone(world, "worker") as wake_the_other:
            path = f"/v1/payment_intents/{intent_id}"
            slow = {"match": {"method": "GET", "path": path}, "delay_s": 0.9 * STRIPE_TIMEOUT_S, "when": "before"}
            late = world.stripe.fault_everywhere("slow", **slow)
            world.stripe.confirm(payment["nextAction"]["clientSecret"])
            wait_until(lambda: world.stripe.fired(late))
            pid = world.freeze_at_rest("worker")
            with thawed_at_last(world, pid):
                world.stripe.withdraw(late)
                assert world.payment(payment_id)["status"] == "ACTION_REQUIRED"
                wake_the_other()
                world.until(payment_id, "SUCCEEDED", deadline_s=STIRRED_S)
    finally:
        world.stripe.webhooks(api_version=ours)
    assert world.way(payment_id) == ["REQUESTED", "ACTION_REQUIRED", "SUCCEEDED"]
    world.agree()


def test_52_reconciler_frozen_in_its_turn(world: World) -> None:
    payment_id = world.paid()["paymentId"]
    intent_id = world.stripe.intent(payment_id)["id"]
    turn = "select 1 from payments.reconciler_progress where job = 'turn/events' and position > now() + interval '10 s'"
    world.stripe.webhooks(mode="drop")
    with alone(world, "worker") as wake_the_other:
        slow = {"match": {"method": "GET", "path": "/v1/events"}, "delay_s": 0.9 * STRIPE_TIMEOUT_S, "when": "after"}
        late = world.stripe.fault_everywhere("slow", **slow)
        made = world.stripe.refund_in_dashboard(intent_id, 700)
        seen = world.stripe.fired(late)
        wait_until(lambda: world.stripe.fired(late) > seen, STIRRED_S)
        pid = world.freeze_at_rest("worker")
        with thawed_at_last(world, pid):
            world.stripe.withdraw(late)
            assert world.system.rows(turn), "it has the turn"
            wake_the_other()
            wait_until(lambda: world.refunds(payment_id), STIRRED_S)
    (refund,) = world.refunds(payment_id)
    assert (refund["processorReference"], refund["external"]) == (made["id"], True)
    world.agree()


@pytest.mark.parametrize(
    ("path", "wish", "queue"), [(CAPTURE, "capture", "capture_requested"), (REFUND, "refunds", "refund_requested")]
)
def test_52_worker_frozen_in_a_call(world: World, path: str, wish: str, queue: str) -> None:
    cart = str(uuid4())
    payment_id = (world.held if wish == "capture" else world.paid)(cartId=cart)["paymentId"]
    waiting = f"select 1 from pgmq.q_{queue} where message ->> 'paymentId' = %s"
    with alone(world, "worker") as wake_the_other:
        late = world.stripe.fault("slow", cart, path, delay_s=0.9 * STRIPE_TIMEOUT_S)
        assert world.act(payment_id, wish, Prefer="wait=0").is_success
        wait_until(lambda: world.stripe.fired(late))
        pid = world.freeze_at_rest("worker")
        with thawed_at_last(world, pid):
            wake_the_other()
            wait_until(lambda: not world.system.rows(waiting, payment_id), STIRRED_S)  # the lease has run out
    wait_until(lambda: world.logged("lease.lost", payment_id))
    world.agree()


def test_52_worker_frozen_before_its_ack(world: World) -> None:
    """It has Stripe's answer; when it wants to acknowledge, the command is another's."""
    cart = str(uuid4())
    taken_over = "select 1 from pgmq.q_payment_requested where read_ct = 2 and message ->> 'paymentId' = %s"
    with alone(world, "worker") as wake_the_other:
        world.stripe.fault("slow", cart, delay_s=0.5 * STRIPE_TIMEOUT_S)
        payment_id = world.accepted(cartId=cart)["paymentId"]
        wait_until(lambda: world.call(payment_id).get("state") == "in_flight")
        lock = "select from payments.stripe_requests where payment_id = %s for update"
        pid = freeze_in_transaction(world, "worker", lock, payment_id, act=lambda: None)
        with thawed_at_last(world, pid):
            wake_the_other()
            wait_until(lambda: world.system.rows(taken_over, payment_id))
    wait_until(lambda: world.logged("worker ", "lease.lost", payment_id))
    world.until(payment_id, "SUCCEEDED")
    assert len(world.stripe.keys(payment_id)) == 1
    world.agree()
