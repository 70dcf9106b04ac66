"""While Stripe may know more than a restored database: no wish is taken, no call is made, and when that is over."""

from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import AsyncMock
from uuid import UUID, uuid4

import psycopg
import pytest

from payments.database.connections import open_pool
from payments.database.rebase import MARGIN, rebase
from payments.domain.refunds import DOES_NOT_FIT
from payments.errors import RebaseRefused
from payments.reconciler import listing
from payments.reconciler.jobs import Surroundings
from payments.settings import Settings
from tests.commands.test_operator_commands import assert_said_in_words, payments
from tests.conftest import wait_until
from tests.database.rows import insert_payment
from tests.development.databases import Database
from tests.reconciler.bench import Notices
from tests.worker.world import Sandbox, World, sandbox_process

QUICK: dict[str, Any] = {"PAYMENTS_RECONCILE_AFTER_S": "3600", "PAYMENTS_EVENTS_BACKFILL_S": "86400"}


@pytest.fixture
def world(database: Database, tmp_path: Path) -> Any:
    """A fresh database and a Stripe that sends no webhooks."""
    with sandbox_process() as sandbox:
        world = World(database, sandbox, tmp_path)
        yield world
        world.close()


def unlisted_since(world: World) -> Any:
    return world.row("select stripe_unlisted_since from payments.cluster")[0]


def restored(world: World) -> None:
    """As if the database had been set back to what it is now; no other job of the reconciler's gets a turn."""
    for job in ("calls", "sweep", "events", "lost commands"):
        world.execute(
            "insert into payments.reconciler_progress (job, position) values (%s, now() + interval '1 day')"
            " on conflict do nothing",
            f"turn/{job}",
        )
    assert not rebase(world.database.admin_dsn(), datetime.now(UTC)).has_moved


def is_listed(world: World) -> bool:
    return unlisted_since(world) is None


def charge_elsewhere(sandbox: Sandbox, payment_id: UUID) -> None:
    """What the service had done between the backup and the restore, under a key that is forgotten."""
    made = {
        "amount": 1000,
        "currency": "eur",
        "confirm": "true",
        "payment_method": "pm_card_visa",
        "automatic_payment_methods[enabled]": "true",
        "automatic_payment_methods[allow_redirects]": "never",
        **{f"metadata[{name}]": str(payment_id) for name in ("paymentId", "cartId", "orderId")},
    }
    sandbox.call("POST", "/v1/payment_intents", data=made).raise_for_status()


def test_59_no_call_is_made_before_stripe_was_looked_at(world: World) -> None:
    """The worker has the command and no reconciler; the mark is all that keeps it from calling."""
    payment_id = world.request()
    restored(world)
    worker = world.start_worker()
    wait_until(lambda: worker.logged("command.postponed"))
    assert (world.sandbox.requests(), world.call(payment_id)) == ([], None)
    world.execute("update payments.cluster set stripe_unlisted_since = null")
    wait_until(world.settled(payment_id))


def test_59_void_waits_for_stripe_too(world: World) -> None:
    """Nothing was asked of Stripe, as far as the backup knows: it must not be voided for that."""
    payment_id = world.request(status="VOIDING")
    restored(world)
    worker = world.start_worker()
    wait_until(lambda: worker.logged("command.postponed"))
    assert world.status(payment_id) == "VOIDING"
    worker.stop()
    charge_elsewhere(world.sandbox, payment_id)
    world.start_worker(**QUICK)
    wait_until(partial(is_listed, world))
    wait_until(lambda: world.status(payment_id) == "SUCCEEDED")
    refunds = world.rows("select reason, amount from payments.refunds")
    assert refunds == [("compensation", 1000)], "charged after all, so it is given back"


def test_59_charged_since_the_backup_is_not_charged_again(world: World) -> None:
    payments = [world.request() for _ in range(3)]
    for payment_id in payments:
        charge_elsewhere(world.sandbox, payment_id)
    restored(world)
    asked = len(world.sandbox.requests())
    world.start_worker(**QUICK)
    wait_until(partial(is_listed, world))
    assert [world.status(payment_id) for payment_id in payments] == ["SUCCEEDED"] * 3, "weighed before it was over"
    wait_until(lambda: world.queued() == 0)
    assert len(world.sandbox.requests()) == asked
    assert [len(world.sandbox.intents(payment_id)) for payment_id in payments] == [1, 1, 1]


