"""Nobody tells us: answers lost, webhooks lost, keys forgotten, customers gone; the system looks for itself."""

from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import pytest

from tests.conftest import wait_until
from tests.scenarios.stripe import CANCEL, CAPTURE, REFUND
from tests.scenarios.world import AMOUNT, World
from tests.system.running import System, payments_up

DAY_S = 86_400
PATIENCE_S = 6.0  # how long a customer may take here, and how long a hold may stand that no order claims

# What was asked yesterday, by our clock as well as by Stripe's.
DAY_LATER = """update payments.stripe_requests set created_at = created_at - interval '25 hours',
    first_attempt_at = first_attempt_at - interval '25 hours',
    last_attempt_at = last_attempt_at - interval '25 hours' where payment_id = %s and state <> 'answered'"""


@pytest.fixture(scope="module")
def system() -> Iterator[System]:
    with payments_up(
        "--copies",
        "2",
        STRIPE_TIMEOUT_S="2",
        PAYMENTS_LEASE_S="4",
        PAYMENTS_RECONCILE_AFTER_S="0.5",
        PAYMENTS_EVENTS_BACKFILL_S="1",
        PAYMENTS_ACTION_REQUIRED_HOURS=f"{PATIENCE_S / 3600:.6f}",
        PAYMENTS_ORPHAN_HOLD_HOURS=f"{PATIENCE_S / 3600:.6f}",
    ) as running:
        yield running


@pytest.mark.parametrize("executed", [True, False], ids=["it took effect", "it did not"])
@pytest.mark.parametrize("webhooks", ["deliver", "drop"])
def test_07_error_500_is_kept_by_stripe(world: World, executed: bool, webhooks: str) -> None:  # noqa: FBT001
    world.stripe.webhooks(mode=webhooks)
    cart = str(uuid4())
    world.stripe.fault("status", cart, status=500, executed=executed)
    payment_id = world.accepted(cartId=cart)["paymentId"]
    world.until(payment_id, "SUCCEEDED")
    # A new key only after proof that nothing is there.
    assert len(world.stripe.keys(payment_id)) == (1 if executed else 2)
    world.stripe.intent(payment_id)
    world.agree()


@pytest.mark.parametrize("executed", [True, False], ids=["it took effect", "it did not"])
@pytest.mark.parametrize(
    ("path", "wish", "status"), [(CAPTURE, "capture", "SUCCEEDED"), (CANCEL, "void", "VOIDED"), (REFUND, "refunds", "")]
)
def test_07_error_500_on_what_follows(world: World, path: str, wish: str, status: str, executed: bool) -> None:  # noqa: FBT001
    world.stripe.webhooks(mode="drop")
    cart = str(uuid4())
    payment_id = (world.paid if wish == "refunds" else world.held)(cartId=cart)["paymentId"]
    fault = world.stripe.fault("status", cart, path, status=500, executed=executed)
    answer = world.act(payment_id, wish)
    assert answer.is_success
    if wish == "refunds":
        world.refund_until(answer.json()["refundId"], "PROCESSED")
    else:
        world.until(payment_id, status)
    assert world.stripe.fired(fault) == 1
    world.agree()


@pytest.mark.parametrize("executed", [True, False], ids=["it took effect", "it did not"])
def test_09_refund_after_a_day(world: World, executed: bool) -> None:  # noqa: FBT001
    world.stripe.webhooks(mode="drop")
    cart = str(uuid4())
    world.stripe.advance(-26 * 3_600)
    payment_id = world.paid(cartId=cart)["paymentId"]
    world.stripe.advance(3_600)
    away = world.stripe.fault("after_executing" if executed else "before_executing", cart, REFUND, times=None)
    refund_id = world.act(payment_id, "refunds", {"amount": 700}, Prefer="wait=0").json()["refundId"]
    world.in_doubt(payment_id, "create_refund")
    world.execute(DAY_LATER, payment_id)
    world.stripe.advance(25 * 3_600)
    world.stripe.withdraw(away)
    world.refund_until(refund_id, "PROCESSED")
    world.agree()


@pytest.mark.parametrize("executed", [True, False], ids=["it took effect", "it did not"])
def test_09_first_retry_after_a_day(world: World, executed: bool) -> None:  # noqa: FBT001
    world.stripe.webhooks(mode="drop")
    cart = str(uuid4())
    away = world.stripe.fault("after_executing" if executed else "before_executing", cart, times=None)
    world.stripe.advance(-25 * 3_600)
    payment_id = world.accepted(cartId=cart)["paymentId"]
    world.in_doubt(payment_id)
    world.execute(DAY_LATER, payment_id)
    world.stripe.advance(25 * 3_600)  # Stripe has forgotten the key
    world.stripe.withdraw(away)
    world.until(payment_id, "SUCCEEDED")
    assert len(world.stripe.keys(payment_id)) == (1 if executed else 2)
    assert sum(one["executed"] and not one["replayed"] for one in world.stripe.calls(payment_id)) == 1
    world.agree()


