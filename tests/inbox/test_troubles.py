"""Poison, a database that goes away, wake-ups and the command line."""

import argparse
import asyncio
import json
from collections.abc import Callable
from typing import Any, Self
from uuid import UUID

import pytest

from payments.commands import inbox as inbox_command
from payments.database.connections import open_pool
from payments.inbox import recorder as recorder_module
from payments.inbox.low_water import FROM_THE_START, ROUND_S, SWEEP_S, SWEEP_SHARE, TRAIL_S, DueFloor, LowWater
from payments.inbox.recorder import ATTEMPTS_MAX, Recorder
from payments.settings import Settings
from payments.wakeup import INBOX, Listener, Notifier
from tests.development.databases import Database
from tests.domain.stripe_objects import answered, event, intent
from tests.inbox.conftest import ROLE, Desk, Notices, Truth

pytestmark = pytest.mark.anyio


def command(desk: Desk, *words: str) -> int:
    """`payments inbox …` in this process, without its logging."""
    parser = argparse.ArgumentParser()
    inbox_command.add_arguments(parser)
    return inbox_command.run(parser.parse_args(words), Settings.load({"DATABASE_URL": desk.database.admin_dsn()}))


POISON = """
create function public.refuse() returns trigger language plpgsql as $$
begin
  if new.payment_id = '{payment_id}' then
    raise exception 'poison' using errcode = '{errcode}', detail = 'Failing row contains (…)';
  end if;
  return new;
end $$;
create trigger refuse before update on payments.payments for each row execute function public.refuse();
"""


def succeed(desk: Desk, number: int, **options: Any) -> UUID:
    payment_id = desk.payment(**options)
    desk.answer(answered(intent(payment_id, "succeeded", id=f"pi_{number}")), payment_id)
    return payment_id


@pytest.mark.every_postgres
async def test_poison_is_given_up_after_its_attempts_while_the_others_flow(
    desk: Desk, capsys: pytest.CaptureFixture[str]
) -> None:
    payments = [succeed(desk, number) for number in range(5)]
    poisoned = payments[2]
    desk.admin.execute(POISON.format(payment_id=poisoned, errcode="check_violation"))
    await desk.recorder.run_once()
    assert [desk.status(payment_id) for payment_id in payments] == [
        "SUCCEEDED" if payment_id != poisoned else "REQUESTED" for payment_id in payments
    ]
    attempts, error, is_waiting = desk.one(
        "select attempts, last_error, next_attempt_at > now() from payments.inbox where payment_id = %s", poisoned
    )
    assert (attempts, is_waiting) == (1, True)
    assert "poison" in error
    assert "Failing row" not in error, "PostgreSQL's details quote whole rows"
    desk.admin.execute("update payments.inbox set attempts = 5, next_attempt_at = now() where processed_at is null")
    await desk.recorder.run_once()
    pause_s = "select extract(epoch from next_attempt_at - now())::int from payments.inbox where attempts = 6"
    assert desk.one(pause_s)[0] > 25, "what cannot be written for some minutes is not given up"
    await desk.settle()
    assert desk.outcomes() == ["applied", "applied", "dead", "applied", "applied"]
    assert desk.sql("select origin, message_id, payment_id, attempts from payments.dead_letters") == [
        ("inbox", "3", poisoned, ATTEMPTS_MAX)
    ]
    assert desk.history(poisoned) == [], "what failed left no trace but the dead letter"

    assert command(desk, "status") == 1
    assert "poison" in capsys.readouterr().out
    assert command(desk, "show", str(poisoned), "--payload") == 0
    shown = capsys.readouterr().out
    assert "dead" in shown
    assert "secret_of_tests" not in shown
    assert command(desk, "retry", "3") == 0
    assert desk.one("select attempts from payments.inbox where inbox_id = 3") == (0,)
    await desk.settle()
    assert desk.one("select count(*), min(resolved_at) from payments.dead_letters") == (1, None), "it died once more"
    desk.admin.execute("drop trigger refuse on payments.payments")
    assert command(desk, "retry", "3") == 0
    assert command(desk, "retry", "1") == 1
    await desk.settle()
    assert desk.status(poisoned) == "SUCCEEDED"
    assert command(desk, "status") == 0
    assert command(desk, "show", "evt_nobody") == 1


async def test_row_whose_statement_takes_too_long_stops_no_other(desk: Desk) -> None:
    payments = [succeed(desk, number) for number in range(3)]
    desk.admin.execute(POISON.format(payment_id=payments[0], errcode="query_canceled"))
    await desk.recorder.run_once()
    assert [desk.status(payment_id) for payment_id in payments] == ["REQUESTED", "SUCCEEDED", "SUCCEEDED"]
    assert desk.one("select attempts from payments.inbox where payment_id = %s", payments[0]) == (1,)


