"""Two worker processes at once, killed and frozen at random while Stripe misbehaves: one charge per wish."""

import random
import signal
import time

from tests.conftest import wait_until
from tests.worker.world import LEASE_S, WorkerProcess, World

PAYMENTS = 40
ROUNDS = 6


def start(world: World) -> WorkerProcess:
    return world.start_worker_process(PAYMENTS_WORKER_CONCURRENCY="4")


def test_52_workers_killed_and_frozen_at_random_charge_once_per_wish(world: World) -> None:
    chance = random.Random(7)
    payments = [world.request() for _ in range(PAYMENTS)]
    for fault in ("slow", "after_executing", "before_executing", "mid_body"):
        world.sandbox.fault(fault, times=6, probability=0.4, delay_s=1.5 if fault == "slow" else 0.0)
    workers = [start(world), start(world)]
    for turn in range(ROUNDS):
        done = len(world.sandbox.requests())
        wait_until(lambda: len(world.sandbox.requests()) > done or world.queued() == 0)  # noqa: B023 - within the turn
        victim = chance.randrange(2)
        if turn % 2:
            workers[victim].signal(signal.SIGSTOP)
            time.sleep(LEASE_S + 0.2)  # past the lease: this wait is the scenario, not a hope
            workers[victim].signal(signal.SIGCONT)
        else:
            workers[victim].kill()
            workers[victim] = start(world)
    wait_until(lambda: world.queued() == 0, deadline_s=40)
    counted = "select count(*) from payments.payments where status = 'SUCCEEDED'"
    wait_until(lambda: world.row(counted) == (PAYMENTS,))
    intents = world.sandbox.intents()
    assert len(intents) == PAYMENTS
    assert {intent["metadata"]["paymentId"] for intent in intents} == {str(one) for one in payments}
    assert all(len(intent["charges"]) == 1 and intent["amount_captured"] == 1000 for intent in intents)
    assert world.dead() == []
    assert world.rows("select * from payments.stripe_requests where generation > 1 or state <> 'answered'") == []
    published = (
        "select count(*), count(distinct aggregate_id) from payments.outbox where event_type = 'payment-succeeded'"
    )
    assert world.row(published) == (PAYMENTS, PAYMENTS)
    assert world.rows("select * from payments.audit_imbalances") == []
