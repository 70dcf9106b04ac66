"""What one bad object, or one late word of Stripe's, must never do to the rest."""

from typing import Any

from payments.domain.identifiers import new_id
from tests.conftest import wait_until
from tests.reconciler.test_command import reconcile
from tests.reconciler.test_lost_answers import a_day_ago
from tests.reconciler.test_watches import browser_payment
from tests.worker.world import INTENTS, World

QUICK: dict[str, Any] = {"PAYMENTS_RECONCILE_AFTER_S": "0.3", "PAYMENTS_EVENTS_BACKFILL_S": "86400"}


def test_one_object_that_stripe_cannot_show_holds_up_nobody(world: World) -> None:
    """Stripe answers 500 for one PaymentIntent, and is well otherwise: the other payments end, without any webhook."""
    worker = world.start_worker(**QUICK)
    bad, bad_intent = browser_payment(world)
    good, good_intent = browser_payment(world)
    worker.stop()
    match = {"path": f"{INTENTS}/{bad_intent}", "method": "GET"}
    world.sandbox.steer("POST", "faults", fault="status", status=500, match=match, times=None)
    world.execute("update payments.watches set next_look_at = now(), looks = 3")
    # No watch helps this one: only the events tell of it.
    world.execute("update payments.watches set next_look_at = now() + interval '1 hour' where payment_id = %s", good)
    world.sandbox.steer("POST", "browser/authenticate", payment_intent=good_intent, outcome="succeed")
    world.execute("delete from payments.reconciler_progress")
    restarted = world.start_worker(**QUICK | {"PAYMENTS_EVENTS_BACKFILL_S": "0.5"})
    wait_until(lambda: restarted.logged("reconciler.stripe_away"))
    wait_until(world.settled(good))
    assert world.status(bad) == "ACTION_REQUIRED"


def test_one_object_that_stripe_cannot_show_puts_off_no_look_at_others(world: World) -> None:
    """Both are due at once: Stripe is not taken to be away, and the other is looked at again, soon."""
    worker = world.start_worker(**QUICK)
    bad, bad_intent = browser_payment(world)
    good, _ = browser_payment(world)
    worker.stop()
    match = {"path": f"{INTENTS}/{bad_intent}", "method": "GET"}
    world.sandbox.steer("POST", "faults", fault="status", status=500, match=match, times=None)
    world.execute("update payments.watches set next_look_at = now(), looks = 0")
    restarted = world.start_worker(**QUICK)
    wait_until(lambda: [one["count"] for one in restarted.logged("watches.unanswered")])
    looks = "select looks from payments.watches where payment_id = %s"
    wait_until(lambda: world.row(looks, good)[0] >= 2)
    assert world.row(looks, bad) == (0,)


def test_a_single_look_without_an_answer_is_told_by_the_exit_code(world: World) -> None:
    """Stripe cannot show one of two PaymentIntents: the other is looked at."""
    worker = world.start_worker(**QUICK)
    _, bad = browser_payment(world)
    browser_payment(world)
    worker.stop()
    match = {"path": f"{INTENTS}/{bad}", "method": "GET"}
    world.sandbox.steer("POST", "faults", fault="status", status=500, match=match, times=None)
    finished = reconcile(world)
    assert (finished.returncode, "Not everything was answered" in finished.stdout) == (1, True)
    world.sandbox.clear_faults()
    finished = reconcile(world)
    assert (finished.returncode, "Not everything was answered" in finished.stdout) == (0, False)


SLOW: dict[str, Any] = QUICK | {"STRIPE_TIMEOUT_S": "10", "PAYMENTS_LEASE_S": "20"}
CLAIMED = "select next_look_at > now() + interval '10 s' from payments.watches"


def test_an_order_that_claims_a_hold_during_the_last_look_keeps_it(world: World) -> None:
    """Its capture, say, was begun and refused meanwhile: the hold is there, and is wanted."""
    payment_id = world.request(capture_method="manual")
    worker = world.start_worker(**QUICK)
    wait_until(world.settled(payment_id, "AUTHORIZED"))
    worker.stop()
    world.sandbox.steer("POST", "faults", fault="slow", delay_s=2.0, match={"path": f"{INTENTS}/*", "method": "GET"})
    world.execute("update payments.watches set next_look_at = now()")
    worker = world.start_worker(**SLOW, PAYMENTS_ORPHAN_HOLD_HOURS="0.0001")
    wait_until(lambda: world.row(CLAIMED) == (True,))
    world.execute("update payments.payments set order_id = %s", new_id())
    (looked,) = wait_until(lambda: worker.logged("payment.looked_at"))
    assert looked["limit"] == "orphaned"
    assert world.status(payment_id) == "AUTHORIZED"