@pytest.mark.parametrize("errcode", ["deadlock_detected", "lock_not_available"])
async def test_row_that_others_are_in_the_way_of_is_no_poison(desk: Desk, errcode: str) -> None:
    payment_id = succeed(desk, 1)
    desk.admin.execute(POISON.format(payment_id=payment_id, errcode=errcode))
    await desk.recorder.run_once()
    assert desk.one("select attempts, next_attempt_at > now(), processed_at from payments.inbox") == (0, True, None)


async def test_payment_that_an_operator_keeps_locked_holds_up_no_other_and_is_never_given_up(desk: Desk) -> None:
    locked, *others = [succeed(desk, number) for number in range(5)]
    with desk.database.connect(autocommit=False) as operator:
        operator.execute("select from payments.payments where payment_id = %s for update", (locked,))
        async with asyncio.timeout(10):  # far below the time limit of a statement
            await desk.recorder.run_once()
        assert [desk.status(payment_id) for payment_id in others] == ["SUCCEEDED"] * 4
        for _ in range(ATTEMPTS_MAX):
            desk.sql("update payments.inbox set next_attempt_at = now() where processed_at is null")
            await desk.recorder.run_once()
        assert desk.one("select attempts, outcome, next_attempt_at > now() from payments.inbox where inbox_id = 1") == (
            0,
            None,
            True,
        )
    await desk.settle()
    assert desk.status(locked) == "SUCCEEDED"


async def test_row_that_nobody_can_read_is_given_up_at_once(desk: Desk) -> None:
    payment_id = desk.payment()
    desk.answer({"operation": "create_payment_intent", "outcome": "answered", "object": {}}, payment_id)
    desk.answer({"operation": "create_miracle", "outcome": "answered"}, payment_id, number=2)
    good = succeed(desk, 1)
    await desk.recorder.run_once()
    assert desk.outcomes() == ["dead", "dead", "applied"]
    assert (desk.status(payment_id), desk.status(good)) == ("REQUESTED", "SUCCEEDED")


async def test_grants_gone_wrong_bury_nothing(desk: Desk) -> None:
    payment_id = succeed(desk, 1)
    desk.admin.execute("revoke update (status) on payments.payments from payments_worker")
    for _ in range(3):
        with pytest.raises(Exception, match="permission denied"):
            await desk.recorder.run_once()
    desk.admin.execute("grant update (status) on payments.payments to payments_worker")
    await desk.settle()
    assert desk.status(payment_id) == "SUCCEEDED"


async def test_row_that_commits_late_is_found(desk: Desk) -> None:
    payment_id = desk.payment()
    with desk.database.connect(autocommit=False) as late:
        late.execute(
            "insert into payments.inbox (source, message_id, message_type, payment_id, payload)"
            " values ('stripe-webhook', 'evt_late', 'payment_intent.succeeded', %s, %s)",
            (payment_id, json.dumps(event("payment_intent.succeeded", intent(payment_id, "succeeded")))),
        )
        succeed(desk, 1)
        await desk.settle()
        assert desk.status(payment_id) == "REQUESTED"
        late.commit()
    await desk.settle()
    assert desk.status(payment_id) == "SUCCEEDED"


def test_low_water_trails() -> None:
    mark = LowWater(0.0)
    assert mark.floor(0.0) == 0
    mark.note(0.0, 100, is_drained=True)
    assert mark.floor(SWEEP_S / 2) == 0
    mark.note(SWEEP_S / 2, 200, is_drained=True)
    assert mark.floor(SWEEP_S) == 0, "a sweep"
    mark.note(SWEEP_S, None, is_drained=True)
    assert mark.floor(TRAIL_S + 1) == 100
    mark.note(TRAIL_S + 1, None, is_drained=True)
    assert mark.floor(TRAIL_S + SWEEP_S / 2) == 200


def test_low_water_goes_on_where_a_full_claim_ended() -> None:
    mark = LowWater(0.0)
    for number in range(5):
        assert mark.floor(number * 0.1) == number * 100
        mark.note(number * 0.1, (number + 1) * 100, is_drained=False)
    mark.note(ROUND_S, 600, is_drained=False)
    assert mark.floor(ROUND_S) == 0, "what committed late has waited for long enough"


