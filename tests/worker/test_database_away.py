"""The database goes away, or takes a commit only half: the worker waits, and never calls on a doubt."""

from collections.abc import Iterator

import pytest

from tests.conftest import wait_until
from tests.development.databases import TestServer
from tests.postgres_faults.missing_standby import cancel_waits, missing_standby
from tests.worker.world import World


@pytest.fixture
def server(postgres_server: TestServer) -> Iterator[TestServer]:
    yield postgres_server
    if not postgres_server.postgres.is_ready():
        postgres_server.postgres.start()


def test_52_postgres_dies_during_the_call_and_comes_back(world: World, server: TestServer) -> None:
    payments = [world.request() for _ in range(3)]
    world.sandbox.fault("slow", delay_s=0.7, when="after", times=3)
    worker = world.start_worker(PAYMENTS_LEASE_S="4")
    wait_until(lambda: len(world.sandbox.intents()) == 3)
    server.postgres.kill()
    wait_until(lambda: worker.logged("answer.waiting"))
    server.postgres.start()
    for one in payments:
        wait_until(lambda: world.status(one) == "SUCCEEDED", deadline_s=30)  # noqa: B023 - within the turn
        (intent,) = world.sandbox.intents(one)
        assert len(intent["charges"]) == 1
    wait_until(lambda: world.queued() == 0)


def test_52_worker_works_again_after_a_restart_of_postgres(world: World, server: TestServer) -> None:
    before = world.request()
    worker = world.start_worker()
    wait_until(world.settled(before))
    server.postgres.restart()
    payment_id = world.request()
    wait_until(world.settled(payment_id), deadline_s=30)
    assert len(world.sandbox.intents(payment_id)) == 1
    worker.stop()


def test_commit_that_may_not_be_replicated_makes_no_call(world: World) -> None:
    """PostgreSQL warns when the wait for a standby is cut short: what was committed may be lost in a failover."""
    payment_id = world.request()
    with missing_standby(world.database):
        worker = world.start_worker(PAYMENTS_LEASE_S="60")

        def cut_short() -> bool:
            cancel_waits(world.database, "payments_worker")
            return bool(worker.logged("command.interrupted"))

        wait_until(cut_short)
        assert worker.logged("command.interrupted")[0]["error"].startswith("CommitUncertain")
        assert world.sandbox.requests() == []
        call = world.call(payment_id)
        assert call is not None
        assert (call["state"], call["attempts"]) == ("in_flight", 1)
    wait_until(world.settled(payment_id), deadline_s=30)
    assert len(world.sandbox.intents(payment_id)) == 1


def test_60_process_ends_in_time_though_its_commits_wait_for_a_standby(world: World) -> None:
    """No statement has a time limit there: only whoever waits can give up."""
    worker = world.start_worker_process(PAYMENTS_SHUTDOWN_GRACE_S="1")
    wait_until(lambda: worker.logged("process.started"))
    with missing_standby(world.database):
        with world.database.connect(options="-c synchronous_commit=off") as conn:
            conn.execute("select pgmq.send('payment_requested', 'null')")
        wait_until(lambda: waiting(world, "%payments.rate_limits%") > 0)
        worker.stop()
        assert worker.logged("process.cut_short")


def waiting(world: World, statement: str) -> int:
    """How many of the worker's commits wait for a standby, after such a statement."""
    query = """
    select count(*) from pg_stat_activity
    where wait_event = 'SyncRep' and usename = 'payments_worker' and query ilike %s
    """
    return int(world.row(query, statement)[0])
