"""The demo must end in agreement while one process after the other is killed under it."""

import itertools
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.conftest import wait_until
from tests.system.running import PROCESSES, System, payments_up, surroundings

DEMO_S = 240.0
pytestmark = pytest.mark.timeout(2 * DEMO_S)


def settled_payments(system: System) -> int:
    return int(system.rows("select count(*) from payments.payments where status <> 'REQUESTED'")[0][0])


@pytest.fixture(scope="module")
def system() -> Iterator[System]:
    # A short lease: what a killed worker held is taken up again within seconds.
    with payments_up("--copies", "2", PAYMENTS_LEASE_S="6", STRIPE_TIMEOUT_S="4") as running:
        yield running


def test_demo_agrees_although_every_process_is_killed(system: System, eventually: Callable[..., Any]) -> None:
    command = [sys.executable, "-m", "payments", "demo", "--checkouts", "160", "--concurrency", "8"]
    environment = surroundings() | {"PAYMENTS_DATA_DIR": str(system.data_dir)}
    demo = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    killed = 0
    try:
        for process in itertools.cycle((*PROCESSES, "relay.2", "worker.2")):
            if demo.poll() is not None:
                break
            system.kill(process)
            killed += 1
            settled = settled_payments(system)
            # Breath between two kills, counted in work done: else nothing would ever be served.
            wait_until(lambda: demo.poll() is not None or settled_payments(system) > settled + 5, DEMO_S)  # noqa: B023
        output, _ = demo.communicate(timeout=DEMO_S)
    finally:
        demo.kill()
    assert demo.returncode == 0, output
    assert "Our books and Stripe's agree on all 160 payments." in output
    assert killed >= len(PROCESSES)

    eventually(lambda: system.rows("select * from payments.inbox_pending") == [], 60)
    eventually(lambda: system.rows("select 1 from payments.outbox_status where not dispatched") == [], 60)
    assert system.rows("select * from payments.audit_imbalances") == []
    assert system.rows("select * from payments.dead_letters") == []
    # Exactly once: every event of the outbox in each queue bound to it, by event id.
    doubled = "select headers ->> 'ce-id' from pgmq.q_ordering group by 1 having count(*) > 1"
    assert system.rows(doubled) == []
    untold = """
        select o.event_id from payments.outbox o where o.event_type not like '%%-requested'
        and not exists (select from pgmq.q_ordering q where q.headers ->> 'ce-id' = o.event_id::text)
        """
    assert system.rows(untold) == []
    intents = system.ledger()["payment_intents"]
    owners = [one["metadata"]["paymentId"] for one in intents]
    assert len(owners) == len(set(owners)), "a payment has two PaymentIntents"
