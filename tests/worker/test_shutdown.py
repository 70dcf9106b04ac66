"""Scenario 60: calls under way finish or are handed back at once, and no lease is left to run out."""

import time

import pytest

from tests.conftest import wait_until
from tests.worker.world import QUEUE, World

LONG_LEASE = {"PAYMENTS_LEASE_S": "600", "STRIPE_TIMEOUT_S": "30"}


def leases(world: World) -> int:
    return int(world.row(f"select count(*) from pgmq.q_{QUEUE} where vt > clock_timestamp()")[0])


def test_60_calls_under_way_finish(world: World) -> None:
    payments = [world.request() for _ in range(6)]
    world.sandbox.fault("slow", delay_s=1.0, when="after", times=2)
    worker = world.start_worker_process(**LONG_LEASE, PAYMENTS_WORKER_CONCURRENCY="2")
    wait_until(lambda: len(world.sandbox.intents()) == 2)
    worker.stop()
    assert len(world.sandbox.intents()) == 2  # nothing was begun after the signal
    assert sum(len(world.answers(one)) for one in payments) == 2
    assert world.queued() == 4
    assert leases(world) == 0


def test_60_calls_that_outlast_the_grace_are_handed_back(world: World) -> None:
    payment_id = world.request()
    world.sandbox.fault("slow", delay_s=4.0, when="after")
    worker = world.start_worker_process(**LONG_LEASE, PAYMENTS_SHUTDOWN_GRACE_S="1")
    wait_until(lambda: world.sandbox.intents(payment_id))
    began = time.monotonic()
    worker.stop()
    assert time.monotonic() - began < 8
    assert (world.queued(), leases(world)) == (1, 0)
    call = world.call(payment_id)
    assert call is not None
    assert call["state"] == "in_flight"
    world.start_worker(records=True, **LONG_LEASE)
    wait_until(world.settled(payment_id))
    assert len(world.sandbox.intents(payment_id)) == 1


def test_60_commands_that_wait_for_their_turn_are_handed_back_at_once(world: World) -> None:
    payments = [world.request() for _ in range(5)]
    # One call a second: the others of a second's reservation wait for theirs.
    world.execute("update payments.rate_limits set next_call_at = clock_timestamp() + interval '0.9 seconds'")
    worker = world.start_worker(records=True, **LONG_LEASE, STRIPE_CALLS_PER_S="20")
    wait_until(lambda: leases(world) > 0)
    worker.stop()
    assert leases(world) == 0
    recorded = sum(len(world.answers(one)) for one in payments)
    assert recorded + world.queued() == 5
    assert recorded == len(world.sandbox.intents())


@pytest.mark.parametrize("copies", [2])
def test_60_stopping_one_of_several_loses_nothing(world: World, copies: int) -> None:
    payments = [world.request() for _ in range(30)]
    first, *_ = [world.start_worker_process(PAYMENTS_WORKER_CONCURRENCY="4") for _ in range(copies)]
    wait_until(lambda: len(world.sandbox.intents()) >= 3)
    first.stop()
    for one in payments:
        wait_until(lambda: world.status(one) == "SUCCEEDED")  # noqa: B023 - awaited within the turn
        (intent,) = world.sandbox.intents(one)
        assert intent["amount_captured"] == 1000