def test_59_nothing_goes_on_while_something_is_not_weighed(world: World) -> None:
    """The recorder cannot write: Stripe's word is in the inbox, and stays there."""
    payment_id = world.request()
    charge_elsewhere(world.sandbox, payment_id)
    restored(world)
    world.execute("alter table payments.payments add constraint nothing check (status = 'REQUESTED') not valid")
    worker = world.start_worker(**QUICK)
    wait_until(lambda: worker.logged("recorder.row_failed"))
    turns = "select updated_at from payments.reconciler_progress where job = 'turn/listing'"
    for _ in range(3):
        before = world.row(turns)
        wait_until(lambda before=before: world.row(turns) != before)
    assert not is_listed(world)
    assert len(world.sandbox.intents()) == 1
    world.execute("alter table payments.payments drop constraint nothing")
    world.execute("update payments.inbox set next_attempt_at = now() where processed_at is null")
    wait_until(partial(is_listed, world))
    assert world.status(payment_id) == "SUCCEEDED"


def test_59_objects_are_compared_though_no_event_tells_of_them(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    async def no_events(*_: Any) -> bool:
        return False

    monkeypatch.setattr(listing, "catch_up", no_events)
    begun, lost = world.request(), uuid4()
    for payment_id in (begun, lost):
        charge_elsewhere(world.sandbox, payment_id)
    restored(world)
    world.start_worker(**QUICK)
    wait_until(partial(is_listed, world))
    assert (world.status(begun), world.status(lost)) == ("SUCCEEDED", "SUCCEEDED")
    assert [len(world.sandbox.intents(payment_id)) for payment_id in (begun, lost)] == [1, 1]


@pytest.mark.anyio
async def test_59_what_is_fetched_is_waited_for_and_what_waits_for_us_is_not(database: Database) -> None:
    """An event that is in doubt ends with the fetched object in the inbox, which may come any time later."""
    row = (
        "insert into payments.inbox (source, message_id, message_type, payload, received_at, last_error)"
        " values (%s, gen_random_uuid(), 'test', '{}', now() + %s::interval, %s)"
    )
    async with open_pool(database.dsn("payments_worker"), "payments_worker", 2) as pool:
        around = Surroundings(pool, None, None, Settings.load({}))  # type: ignore[arg-type]  # asks and tells nobody

        async def is_weighed_with(source: str, later: str, error: str | None = None) -> bool:
            with database.connect() as conn:
                conn.execute("delete from payments.inbox")
                conn.execute(row, (source, later, error))
            return await listing._is_weighed(around, datetime.now(UTC))

        assert not await is_weighed_with("stripe-webhook", "-1 minute")
        assert not await is_weighed_with("stripe-webhook", "-1 minute", "asking Stripe: ...")
        assert not await is_weighed_with("reconciler", "1 minute")
        assert await is_weighed_with("stripe-webhook", "1 minute")
        assert await is_weighed_with("stripe-webhook", "-1 minute", f"a refund of 5 {DOES_NOT_FIT}: ...")


def test_59_second_restore_while_stripe_is_looked_at_begins_anew(world: World) -> None:
    restored(world)
    first = unlisted_since(world)
    world.execute("insert into payments.reconciler_progress (job, position) values ('listing/compared', now())")
    earlier = datetime.now(UTC) - timedelta(hours=1)
    rebase(world.database.admin_dsn(), earlier)
    assert unlisted_since(world) == earlier - MARGIN < first
    assert world.rows("select from payments.reconciler_progress where job like 'listing/%%'") == []
    restored(world)
    assert unlisted_since(world) == earlier - MARGIN, "the earlier of both counts"


@pytest.mark.anyio
async def test_a_worker_that_slept_through_another_restore_ends_no_look_at_stripe(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was about to end its own; the look that has only begun since then goes back to the same date."""
    since = datetime.now(UTC) - timedelta(hours=1)
    unlisted = rebase(database.admin_dsn(), since).unlisted_since

    async def sleep_through_a_restore(*_: Any) -> bool:
        assert rebase(database.admin_dsn(), since + timedelta(minutes=30)).unlisted_since == unlisted
        return True

    monkeypatch.setattr(listing, "_is_weighed", sleep_through_a_restore)
    async with open_pool(database.dsn("payments_worker"), "payments_worker", 2) as pool:
        around = Surroundings(pool, None, Notices(), Settings.load({}))  # type: ignore[arg-type]  # asks nobody
        with database.connect() as conn:
            conn.execute(
                "insert into payments.reconciler_progress (job, position)"
                " values ('listing/heard', now()), ('listing/compared', now())"
            )
            await listing.list_since_backup(around)
            assert conn.execute("select stripe_unlisted_since from payments.cluster").fetchall() == [(unlisted,)]


def test_59_time_of_the_backup_is_the_newest_that_is_stored(database: Database) -> None:
    with database.connect() as conn:
        insert_payment(conn)
        conn.execute("update payments.cluster set system_identifier = 'another'")
        (newest,) = conn.execute("select max(occurred_at) from payments.outbox").fetchone() or ()
    assert rebase(database.admin_dsn(), None).unlisted_since == newest - MARGIN


def test_59_events_that_the_backup_had_not_seen_yet_are_looked_for_as_well(database: Database) -> None:
    seen_until = datetime(2026, 1, 1, tzinfo=UTC)
    with database.connect() as conn:
        insert_payment(conn)
        conn.execute("update payments.cluster set system_identifier = 'another'")
        conn.execute("insert into payments.reconciler_progress (job, position) values ('events', %s)", (seen_until,))
    assert rebase(database.admin_dsn(), None).unlisted_since == seen_until - MARGIN


def test_59_backup_of_the_future_is_refused(database: Database) -> None:
    with pytest.raises(RebaseRefused):
        rebase(database.admin_dsn(), datetime.now(UTC) + timedelta(minutes=1))


@pytest.mark.parametrize("mistyped", ["2016-11-03T09:00:00Z", "1026-11-03T09:00:00Z", "0001-01-01T00:05:00Z"])
def test_59_backup_from_before_the_database_is_refused(database: Database, mistyped: str) -> None:
    """The earlier time counts, so it could not be taken back, and Stripe would be listed for hours."""
    finished = payments("migrate", "--rebase", "--since", mistyped, DATABASE_URL=database.admin_dsn())
    assert_said_in_words(finished, RebaseRefused.exit_code, "Mind the year and the month")
    with database.connect() as conn:
        assert conn.execute("select stripe_unlisted_since from payments.cluster").fetchall() == [(None,)]


def test_59_rows_that_are_older_than_the_database_they_were_brought_into_count(database: Database) -> None:
    taken_at = datetime.now(UTC) - timedelta(days=300)
    with database.connect() as conn:
        payment_id = insert_payment(conn)
        with pytest.raises(RebaseRefused):
            rebase(database.admin_dsn(), taken_at)
        conn.execute(
            "insert into payments.payment_history (payment_id, at, signal, source, to_status, decision, why)"
            " values (%s, %s, 'requested', 'api', 'REQUESTED', 'applied', 'x')",
            (payment_id, taken_at),
        )
    assert rebase(database.admin_dsn(), taken_at).unlisted_since == taken_at - MARGIN


def test_59_no_role_of_the_api_gets_a_wish_past_the_mark(database: Database) -> None:
    """Nor does it matter how: by hand, with the service's own login."""
    rebase(database.admin_dsn(), datetime.now(UTC))
    with database.connect("payments_api") as conn, pytest.raises(psycopg.Error) as held:
        insert_payment(conn)
    assert held.value.sqlstate == "PY001"
    with database.connect("payments_api") as conn, pytest.raises(psycopg.errors.InsufficientPrivilege):
        conn.execute("update payments.cluster set stripe_unlisted_since = null")


def test_stripe_is_listed_from_ten_minutes_before_the_backup(database: Database) -> None:
    """Clocks differ, and what Stripe did a moment earlier may not have been told any more."""
    taken_at = datetime.now(UTC) - timedelta(hours=1)
    assert rebase(database.admin_dsn(), taken_at).unlisted_since == taken_at - timedelta(minutes=10)


def test_59_a_time_alone_means_a_restore(database: Database) -> None:
    """After a physical one the database is at home, and only the operator knows that it went back."""
    taken_at = datetime.now(UTC) - timedelta(hours=2)
    finished = payments("migrate", "--since", taken_at.isoformat(), DATABASE_URL=database.admin_dsn())
    assert finished.returncode == 0, finished.stderr
    with database.connect() as conn:
        row = conn.execute("select stripe_unlisted_since from payments.cluster").fetchone()
    assert row is not None
    assert row[0] == taken_at - MARGIN


@pytest.mark.anyio
async def test_59_worker_that_was_overtaken_does_not_say_that_all_was_heard(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another has moved on meanwhile; how far that has come, only the other knows."""
    rebase(database.admin_dsn(), datetime.now(UTC) - timedelta(hours=1))
    monkeypatch.setattr(listing, "catch_up", AsyncMock(return_value=None))
    async with open_pool(database.dsn("payments_worker"), "payments_worker", 2) as pool:
        around = Surroundings(pool, None, Notices(), Settings.load({}))  # type: ignore[arg-type]  # asks nobody
        assert not await listing.list_since_backup(around)
    with database.connect() as conn:
        assert conn.execute("select from payments.reconciler_progress where job = 'listing/heard'").fetchall() == []