def test_16_time_limit_of_the_customer(world: World) -> None:
    asked = world.authorize(paymentMethod="pm_card_authenticationRequired").json()
    alone = world.authorize(paymentMethod=None).json()
    assert (asked["status"], alone["status"]) == ("ACTION_REQUIRED", "ACTION_REQUIRED")
    for payment in (asked, alone):
        failed = world.until(payment["paymentId"], "FAILED")
        assert (failed["failure"]["reason"], failed["failure"]["declineCode"]) == ("PROCESSING_ERROR", "abandoned")
        assert world.stripe.intent(payment["paymentId"])["status"] == "canceled"
        secret = payment["nextAction"]["clientSecret"]
        assert world.stripe.confirm(secret).status_code == 400, "too late"
    world.agree()


def test_24_hold_expires_and_nobody_tells(world: World) -> None:
    world.stripe.webhooks(mode="drop")
    ahead_s = 7 * DAY_S - PATIENCE_S
    world.stripe.advance(-ahead_s)
    payment_id = world.held()["paymentId"]
    world.stripe.advance(ahead_s)
    world.until(payment_id, "EXPIRED")
    assert world.stripe.intent(payment_id)["amount_released"] == AMOUNT
    world.agree()


def test_25_orphan_hold(world: World) -> None:
    orphan = world.held(orderId=None)
    claimed = world.held()
    world.until(orphan["paymentId"], "VOIDED")
    assert world.events(orphan["paymentId"]) == [
        "payment-requested",
        "payment-authorized",
        "void-requested",
        "payment-voided",
    ]
    assert world.stripe.intent(orphan["paymentId"])["amount_released"] == AMOUNT
    assert world.payment(claimed["paymentId"])["status"] == "AUTHORIZED"
    world.agree()


def test_45_all_webhooks_are_lost(world: World) -> None:
    world.stripe.webhooks(mode="drop")
    by_browser = world.authorize(paymentMethod=None).json()
    assert world.stripe.confirm(by_browser["nextAction"]["clientSecret"]).status_code == 200
    world.stripe.behave(processing_delay_s=1, refund_delay_s=1)
    try:
        by_bank = world.accepted(paymentMethod="pm_usBankAccount_success", currency="USD")
        refunded = world.paid(paymentMethod="pm_card_pendingRefund")
        cart = str(uuid4())
        unanswered = world.paid(cartId=cart)
        world.stripe.fault("status", cart, REFUND, status=500, executed=True)
        ids = [world.act(one["paymentId"], "refunds").json()["refundId"] for one in (refunded, unanswered)]
        held = world.held()
        world.act(held["paymentId"], "capture")
        voided = world.held()
        world.act(voided["paymentId"], "void")
        for payment in (by_browser, by_bank, held):
            world.until(payment["paymentId"], "SUCCEEDED")
        world.until(voided["paymentId"], "VOIDED")
        for refund_id in ids:
            world.refund_until(refund_id, "PROCESSED")
    finally:
        world.stripe.behave(processing_delay_s=3, refund_delay_s=5)
    world.agree()


def done_in_the_dashboard(world: World) -> tuple[str, dict[str, Any]]:
    """A payment that somebody refunds in part in the Dashboard, and that is disputed then."""
    payment_id = world.paid()["paymentId"]
    intent = world.stripe.intent(payment_id)
    made = world.stripe.refund_in_dashboard(intent["id"], 700)
    world.stripe.open_dispute(intent["id"])
    return payment_id, made


def is_known(world: World, payment_id: str) -> bool:
    return bool(world.refunds(payment_id)) and bool(world.payment(payment_id)["disputed"])


def test_46_missed_events(world: World) -> None:
    world.stripe.webhooks(mode="drop")
    payment_id, made = done_in_the_dashboard(world)
    wait_until(lambda: is_known(world, payment_id))
    (refund,) = world.refunds(payment_id)
    assert (refund["external"], refund["processorReference"]) == (True, made["id"])
    missed = [one["event"] for one in world.stripe.deliveries(object=made["id"])]
    sources = "select distinct source from payments.inbox where message_id = any(%s)"
    assert world.system.rows(sources, missed) == [("stripe-webhook",)]
    world.agree()


def test_46_missed_for_longer_than_stripe_lists_events(world: World) -> None:
    world.stripe.webhooks(mode="drop")
    world.stripe.advance(-35 * DAY_S)
    payment_id, made = done_in_the_dashboard(world)
    world.stripe.advance(35 * DAY_S)
    world.execute("update payments.reconciler_progress set position = now() - interval '36 days'")
    wait_until(lambda: is_known(world, payment_id))
    (refund,) = world.refunds(payment_id)
    assert (refund["external"], refund["processorReference"]) == (True, made["id"])
    assert [world.inbox(one["event"]) for one in world.stripe.deliveries(object=made["id"])] in ([{}], [{}, {}])
    world.agree()
