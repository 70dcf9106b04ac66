"""Doubtful calls: who looks after them next, and whose answer or dead letter counts, when several hold a command."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec
import psycopg
import pytest
from structlog.testing import capture_logs

from payments.database.connections import Connection, Pool
from payments.stripe_gateway.outcomes import KeyMisused, Unknown
from payments.worker import handling
from tests.development.databases import Database
from tests.worker.command_bench import ANSWER, DEAD, Bench, on_bench

REPEATED = Unknown("HTTP 500", 500, "req_1", is_replayed=True)


def test_handler_leaves_one_dead_letter_when_both_holders_of_a_command_park_its_call(database: Database) -> None:
    async def test(bench: Bench) -> None:
        lease = await bench.lease()
        bench.outcome = KeyMisused("m", "req_1")

        async def overtake() -> None:
            bench.during_call = None
            await bench.steal()
            await bench.handle(msgspec.structs.replace(lease, read_ct=lease.read_ct + 1))

        bench.during_call = overtake
        await bench.handle(lease)
        assert len(bench.sent) == 2
        assert bench.rows("select * from pgmq.q_payment_requested") == []
        assert len(bench.rows(DEAD)) == 1

    on_bench(database, test)


def test_handler_leaves_no_dead_letter_when_another_worker_got_the_answer_meanwhile(database: Database) -> None:
    async def test(bench: Bench) -> None:
        lease = await bench.lease()
        bench.outcome = KeyMisused("m", "req_1")

        async def overtake() -> None:
            bench.during_call, bench.outcome = None, ANSWER
            await bench.steal()
            await bench.handle(msgspec.structs.replace(lease, read_ct=lease.read_ct + 1))
            bench.outcome = KeyMisused("m", "req_1")

        bench.during_call = overtake
        await bench.handle(lease)
        assert bench.rows("select state from payments.stripe_requests") == [("answered",)]
        assert bench.rows(DEAD) == []

    on_bench(database, test)


def test_handler_leaves_to_the_reconciler_what_stripe_keeps_repeating(database: Database) -> None:
    async def test(bench: Bench) -> None:
        bench.outcome = REPEATED
        await bench.handle(await bench.lease())
        assert bench.rows("select state, outcome, http_status from payments.stripe_requests") == [
            ("to_reconcile", None, 500)
        ]
        assert bench.rows("select * from pgmq.q_payment_requested") == []
        assert bench.rows(DEAD) == []

    on_bench(database, test)


def test_handler_takes_nothing_from_the_reconciler_when_another_attempt_ends_in_doubt(database: Database) -> None:
    async def test(bench: Bench) -> None:
        lease = await bench.lease()
        bench.outcome = Unknown("timeout")

        async def overtake() -> None:
            bench.during_call, bench.outcome = None, REPEATED
            await bench.steal()
            await bench.handle(msgspec.structs.replace(lease, read_ct=lease.read_ct + 1))
            bench.outcome = Unknown("timeout")

        bench.during_call = overtake
        await bench.handle(lease)
        kept = "select state, attempts, http_status, last_error from payments.stripe_requests"
        assert bench.rows(kept) == [("to_reconcile", 2, 500, "Stripe keeps repeating: HTTP 500")]

    on_bench(database, test)


def test_handler_keeps_an_answer_that_comes_after_the_reconciler_was_called(database: Database) -> None:
    async def test(bench: Bench) -> None:
        lease = await bench.lease()

        async def overtake() -> None:
            bench.during_call, bench.outcome = None, REPEATED
            await bench.steal()
            await bench.handle(msgspec.structs.replace(lease, read_ct=lease.read_ct + 1))
            bench.outcome = ANSWER

        bench.during_call = overtake
        await bench.handle(lease)
        assert bench.rows("select state, outcome from payments.stripe_requests") == [("answered", "answered")]
        assert len(bench.rows("select * from payments.inbox")) == 1

    on_bench(database, test)


def test_handler_takes_no_answer_back_when_stripe_repeats_itself_to_another_attempt(database: Database) -> None:
    async def test(bench: Bench) -> None:
        lease = await bench.lease()

        async def overtake() -> None:
            bench.during_call, bench.outcome = None, ANSWER
            await bench.steal()
            await bench.handle(msgspec.structs.replace(lease, read_ct=lease.read_ct + 1))
            bench.outcome = REPEATED

        bench.during_call = overtake
        with capture_logs() as logs:
            await bench.handle(lease)
        assert bench.rows("select state, outcome from payments.stripe_requests") == [("answered", "answered")]
        assert not [line for line in logs if line["event"] == "command.broken"], "it is not even tried"

    on_bench(database, test)


def test_handler_takes_nothing_from_an_operator_when_stripe_repeats_itself_to_another_attempt(
    database: Database,
) -> None:
    """The reconciler might have the call made again, while the operator still looks into it."""

    async def test(bench: Bench) -> None:
        lease = await bench.lease()

        async def overtake() -> None:
            bench.during_call, bench.outcome = None, KeyMisused("m", "req_1")
            await bench.steal()
            await bench.handle(msgspec.structs.replace(lease, read_ct=lease.read_ct + 1))
            bench.outcome = REPEATED

        bench.during_call = overtake
        await bench.handle(lease)
        assert bench.rows("select state, http_status, last_error from payments.stripe_requests") == [
            ("parked", None, "the key was used with other parameters")
        ]

    on_bench(database, test)


def test_handler_leaves_a_later_attempt_alone_when_a_late_one_ends_in_doubt(database: Database) -> None:
    async def test(bench: Bench) -> None:
        lease = await bench.lease()
        bench.outcome = Unknown("timeout")

        async def overtake() -> None:
            await bench.steal()
            bench.rows("update payments.stripe_requests set attempts = 2, last_attempt_at = now() returning call_id")

        bench.during_call = overtake
        await bench.handle(lease)
        assert bench.rows("select state, attempts from payments.stripe_requests") == [("in_flight", 2)]

    on_bench(database, test)


def test_answer_that_is_stored_again_after_a_commit_in_doubt_is_kept_once(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first commit was one, but nobody heard of it."""
    commit, said = handling.transaction, list[str]()

    @asynccontextmanager
    async def doubtful(pool: Pool) -> AsyncIterator[Connection]:
        async with commit(pool) as conn:
            yield conn
        if said == ["called"]:
            said.append("in doubt")
            raise psycopg.OperationalError("the connection was lost in the commit")

    async def test(bench: Bench) -> None:
        lease = await bench.lease()

        async def called() -> None:
            said.append("called")

        bench.during_call = called
        monkeypatch.setattr(handling, "transaction", doubtful)
        await bench.handle(lease)
        assert said == ["called", "in doubt"]
        assert len(bench.rows("select from payments.inbox")) == 1

    on_bench(database, test)