def test_a_look_that_was_overtaken_does_not_put_off_the_new_watch(world: World) -> None:
    """It has no news, as it was when it began; meanwhile a wish has begun the watch anew."""
    worker = world.start_worker(**QUICK)
    browser_payment(world)
    worker.stop()
    world.sandbox.steer("POST", "faults", fault="slow", delay_s=2.0, match={"path": f"{INTENTS}/*", "method": "GET"})
    world.execute("update payments.watches set next_look_at = now(), looks = 7")
    worker = world.start_worker(**SLOW)
    wait_until(lambda: world.row(CLAIMED) == (True,))
    world.execute("update payments.watches set looks = 0, next_look_at = now() + interval '1 hour'")
    (looked,) = wait_until(lambda: worker.logged("payment.looked_at"))
    assert (looked["sight"], looked["looks"]) == ("no news", 8)
    assert world.row("select looks, next_look_at > now() + interval '50 minutes' from payments.watches") == (0, True)


def test_a_look_that_was_overtaken_does_not_end_the_new_watch(world: World) -> None:
    """It finds all at rest, as it was when it began; meanwhile a wish has begun the watch anew."""
    worker = world.start_worker(**SLOW)
    payment_id = world.request(payment_method="pm_card_chargeDeclined")
    wait_until(world.settled(payment_id, "FAILED"))
    wait_until(lambda: world.sandbox.intents(payment_id)[0]["status"] == "canceled")
    wait_until(lambda: world.rows("select from payments.watches") == [])
    world.execute("delete from payments.stripe_requests where operation = 'cancel_payment_intent'")
    world.sandbox.steer("POST", "faults", fault="slow", delay_s=2.0, match={"path": f"{INTENTS}/*", "method": "GET"})
    world.execute("insert into payments.watches (payment_id, looks, next_look_at) values (%s, 1, now())", payment_id)
    wait_until(lambda: world.row(CLAIMED) == (True,))
    world.execute("update payments.watches set looks = 0, next_look_at = now() + interval '1 hour'")
    wait_until(lambda: [one["sight"] for one in worker.logged("payment.looked_at")][-1:] == ["at rest"])
    assert world.row("select looks, next_look_at > now() + interval '50 minutes' from payments.watches") == (0, True)


def test_a_payment_intent_that_is_known_is_never_made_again(world: World) -> None:
    """Stripe carries a call out later than anybody waited: its webhook comes while its absence is being proved."""
    payment_id = world.request()
    world.sandbox.fault("after_executing", payment_id, times=None)
    worker = world.start_worker(**QUICK)
    wait_until(lambda: (world.call(payment_id) or {}).get("state") == "in_doubt")
    worker.stop()
    world.sandbox.clear_faults()
    (intent,) = world.sandbox.intents(payment_id)
    world.execute("update payments.stripe_requests set state = 'answered', outcome = 'absent', answered_at = now()")
    world.execute("update payments.payments set processor_payment_intent = %s", intent["id"])
    world.send({"paymentId": str(payment_id)})
    world.execute("update pgmq.q_payment_requested set vt = now()")
    world.start_worker(**QUICK)
    wait_until(lambda: world.queued() == 0)
    assert [one["id"] for one in world.sandbox.intents(payment_id)] == [intent["id"]]


def test_a_backup_older_than_stripes_keys_charges_nobody_twice(world: World) -> None:
    """Restored, the payment knows nothing of its call; a day later its first key would charge anew."""
    a_day_ago(world)
    payment_id = world.request()
    worker = world.start_worker(**QUICK)
    wait_until(world.settled(payment_id))
    worker.stop()
    world.sandbox.steer("POST", "clock", advance_s=86_400)
    for table in ("payments", "outbox", "inbox", "stripe_requests", "payment_history"):
        world.execute(f"alter table payments.{table} disable trigger user")
    world.execute("delete from payments.stripe_requests")
    world.execute("delete from payments.inbox")
    world.execute("delete from payments.payment_history")
    world.execute("delete from payments.outbox where sequence > 1")
    world.execute(
        "update payments.payments set status = 'REQUESTED', amount_authorized = 0, amount_captured = 0,"
        " processor_payment_intent = null, processor_reference = null, last_sequence = 1,"
        " created_at = created_at - interval '1 day'"
    )
    for table in ("payments", "outbox", "inbox", "stripe_requests", "payment_history"):
        world.execute(f"alter table payments.{table} enable trigger user")
    world.send({"paymentId": str(payment_id)})
    world.start_worker(**QUICK)
    wait_until(world.settled(payment_id))
    (intent,) = world.sandbox.intents(payment_id)
    assert intent["amount_captured"] == 1000
