"""Scenario 59: the backup is older than Stripe. What was done since is found before anything is asked for again."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any
from uuid import uuid4

from payments.development.embedded_postgres import bundled_bin_dir
from tests.conftest import wait_until
from tests.development.databases import Database, TestServer
from tests.restore.clusters import payments
from tests.restore.operator import carry_out
from tests.restore.two_lives import OneStripe, lose, one_stripe
from tests.scenarios.world import AMOUNT, World

DAYS_S = 2 * 86_400  # beyond these Stripe has forgotten every key of the first life


def before_the_backup(world: World) -> tuple[dict[str, dict[str, Any]], int]:
    """Payments in every state that a worker has left, and four wishes that it has not worked on."""
    known = {name: world.held() for name in ("to capture", "to void", "kept", "capturing", "voiding")}
    known |= {name: world.paid() for name in ("paid", "to refund", "refunding")}
    pid = world.freeze_at_rest("worker")
    known |= {
        "requested": world.accepted(),
        "requested, to be declined": world.accepted(paymentMethod="pm_card_visa_chargeDeclined"),
        "requested hold": world.accepted(captureMethod="manual", orderId=str(uuid4())),
    }
    for name, what in (("capturing", "capture"), ("voiding", "void")):
        assert world.http.post(f"/payments/{known[name]['paymentId']}/{what}").status_code == 202
    assert (
        world.http.post(f"/payments/{known['refunding']['paymentId']}/refunds", json={"amount": 500}).status_code == 201
    )
    return known, pid


def after_the_backup(world: World, known: dict[str, dict[str, Any]], worker: int) -> dict[str, dict[str, Any]]:
    """All that is carried out, and payments that the backup does not know."""
    world.thaw(worker)
    for name, status in (
        ("requested", "SUCCEEDED"),
        ("requested, to be declined", "FAILED"),
        ("requested hold", "AUTHORIZED"),
        ("capturing", "SUCCEEDED"),
        ("voiding", "VOIDED"),
    ):
        world.until(known[name]["paymentId"], status)
    world.act(known["to capture"]["paymentId"], "capture").raise_for_status()
    world.act(known["to void"]["paymentId"], "void").raise_for_status()
    world.act(known["to refund"]["paymentId"], "refunds", {"amount": 300}).raise_for_status()
    lost = {
        "new": world.paid(),
        "new hold": world.held(),
        "new and captured": world.held(),
        "new, refunded": world.paid(),
    }
    world.act(lost["new and captured"]["paymentId"], "capture").raise_for_status()
    world.act(lost["new, refunded"]["paymentId"], "refunds").raise_for_status()
    declined = world.authorize(paymentMethod="pm_card_visa_chargeDeclined")
    assert declined.status_code == 402
    lost["new, declined"] = world.payment(declined.json()["paymentId"])
    world.agree()
    # Accepted, and nobody ever asks Stripe for it.
    world.freeze_at_rest("worker")
    lost["never called"] = world.accepted()
    return lost


def money(stripe: OneStripe) -> dict[str, tuple[int, int, int]]:
    """What each cart was charged, and got back: by the PaymentIntents that are not cancelled."""
    carts: dict[str, tuple[int, int, int]] = {}
    for intent in stripe.steering.ledger()["payment_intents"]:
        cart = intent["metadata"]["cartId"]
        count, captured, refunded = carts.get(cart, (0, 0, 0))
        is_there = intent["status"] != "canceled"
        carts[cart] = (count + is_there, captured + intent["amount_captured"], refunded + intent["amount_refunded"])
    return carts


def retry(world: World, payment: dict[str, Any]) -> Any:
    """Ordering, which has had no answer, asks for the same cart once more."""
    fields = {name: payment[name] for name in ("cartId", "amount", "currency", "captureMethod")}
    return world.authorize(**fields, wait_s=None)


def money_moving_calls(stripe: OneStripe, after: int) -> list[str]:
    """What was asked of Stripe since, but for cancels: what has failed is cancelled, once more too."""
    paths = [one["path"] for one in stripe.steering.calls(path="*", after=after)]
    return [path for path in paths if not path.endswith("/cancel")]


def test_59_backup_that_is_older_than_stripe(high_server: TestServer, tmp_path: Path) -> None:
    """Everything that a worker may do between the backup and the loss; then two days pass at Stripe."""
    target = Database(high_server, "payments")
    with one_stripe() as stripe:
        with stripe.installation() as first:
            assert payments_of(first, "consumers", "add", "fraud", "--events", "payment.succeeded").returncode == 0
            known, worker = before_the_backup(first)
            carry_out("the backup", bundled_bin_dir(), tmp_path, OLD=first.system.env["DATABASE_URL"])
            truth = after_the_backup(first, known, worker)
            everything = {one["paymentId"]: one for one in (known | truth).values()}
            expected = {payment_id: first.payment(payment_id)["status"] for payment_id in everything}
            lose(first.system)
        spent = money(stripe)
        stripe.steering.advance(DAYS_S)
        try:
            addresses = {"SERVER": high_server.admin_dsn(), "NEW": target.admin_dsn()}
            told = carry_out("the restore", bundled_bin_dir(), tmp_path, **addresses)
            assert "Stripe is looked at from" in told
            live_again(stripe, target, truth, expected, tmp_path)
        finally:
            high_server.drop_database(target.name)
        paid_now = {truth["never called"]["cartId"]: (1, AMOUNT, 0)}
        assert money(stripe) == spent | paid_now


def live_again(
    stripe: OneStripe,
    target: Database,
    truth: dict[str, dict[str, Any]],
    expected: dict[str, str],
    directory: Path,
) -> None:
    never = truth["never called"]
    repeated = [one for name, one in truth.items() if name not in {"never called", "new, declined"}]
    (directory / "Procfile").write_text("api: payments api\nrelay: payments relay\n")
    last = max(one["seq"] for one in stripe.steering.calls(path="*"))
    with stripe.installation("--procfile", str(directory / "Procfile"), DATABASE_URL=target.admin_dsn()) as second:
        for one in [never, *repeated]:
            answer = retry(second, one)
            assert (answer.status_code, answer.json()["code"]) == (503, "catching_up")
            assert (answer.json()["retryable"], answer.headers["Retry-After"]) == (True, "10")
        doctor = payments(target, "doctor")
        assert doctor.returncode == 1
        assert "Stripe" in doctor.stdout
        with stripe.worker(second.system, target.admin_dsn()):
            for one in repeated:
                refused = wait_until(lambda one=one: not_held(retry(second, one)), 60)
                assert (refused.status_code, refused.json()["code"]) == (409, "cart_has_live_payment")
                assert refused.json()["paymentId"] == one["paymentId"]
            again = retry(second, never)
            assert again.status_code == 201
            assert second.until(again.json()["paymentId"], "SUCCEEDED")
            for payment_id, status in expected.items():
                if payment_id != never["paymentId"]:
                    second.until(payment_id, status)
            second.agree()
            assert money_moving_calls(stripe, last) == ["/v1/payment_intents"], "none but the one new payment's"
        done = payments(target, "doctor")
        assert "being looked at" not in done.stdout


def not_held(answer: Any) -> Any:
    return None if answer.status_code == 503 else answer


def payments_of(world: World, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {"DATABASE_URL": world.system.env["DATABASE_URL"]}
    return subprocess.run(
        [sys.executable, "-m", "payments", *arguments],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )
