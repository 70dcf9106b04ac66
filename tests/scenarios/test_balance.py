"""What Stripe says it did to our balance is held against our books; where they disagree, somebody hears of it."""

import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.conftest import wait_until
from tests.scenarios.world import AMOUNT, World
from tests.system.running import System, payments_up, surroundings

SETTINGS = {"PAYMENTS_RECONCILE_AFTER_S": "0.5", "PAYMENTS_EVENTS_BACKFILL_S": "1"}
HOUR_AGO = "now() - interval '1 hour'"


@pytest.fixture(scope="module")
def system() -> Iterator[System]:
    with payments_up(**SETTINGS) as running:
        yield running


def tamper(world: World, payment_id: str, *statements: str) -> None:
    """As a superuser, past the triggers."""
    with world.system.connect() as conn:
        conn.execute("set session_replication_role = replica")
        for statement in statements:
            conn.execute(statement, {"id": payment_id})


def age(world: World, payment_id: str) -> None:
    """An hour passes for what both sides say of a payment: only what has been at rest is compared."""
    tamper(
        world,
        payment_id,
        f"update payments.balance_transactions set seen_at = {HOUR_AGO} where payment_id = %(id)s",
        f"update payments.payments set updated_at = {HOUR_AGO} where payment_id = %(id)s",
        f"update payments.refunds set updated_at = {HOUR_AGO} where payment_id = %(id)s",
        f"update payments.disputes set updated_at = {HOUR_AGO} where payment_id = %(id)s",
    )


def moved(world: World, payment_id: str) -> list[Any]:
    query = "select moved from payments.balance_transactions where payment_id = %s order by created_at, transaction_id"
    return [row[0] for row in world.system.rows(query, payment_id)]


def run(world: World, command: str) -> tuple[int, str]:
    finished = subprocess.run(
        [sys.executable, "-m", "payments", command],
        env=surroundings() | SETTINGS | {"PAYMENTS_DATA_DIR": str(world.system.data_dir), "COLUMNS": "250"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return finished.returncode, finished.stdout + finished.stderr


def gauge(world: World, kind: str) -> float:
    lines = httpx.get(f"{world.system.env['API_URL']}/metrics", timeout=20).text.splitlines()
    (line,) = (line for line in lines if line.startswith(f'payments_audit_imbalances{{kind="{kind}"}}'))
    return float(line.rsplit(" ", 1)[1])


def imbalances(world: World) -> list[tuple[Any, ...]]:
    return world.system.rows("select payment_id::text, kind, imbalance from payments.audit_imbalances")


def assert_seen(world: World, payment_id: str, kind: str, *figures: str) -> str:
    """In the view; returns how it is said there."""
    ((found_id, found_kind, words),) = wait_until(lambda: imbalances(world))
    assert (found_id, found_kind) == (payment_id, kind)
    assert [figure for figure in figures if figure not in words] == []
    return str(words)


def assert_reported(world: World, payment_id: str, kind: str, *figures: str) -> None:
    """In the view, and by the audit: its table, the log of the pass that found it, `payments doctor`, the metrics."""
    words = assert_seen(world, payment_id, kind, *figures)
    code, said = run(world, "reconcile")
    assert code == 1
    assert "audit.imbalance_found" in said
    assert words in said
    assert world.system.rows("select payment_id::text, kind, finding from payments.audit_findings") == [
        (payment_id, kind, words)
    ]
    assert words in run(world, "doctor")[1]
    wait_until(lambda: gauge(world, kind) == 1)


def test_58_captured_another_amount(world: World) -> None:
    payment_id = world.paid()["paymentId"]
    wait_until(lambda: moved(world, payment_id) == [AMOUNT])
    world.agree()
    age(world, payment_id)
    wait_until(lambda: world.system.rows("select from payments.balance_sums where payment_id = %s", payment_id))
    assert imbalances(world) == []
    tamper(world, payment_id, "update payments.payments set amount_captured = 1998 where payment_id = %(id)s")
    assert_reported(world, payment_id, "balance_captured_off", "1999 EUR", "1998 EUR")
    tamper(world, payment_id, "update payments.payments set amount_captured = 1999 where payment_id = %(id)s")
    assert imbalances(world) == []
    assert run(world, "reconcile")[0] == 0
    wait_until(lambda: gauge(world, "balance_captured_off") == 0)
    world.agree()


@pytest.mark.parametrize("what", ["a refund", "a dispute", "a refund that came back"])
def test_58_moved_without_a_word(world: World, what: str) -> None:
    """No webhook comes, and no list of events tells of it; the balance does."""
    payment_id = world.paid()["paymentId"]
    (intent,) = world.stripe.intents(payment_id)
    if what == "a refund that came back":
        refund = world.stripe.refund_in_dashboard(intent["id"], 500)
        wait_until(lambda: world.refunds(payment_id) and world.refunds(payment_id)[0]["status"] == "PROCESSED")
    world.agree()
    world.stripe.webhooks(mode="drop")
    world.execute(
        "update payments.reconciler_progress set position = now() + interval '1 day' where job = 'turn/events'"
    )
    match what:
        case "a refund":
            world.stripe.refund_in_dashboard(intent["id"], 500)
            kind, moves, figures = "balance_refunded_off", [AMOUNT, -500], ("500 EUR", "nothing of it")
        case "a dispute":
            world.stripe.open_dispute(intent["id"])
            kind, moves, figures = "balance_disputed_off", [AMOUNT, -AMOUNT], ("1999 EUR", "nothing of it")
        case _:
            world.stripe.tell_refund(refund["id"], "failed")
            kind, moves, figures = "balance_refunded_off", [AMOUNT, -500, 500], ("0 EUR", "PROCESSED 500 EUR")
    wait_until(lambda: sorted(moved(world, payment_id)) == sorted(moves))
    age(world, payment_id)
    assert_seen(world, payment_id, kind, *figures)
    world.execute("update payments.reconciler_progress set position = now() where job = 'turn/events'")
    wait_until(lambda: not imbalances(world))
    world.agree()
