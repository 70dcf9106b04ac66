"""Hosts whose clocks disagree, and processes that are asked to stop: no lease is lost, none is left to run out."""

import os
import signal
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from uuid import uuid4

import httpx
import pytest

from tests.conftest import wait_until
from tests.scenarios.world import World
from tests.system.running import READY_S, System, payments_up

SKEWED = Path(__file__).parent / "skewed"
LEASE_S = 600  # whoever has to wait for the end of one is not done in time
STRIPE_TIMEOUT_S = 8
IN_FLIGHT = """select count(*) from payments.stripe_requests
    where payment_id = any(%s::uuid[]) and state = 'in_flight'"""
LEASES = "select count(*) from pgmq.q_payment_requested where vt > now() + interval '1 minute'"


@pytest.fixture(scope="module")
def system() -> Iterator[System]:
    """The first worker is thirty hours ahead, the first relay as far behind, the API two hours, until they end."""
    with (
        tempfile.TemporaryDirectory() as marks,
        payments_up(
            "--copies",
            "2",
            PYTHONPATH=str(SKEWED),
            SKEWED_DIR=marks,
            STRIPE_TIMEOUT_S=str(STRIPE_TIMEOUT_S),
            STRIPE_CALLS_PER_S="10",
            PAYMENTS_LEASE_S=str(LEASE_S),
            PAYMENTS_RECONCILE_AFTER_S="3600",
            PAYMENTS_EVENTS_BACKFILL_S="1",
        ) as running,
    ):
        assert sorted(one.name for one in Path(marks).iterdir()) == ["api", "relay", "worker"]
        yield running


@pytest.fixture
def no_webhooks(world: World) -> None:
    """The API refuses them, for its clock is wrong."""
    world.stripe.webhooks(mode="drop")


@pytest.mark.usefixtures("no_webhooks")
def test_56_clocks_of_workers_and_relays_disagree(world: World) -> None:
    carts = [str(uuid4()) for _ in range(6)]
    for cart in carts:
        world.stripe.fault("slow", cart, delay_s=1.5)  # the other worker looks at these leases, again and again
    ids = [world.accepted(cartId=cart)["paymentId"] for cart in carts]
    for payment_id in ids:
        world.until(payment_id, "SUCCEEDED")
    assert [world.call(payment_id)["attempts"] for payment_id in ids] == [1] * len(ids)
    assert not world.logged("lease.lost")
    world.agree()


@pytest.mark.usefixtures("no_webhooks")
@pytest.mark.parametrize("other", ["worker.2", "worker"], ids=["the clock ahead", "the right clock"])
def test_56_age_of_a_key_is_the_databases(world: World, other: str) -> None:
    """Thirty hours later by its own clock, a worker sends the same key again; by nobody's clock too early."""
    pid = world.freeze_at_rest(other)
    try:
        cart = str(uuid4())
        world.stripe.fault("before_executing", cart, times=2)
        payment_id = world.accepted(cartId=cart)["paymentId"]
        world.until(payment_id, "SUCCEEDED")
    finally:
        world.thaw(pid)
    call = world.call(payment_id)
    assert (call["attempts"], call["generation"], len(world.stripe.keys(payment_id))) == (3, 1, 1)
    assert (call["last_attempt_at"] - call["first_attempt_at"]).total_seconds() > 0.5  # the pauses were kept
    world.agree()


def test_56_webhooks_need_the_apis_clock(world: World) -> None:
    payment = world.authorize(paymentMethod=None).json()
    world.stripe.confirm(payment["nextAction"]["clientSecret"]).raise_for_status()
    world.until(payment["paymentId"], "SUCCEEDED")  # from Stripe's list of events
    wait_until(lambda: world.logged("delivery.refused", "the timestamp is more than 300 s away from now"))
    assert [one["last_status"] for one in world.stripe.deliveries(type="payment_intent.succeeded")][-1] == 400
    wait_until(lambda: is_forgotten(world))
    world.agree()


def is_forgotten(world: World) -> bool:
    """Whether Stripe will try nothing again, which it would for days."""
    world.stripe.forget_webhooks()
    return not world.stripe.deliveries(status="pending")


def terminate(world: World, *processes: str) -> None:
    """SIGTERM to all of them at once; returns when each has ended well and another has taken its place."""
    old = {process: world.system.pid(process) for process in processes}
    for pid in old.values():
        assert pid is not None
        os.kill(pid, signal.SIGTERM)
    for process, pid in old.items():
        wait_until(lambda: world.system.pid(process) not in {None, pid}, READY_S)  # noqa: B023
        assert world.logged(f"{process} ended with exit code 0"), process
    wait_until(lambda: is_there(world), READY_S)


def is_there(world: World) -> bool:
    """Whether the API takes connections."""
    try:
        return world.http.get("/health/ready").is_success
    except httpx.TransportError:
        return False


@pytest.mark.usefixtures("no_webhooks")
def test_60_workers_are_stopped_under_load(world: World) -> None:
    slow = world.stripe.fault("slow", delay_s=1.0, times=None)
    ids = [world.accepted()["paymentId"] for _ in range(24)]
    wait_until(lambda: world.system.rows(IN_FLIGHT, ids)[0][0] >= 4)
    terminate(world, "worker", "worker.2")
    world.stripe.withdraw(slow)
    for payment_id in ids:
        world.until(payment_id, "SUCCEEDED")
    wait_until(lambda: world.system.rows(LEASES) == [(0,)])
    # One that was written down and not yet begun was handed back, and counts a second attempt.
    assert {len(world.stripe.calls(payment_id)) for payment_id in ids} == {1}, "what had begun was let finish"
    world.agree()


@pytest.mark.usefixtures("no_webhooks")
def test_60_relays_are_stopped_under_load(world: World) -> None:
    ids = [world.accepted()["paymentId"] for _ in range(20)]
    terminate(world, "relay", "relay.2")
    for payment_id in ids:
        world.until(payment_id, "SUCCEEDED")
    world.agree()


@pytest.mark.usefixtures("no_webhooks")
def test_60_api_is_stopped_while_callers_wait(world: World) -> None:
    carts = [str(uuid4()) for _ in range(6)]
    for cart in carts:
        world.stripe.fault("slow", cart, delay_s=4.0)
    known = "select count(*) from payments.payments where cart_id = any(%s::uuid[])"
    with ThreadPoolExecutor(len(carts)) as pool:
        waiting = [pool.submit(world.authorize, cartId=cart, wait_s=20) for cart in carts]
        wait_until(lambda: world.system.rows(known, carts) == [(len(carts),)])
        terminate(world, "api")
        answers = [one.result() for one in waiting]
    assert {answer.status_code for answer in answers} == {201}, "answered as it stands, none is cut off"
    for answer in answers:
        world.until(answer.json()["paymentId"], "SUCCEEDED")
    world.agree()
