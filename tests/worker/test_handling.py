"""One command in the hands of one handler, when Stripe, the database or the command itself make trouble."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import psycopg
import pytest

from payments.database.connections import Connection, Pool, transaction
from payments.queues.queue import Queue
from payments.stripe_gateway.outcomes import RateLimited, Unknown
from payments.worker import calls, handling
from payments.worker.handling import FAULTS_MAX
from tests.development.databases import Database
from tests.worker.command_bench import LEASE_S, Bench, on_bench

LOCKED_S_MAX = 5.0  # far below the statement timeout, far above what a lock is waited for


def test_handler_counts_the_age_of_a_key_from_its_first_attempt(database: Database) -> None:
    """And the time in which it may still act from its last."""

    async def test(bench: Bench) -> None:
        bench.outcome = Unknown("timeout")
        await bench.handle(await bench.lease())
        ago = "- interval '2 hours'"
        (first,) = bench.rows(
            f"update payments.stripe_requests set first_attempt_at = first_attempt_at {ago},"
            f" last_attempt_at = last_attempt_at {ago} returning first_attempt_at"
        )
        bench.rows("update pgmq.q_payment_requested set vt = now() returning msg_id")
        await bench.handle(await bench.lease())
        assert len(bench.sent) == 2
        kept = "select first_attempt_at, last_attempt_at > now() - interval '1 minute' from payments.stripe_requests"
        assert bench.rows(kept) == [(*first, True)]

    on_bench(database, test)


def test_handler_waits_longer_each_time_that_stripe_is_busy(database: Database) -> None:
    """Attempts are not counted then; how often the command was delivered is."""

    async def test(bench: Bench) -> None:
        bench.outcome = RateLimited(None, "req_1", None)
        bench.rows("update pgmq.q_payment_requested set read_ct = 9 returning msg_id")
        await bench.handle(await bench.lease())
        assert bench.rows("select vt > now() + interval '10 s' from pgmq.q_payment_requested") == [(True,)]

    on_bench(database, test)


def test_handler_takes_the_age_of_a_key_from_the_clock_that_all_hosts_share(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This host's may be hours behind: a key that Stripe has forgotten would charge anew."""

    async def tomorrow(_: Connection) -> datetime:
        return datetime.now(UTC) + timedelta(hours=25)

    async def test(bench: Bench) -> None:
        bench.outcome = Unknown("timeout")
        await bench.handle(await bench.lease())
        bench.rows("update pgmq.q_payment_requested set vt = now() returning msg_id")
        monkeypatch.setattr(calls, "database_time", tomorrow)
        await bench.handle(await bench.lease())
        assert len(bench.sent) == 1
        assert bench.rows("select state from payments.stripe_requests") == [("to_reconcile",)]

    on_bench(database, test)


def test_handler_uncounts_an_attempt_once_though_its_commit_was_in_doubt(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counted down twice, the first attempt, of which nobody knows what it did, would be forgotten."""
    lost = iter([True])

    @contextlib.asynccontextmanager
    async def losing_the_first_commit(pool: Pool) -> AsyncIterator[Connection]:
        async with transaction(pool) as conn:
            yield conn
        if next(lost, False):
            raise psycopg.OperationalError("the connection broke while the commit was under way")

    async def test(bench: Bench) -> None:
        bench.outcome = Unknown("timeout")
        await bench.handle(await bench.lease())
        bench.rows("update pgmq.q_payment_requested set vt = clock_timestamp() returning msg_id")
        bench.outcome = RateLimited(None, None)
        monkeypatch.setattr(handling, "transaction", losing_the_first_commit)
        await bench.handle(await bench.lease())
        assert next(lost, None) is None
        assert bench.rows("select state, attempts, first_attempt_at is null from payments.stripe_requests") == [
            ("in_doubt", 1, False)
        ]

    on_bench(database, test)


def test_handler_uncounts_no_attempt_of_another_worker(database: Database) -> None:
    async def test(bench: Bench) -> None:
        lease = await bench.lease()
        bench.outcome = RateLimited(None, None)

        async def overtake() -> None:
            await bench.steal()
            bench.rows("update payments.stripe_requests set last_attempt_at = clock_timestamp() returning call_id")

        bench.during_call = overtake
        await bench.handle(lease)
        assert bench.rows("select state, attempts from payments.stripe_requests") == [("in_flight", 1)]

    on_bench(database, test)


def test_handler_hands_a_command_back_soon_when_somebody_keeps_its_payment_locked(database: Database) -> None:
    async def test(bench: Bench) -> None:
        lease = await bench.lease()
        with database.connect() as operator:
            operator.execute("begin")
            operator.execute("select from payments.payments where payment_id = %s for update", (bench.payment_id,))
            await asyncio.wait_for(bench.handle(lease), LOCKED_S_MAX)
        handed_back = (
            "select vt < clock_timestamp() + interval '2 seconds', headers -> 'x-payments-faults' "
            "from pgmq.q_payment_requested"
        )
        assert bench.rows(handed_back) == [(True, None)]
        bench.rows("update pgmq.q_payment_requested set vt = clock_timestamp() returning msg_id")
        await bench.handle(await bench.lease())
        assert len(bench.sent) == 1
        assert bench.rows("select state, attempts from payments.stripe_requests") == [("answered", 1)]

    on_bench(database, test)


def test_handler_commits_the_intent_before_the_call_and_holds_nothing_during_it(database: Database) -> None:
    async def test(bench: Bench) -> None:
        async def look() -> None:
            assert bench.rows("select state, attempts from payments.stripe_requests") == [("in_flight", 1)]
            bench.rows("select payment_id from payments.payments for update nowait")
            open_ones = (
                "select count(*) from pg_stat_activity where usename = 'payments_worker' and xact_start is not null"
            )
            assert bench.rows(open_ones) == [(0,)]

        bench.during_call = look
        await bench.handle(await bench.lease())
        assert bench.rows("select state from payments.stripe_requests") == [("answered",)]
        assert bench.rows("select error from payments.dead_letters") == []

    on_bench(database, test)


@pytest.mark.parametrize("error", [RuntimeError("bug"), KeyError("x"), AssertionError()])
def test_handler_counts_faults_and_gives_up_at_last(database: Database, error: Exception) -> None:
    async def test(bench: Bench) -> None:
        bench.outcome = error
        bench.rows("update pgmq.q_payment_requested set read_ct = 9 returning msg_id")  # by outages
        for fault in range(1, FAULTS_MAX + 1):
            bench.rows("update pgmq.q_payment_requested set vt = now() returning msg_id")
            bench.queue = Queue("payment_requested", LEASE_S)  # any worker counts on
            await bench.handle(await bench.lease())
            assert len(bench.sent) == fault
        ((payment_id, text),) = bench.rows("select payment_id, error from payments.dead_letters")
        assert payment_id == bench.payment_id
        assert text.startswith(f"broke {FAULTS_MAX} times: {type(error).__name__} at ")
        assert "bug" not in text  # an error's text may quote what was worked on
        assert len({key for _, key in bench.sent}) == 1

    on_bench(database, test)


def test_handler_treats_a_missing_grant_as_the_databases_fault_not_the_commands(database: Database) -> None:
    with database.connect() as conn:
        conn.execute("revoke insert on payments.stripe_requests from payments_worker")

    async def test(bench: Bench) -> None:
        await bench.handle(await bench.lease())
        assert bench.sent == []
        assert bench.rows("select headers -> 'x-payments-faults' from pgmq.q_payment_requested") == [(None,)]

    on_bench(database, test)
