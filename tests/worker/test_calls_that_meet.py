"""Two handlers at one call, or one at a later generation of it: each statement sees what the other has written."""

import asyncio
from typing import Any

import msgspec
import pytest
import structlog

from payments.stripe_gateway.outcomes import Unknown
from payments.worker import calls
from tests.conftest import wait_until_async
from tests.development.databases import Database
from tests.worker.command_bench import ANSWER, DEAD, Bench, on_bench

CALLS = "select generation, state, outcome, attempts from payments.stripe_requests order by generation"
WAITING = "select from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()"


def broken(logs: list[Any]) -> list[Any]:
    return [entry for entry in logs if entry["event"] == "command.broken"]


async def leave_in_doubt(bench: Bench) -> None:
    """One attempt without an answer; the command is due again."""
    bench.outcome = Unknown("timeout")
    await bench.handle(await bench.lease())
    bench.rows("update pgmq.q_payment_requested set vt = now() returning msg_id")
    bench.outcome = ANSWER


def test_both_answers_to_one_call_are_kept(database: Database) -> None:
    async def test(bench: Bench) -> None:
        lease = await bench.lease()

        async def overtake() -> None:
            bench.during_call = None
            await bench.steal()
            await bench.handle(msgspec.structs.replace(lease, read_ct=lease.read_ct + 1))

        bench.during_call = overtake
        with structlog.testing.capture_logs() as logs:
            await bench.handle(lease)
        assert broken(logs) == []
        assert bench.rows(CALLS) == [(1, "answered", "answered", 2)]
        assert len(bench.rows("select from payments.inbox")) == 2
        assert bench.rows("select from pgmq.q_payment_requested") == bench.rows(DEAD) == []

    on_bench(database, test)


def test_answer_that_is_about_to_be_committed_is_waited_for(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It needs no lock on the payment, so the one on the call has to tell."""
    monkeypatch.setattr(calls, "LOCK_WAIT_MS", 10_000)
    answer = "update payments.stripe_requests set state = 'answered', outcome = 'answered', answered_at = now()"

    async def test(bench: Bench) -> None:
        await leave_in_doubt(bench)
        lease = await bench.lease()
        with structlog.testing.capture_logs() as logs, database.connect(autocommit=False) as another:
            another.execute(answer)
            handling = asyncio.create_task(bench.handle(lease))
            await wait_until_async(lambda: handling.done() or bench.rows(WAITING))
            another.commit()
            await handling
        assert broken(logs) == []
        assert len(bench.sent) == 1
        assert bench.rows("select from pgmq.q_payment_requested") == []

    on_bench(database, test)


def test_void_that_is_about_to_be_committed_is_waited_for(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """The payment's lock lets the wish to void and the decision to call come one after the other."""
    monkeypatch.setattr(calls, "LOCK_WAIT_MS", 10_000)

    async def test(bench: Bench) -> None:
        lease = await bench.lease()
        with database.connect(autocommit=False) as api:
            api.execute("update payments.payments set status = 'VOIDING'")
            handling = asyncio.create_task(bench.handle(lease))
            await wait_until_async(lambda: handling.done() or bench.rows(WAITING))
            api.commit()
            await handling
        assert bench.sent == []
        assert bench.rows("select status from payments.payments") == [("VOIDED",)]
        assert bench.rows("select from pgmq.q_payment_requested") == []

    on_bench(database, test)


def test_newest_generation_goes_on_under_its_own_key(database: Database) -> None:
    async def test(bench: Bench) -> None:
        await leave_in_doubt(bench)
        bench.rows(
            "update payments.stripe_requests set state = 'answered', outcome = 'absent', answered_at = now()"
            " returning call_id"
        )
        await leave_in_doubt(bench)
        await bench.handle(await bench.lease())
        first, *others = [key for _, key in bench.sent]
        assert first not in others
        assert len(set(others)) == 1
        assert bench.rows(CALLS) == [(1, "answered", "absent", 1), (2, "answered", "answered", 2)]

    on_bench(database, test)
