"""`payments reconcile`: one pass at once, beside whatever runs, and what it says of it."""

import subprocess
from argparse import Namespace
from typing import Any
from unittest.mock import AsyncMock

import pytest

from payments.commands import reconcile as command
from payments.errors import DatabaseUnsuitable
from payments.reconciler.asking import StripeAway
from payments.settings import Settings
from tests.commands.test_operator_commands import assert_said_in_words, payments
from tests.conftest import wait_until
from tests.worker.world import KEY, World

# A worker that does all but reconcile by itself.
PATIENT: dict[str, Any] = {"PAYMENTS_RECONCILE_AFTER_S": "3600", "PAYMENTS_EVENTS_BACKFILL_S": "86400"}


def reconcile(world: World, *words: str, **settings: str) -> subprocess.CompletedProcess[str]:
    given = {
        "DATABASE_URL": world.database.admin_dsn(),
        "STRIPE_API_KEY": KEY,
        "STRIPE_API_BASE": world.sandbox.base,
        "STRIPE_TIMEOUT_S": "1",
        "PAYMENTS_LOG_LEVEL": "error",
        **settings,
    }
    finished = payments("reconcile", *words, **given)
    assert "Traceback" not in finished.stderr
    return finished


def test_nothing_to_find_is_said_so(world: World) -> None:
    finished = reconcile(world)
    assert (finished.returncode, finished.stdout) == (0, "nothing is open, in doubt or lost\n")


def test_it_looks_now_at_what_nobody_would_for_an_hour(world: World) -> None:
    world.start_worker(**PATIENT)
    wait_until(lambda: world.rows("select from payments.reconciler_progress where job = 'events'"))
    payment_id = world.request(payment_method="pm_card_authenticationRequired")
    wait_until(world.settled(payment_id, "ACTION_REQUIRED"))
    (intent,) = world.sandbox.intents(payment_id)
    world.sandbox.steer("POST", "browser/authenticate", payment_intent=intent["id"], outcome="succeed")
    due = reconcile(world, "--due", **PATIENT)
    assert due.returncode == 0
    assert "payments looked at" not in due.stdout
    finished = reconcile(world)
    assert finished.returncode == 0
    told = dict(line.strip().rsplit(maxsplit=1) for line in finished.stdout.splitlines())
    assert told["payments looked at"] == told["news for the inbox"] == "1"
    wait_until(world.settled(payment_id))


def test_stripe_that_does_not_answer_is_said_in_words(world: World) -> None:
    finished = reconcile(world, STRIPE_API_BASE="http://127.0.0.1:1")
    assert finished.returncode == 1
    assert "nothing is lost by that" in finished.stdout


def test_a_key_that_may_not_read_the_balance_is_no_reason_to_stop(world: World) -> None:
    match = {"path": "/v1/balance_transactions", "method": "GET"}
    world.sandbox.steer("POST", "faults", fault="status", status=403, match=match, times=None)
    finished = reconcile(world)
    assert (finished.returncode, "balance.refused" in finished.stderr) == (0, True)


def test_what_stripe_said_is_shown_as_it_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    away = StripeAway("no payment_method_data[card] [/red]", 1.0)
    monkeypatch.setattr(command, "_reconcile", AsyncMock(side_effect=away))
    settings = Settings.load({"DATABASE_URL": "postgresql://127.0.0.1:1/none", "STRIPE_API_KEY": KEY})
    assert command.run(Namespace(due=False), settings) == 1
    assert "Stopped: no payment_method_data[card] [/red]; nothing is lost" in capsys.readouterr().out


def test_a_table_that_somebody_locks_is_not_taken_for_a_server_that_is_down(world: World) -> None:
    with world.database.connect(autocommit=False) as conn:
        conn.execute("lock table payments.watches in access exclusive mode")
        finished = reconcile(world)
    assert_said_in_words(finished, DatabaseUnsuitable.exit_code, "end their session")


def test_without_a_key_it_says_what_to_set(world: World) -> None:
    given = {"DATABASE_URL": world.database.admin_dsn(), "PAYMENTS_DATA_DIR": "nowhere"}
    finished = payments("reconcile", **given)
    assert finished.returncode == 78
    assert "STRIPE_API_KEY is not set" in finished.stderr


def test_what_needs_a_person_is_an_exit_code_of_its_own(world: World) -> None:
    """Two PaymentIntents for one payment."""
    payment_id = world.request()
    world.execute("delete from pgmq.q_payment_requested")
    world.execute(
        "insert into payments.stripe_requests (payment_id, subject_id, operation, idempotency_key, parameters,"
        " attempts, state, http_status, first_attempt_at, last_attempt_at)"
        " values (%s, %s, 'create_payment_intent', 'x', '{}', 1, 'to_reconcile', 500, now(), now() - interval '1 h')",
        payment_id,
        payment_id,
    )
    for _ in range(2):
        made = {"amount": 1000, "currency": "eur", "metadata[paymentId]": str(payment_id)}
        world.sandbox.call("POST", "/v1/payment_intents", data=made).raise_for_status()
    finished = reconcile(world)
    assert finished.returncode == 1
    assert "payments dead-letters list" in finished.stdout
    assert [error for _, error, _ in world.dead() if "two for one wish" in error]


@pytest.mark.parametrize("word", ["--nonsense", "now"])
def test_wrong_words_are_wrong_usage(world: World, word: str) -> None:
    assert reconcile(world, word).returncode == 2


def test_books_that_contradict_themselves_need_a_person(world: World) -> None:
    payment_id = world.request()
    world.execute("alter table payments.payments disable trigger user")
    world.execute("update payments.payments set disputed = true where payment_id = %s", payment_id)
    world.execute("alter table payments.payments enable trigger user")
    finished = reconcile(world)
    assert finished.returncode == 1
    assert "Something needs a person" in finished.stdout