def test_low_water_sweeps_up_to_the_mark_for_a_twentieth_of_the_time() -> None:
    mark = LowWater(0.0)
    mark.floor(0.0)
    mark.note(0.0, 1_000, is_drained=True)
    assert mark.floor(TRAIL_S) == 0
    mark.note(TRAIL_S + 1, 300, is_drained=False)
    assert mark.floor(TRAIL_S + 1) == 300, "not from the start again"
    mark.note(TRAIL_S + 3, 1_300, is_drained=False)
    assert mark.floor(TRAIL_S + 3) == 1_000, "the sweep has met the mark"
    mark.note(TRAIL_S + 3, None, is_drained=True)
    assert mark.floor(TRAIL_S + 3 + SWEEP_SHARE * 3 - 0.1) > 0
    mark.note(TRAIL_S + 3 + SWEEP_SHARE * 3 - 0.1, None, is_drained=True)
    assert mark.floor(TRAIL_S + 3 + SWEEP_SHARE * 3) == 0


def test_due_floor_sweeps() -> None:
    due = DueFloor(0.0)
    assert due.floor(0.0) == FROM_THE_START
    due.note(0.0, 1.0, FROM_THE_START, "2026-01-01")
    assert due.floor(SWEEP_SHARE) == "2026-01-01"
    due.note(SWEEP_SHARE, SWEEP_SHARE, "2026-01-01", "2026-01-02")
    assert due.floor(SWEEP_SHARE + 0.5) == "2026-01-02"
    assert due.floor(SWEEP_SHARE + 1.0) == FROM_THE_START


class Running:
    """A recorder that runs as in the worker process, with its own listener."""

    def __init__(self, database: Database, settings: Settings) -> None:
        self.database = database
        self.settings = settings
        self.truth = Truth()

    async def __aenter__(self) -> Self:
        self._stop = asyncio.Event()
        self._task = asyncio.create_task(self._run())
        return self

    async def _run(self) -> None:
        dsn = self.database.dsn(ROLE)
        async with open_pool(dsn, ROLE, 4) as pool, Listener(dsn, ROLE) as listener:
            pool.timeout = 0.5
            await Recorder(pool, self.truth, Notices(), listener, self.settings).run(self._stop)

    async def __aexit__(self, *_: object) -> None:
        self._stop.set()
        await asyncio.wait_for(self._task, 10)


async def test_notification_wakes_the_recorder_long_before_its_poll(
    desk: Desk, database: Database, eventually_async: Callable[..., Any]
) -> None:
    settings = Settings.load({"STRIPE_API_KEY": "sk_test_x", "PAYMENTS_POLL_INTERVAL_MS": "60000"})
    async with Running(database, settings), Notifier(database.dsn(ROLE), ROLE) as notifier:
        first = succeed(desk, 1)

        def is_heard() -> bool:  # the listener may not stand yet
            notifier.notify(INBOX)
            return desk.status(first) == "SUCCEEDED"

        await eventually_async(is_heard)
        second = succeed(desk, 2)
        notifier.notify(INBOX)
        await eventually_async(lambda: desk.status(second) == "SUCCEEDED")


async def test_polling_finds_what_nobody_announced_and_a_restart_of_the_database_is_waited_out(
    database: Database, settings: Settings, eventually_async: Callable[..., Any]
) -> None:
    async with Running(database, settings), open_pool(database.dsn(ROLE), ROLE, 2) as pool:
        desk = Desk(database, pool, settings)
        first = succeed(desk, 1)
        await eventually_async(lambda: desk.status(first) == "SUCCEEDED")
        desk.close()
        await asyncio.to_thread(database.server.postgres.stop)
        database.server.postgres.start()
        desk = Desk(database, pool, settings)
        second = succeed(desk, 2)
        await eventually_async(lambda: desk.status(second) == "SUCCEEDED")
        desk.close()


async def test_fetch_under_way_at_the_end_is_handed_back(
    desk: Desk,
    database: Database,
    settings: Settings,
    eventually_async: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(recorder_module, "SHUTDOWN_S", 0.1)
    payment_id = desk.payment()
    running = Running(database, settings)

    async def never(intent_id: str) -> Any:
        running.truth.asked.append(intent_id)
        await asyncio.Event().wait()

    running.truth.retrieve_payment_intent = never  # type: ignore[method-assign]
    async with running:
        desk.webhook(event("payment_intent.succeeded", intent(payment_id, "succeeded"), api_version=None))
        await eventually_async(lambda: running.truth.asked)
    assert desk.one("select next_attempt_at <= clock_timestamp(), attempts from payments.inbox") == (True, 0)
