"""Scenarios 16, 17, 24, 25 and 45: no webhook ever comes, and every payment ends all the same."""

import json
from typing import Any
from uuid import UUID, uuid4

import pytest

from payments.reconciler.watching import look_at_watches
from tests.conftest import wait_until
from tests.database.rows import insert_payment, settle
from tests.development.databases import Database
from tests.domain.stripe_objects import intent
from tests.reconciler.bench import Bench
from tests.reconciler.test_command import reconcile
from tests.worker.world import World

# Nothing but the watches may help: the list of events is asked for once, at the start.
QUICK: dict[str, Any] = {"PAYMENTS_RECONCILE_AFTER_S": "0.3", "PAYMENTS_EVENTS_BACKFILL_S": "86400"}
A_SECOND = "0.0003"  # in hours


def events(world: World, payment_id: UUID) -> list[str]:
    rows = world.rows("select event_type from payments.outbox where aggregate_id = %s order by sequence", payment_id)
    return [row[0] for row in rows]


def has_no_watch(world: World) -> bool:
    return world.rows("select from payments.watches") == []


def browser_payment(world: World, token: str | None = "pm_card_authenticationRequired") -> tuple[UUID, str]:
    payment_id = world.request(payment_method=token)
    wait_until(world.settled(payment_id, "ACTION_REQUIRED"))
    (intent,) = world.sandbox.intents(payment_id)
    return payment_id, intent["id"]


@pytest.mark.parametrize("outcome", ["succeed", "fail"])
def test_16_customer_authenticates_and_the_webhook_is_lost(world: World, outcome: str) -> None:
    world.start_worker(**QUICK)
    payment_id, intent_id = browser_payment(world)
    world.sandbox.steer("POST", "browser/authenticate", payment_intent=intent_id, outcome=outcome)
    if outcome == "succeed":
        wait_until(world.settled(payment_id))
        wait_until(lambda: has_no_watch(world))
        return
    waits_for = "select next_action ->> 'type' from payments.payments where payment_id = %s"
    wait_until(lambda: world.row(waits_for, payment_id) == ("requires_payment_method",))
    assert world.status(payment_id) == "ACTION_REQUIRED"


def test_16_nobody_comes_back_and_the_time_limit_cancels(world: World) -> None:
    world.start_worker(**QUICK, PAYMENTS_ACTION_REQUIRED_HOURS=A_SECOND)
    payment_id = world.request(payment_method="pm_card_authenticationRequired")
    wait_until(world.settled(payment_id, "FAILED"))
    (intent,) = world.sandbox.intents(payment_id)
    assert (intent["status"], intent["cancellation_reason"]) == ("canceled", "abandoned")
    reason, code = world.row("select failure_reason, failure_decline_code from payments.payments")
    assert (reason, code) == ("PROCESSING_ERROR", "abandoned")
    assert events(world, payment_id) == ["payment-requested", "payment-action-required", "payment-failed"]
    wait_until(lambda: has_no_watch(world))


def test_16_time_limit_never_beats_a_customer_who_has_paid(world: World) -> None:
    """Paid, unheard of, and the limit is over: the look finds the money before anything is cancelled."""
    worker = world.start_worker(**QUICK)
    payment_id, intent_id = browser_payment(world)
    worker.stop()
    world.sandbox.steer("POST", "browser/authenticate", payment_intent=intent_id, outcome="succeed")
    # While nobody records the news, the limit is over and the payment still open.
    assert reconcile(world, PAYMENTS_ACTION_REQUIRED_HOURS="0.0001").returncode == 0
    assert world.row("select count(*) from payments.inbox where source = 'reconciler'") == (1,)
    assert world.row("select count(*) from pgmq.q_void_requested") == (0,)
    world.start_worker(**QUICK)
    wait_until(world.settled(payment_id))


def test_17_processing_stays_until_the_bank_has_spoken(world: World) -> None:
    world.sandbox.steer("POST", "behaviours", processing_delay_s=86_400)
    payment_id = world.request(payment_method="pm_usBankAccount_success", currency="USD")
    world.start_worker(**QUICK)
    wait_until(world.settled(payment_id, "PROCESSING"))
    wait_until(lambda: world.row("select looks >= 2 from payments.watches") == (True,))
    assert world.status(payment_id) == "PROCESSING"
    world.sandbox.steer("POST", "clock", advance_s=86_401)
    wait_until(world.settled(payment_id))
    world.sandbox.steer("POST", "behaviours", processing_delay_s=3)


def hold(world: World, **columns: Any) -> tuple[UUID, str]:
    payment_id = world.request(capture_method="manual", **columns)
    wait_until(world.settled(payment_id, "AUTHORIZED"))
    (intent,) = world.sandbox.intents(payment_id)
    return payment_id, intent["id"]


def test_24_hold_that_lapses_is_noticed_at_capture_before(world: World) -> None:
    worker = world.start_worker(**QUICK)
    payment_id, _ = hold(world)
    wait_until(lambda: world.row("select looks >= 1 from payments.watches") == (True,))
    worker.stop()
    until_lapse = world.row(
        "select next_look_at <= capture_before + interval '31 seconds', capture_before > now() + interval '6 days'"
        " from payments.watches join payments.payments using (payment_id)"
    )
    assert until_lapse == (True, True)
    # As it will be then: Stripe has let the hold go a moment ago, and the next look is due.
    world.sandbox.steer("POST", "clock", advance_s=8 * 86_400)
    world.execute("alter table payments.payments disable trigger user")
    world.execute("update payments.payments set capture_before = now() - interval '31 seconds'")
    world.execute("alter table payments.payments enable trigger user")
    world.execute("update payments.watches set next_look_at = now(), looks = 20")
    world.start_worker(**QUICK)
    wait_until(world.settled(payment_id, "EXPIRED"))
    assert events(world, payment_id)[-1] == "payment-expired"


def test_25_orphan_hold_is_voided_after_its_time_limit(world: World) -> None:
    world.start_worker(**QUICK, PAYMENTS_ORPHAN_HOLD_HOURS=A_SECOND)
    claimed, _ = hold(world, order_id=uuid4())
    orphan = world.request(capture_method="manual")
    wait_until(world.settled(orphan, "VOIDING"))
    # The relay, which no test here runs, sends what was published.
    (payload,) = world.row("select payload from payments.outbox where event_type = 'void-requested'")
    world.execute("select pgmq.send('void_requested', %s::jsonb)", json.dumps(payload))
    wait_until(world.settled(orphan, "VOIDED"))
    assert events(world, orphan)[-2:] == ["void-requested", "payment-voided"]
    why = "select why from payments.payment_history where payment_id = %s and from_status || to_status = %s"
    assert world.row(why, orphan, "AUTHORIZEDVOIDING") == ("no order has claimed the hold in time",)
    assert world.status(claimed) == "AUTHORIZED"
    (intent,) = world.sandbox.intents(claimed)
    assert intent["status"] == "requires_capture"


def test_failed_payment_leaves_no_payment_intent_open(world: World) -> None:
    """Also when the recorder's own cancel got lost."""
    payment_id = world.request(payment_method="pm_card_chargeDeclined")
    cancels = {"method": "POST", "path": "/v1/payment_intents/*/cancel"}
    world.sandbox.steer("POST", "faults", fault="before_executing", match=cancels, times=None)
    worker = world.start_worker(**QUICK | {"PAYMENTS_RECONCILE_AFTER_S": "3600"})
    wait_until(world.settled(payment_id, "FAILED"))
    worker.stop()
    world.sandbox.clear_faults()
    world.execute("delete from pgmq.q_void_requested")
    world.execute("delete from payments.stripe_requests where operation = 'cancel_payment_intent'")
    assert world.sandbox.intents(payment_id)[0]["status"] == "requires_payment_method"
    world.start_worker(**QUICK)
    wait_until(lambda: world.sandbox.intents(payment_id)[0]["status"] == "canceled")
    wait_until(lambda: has_no_watch(world))
    assert world.status(payment_id) == "FAILED"


def test_money_after_the_end_goes_back_though_nobody_told(world: World) -> None:
    payment_id = world.request(capture_method="manual")
    world.start_worker(**QUICK)
    wait_until(world.settled(payment_id, "AUTHORIZED"))
    # What should never be: our books say FAILED, Stripe holds the money.
    world.execute("alter table payments.payments disable trigger guard_payment")
    world.execute(
        "update payments.payments set status = 'FAILED', failure_reason = 'PROCESSING_ERROR', amount_authorized = 0"
    )
    world.execute("alter table payments.payments enable trigger guard_payment")
    wait_until(lambda: world.sandbox.intents(payment_id)[0]["status"] == "canceled")
    wait_until(lambda: has_no_watch(world))
    assert world.status(payment_id) == "FAILED"


def test_pending_refund_is_asked_for_until_it_ends(world: World) -> None:
    world.sandbox.steer("POST", "behaviours", refund_delay_s=86_400)
    payment_id = world.request(payment_method="pm_card_pendingRefund")
    world.start_worker(**QUICK)
    wait_until(world.settled(payment_id))
    refund_id = uuid4()
    world.execute(
        "insert into payments.refunds (refund_id, payment_id, amount, currency) values (%s, %s, 300, 'EUR')",
        refund_id,
        payment_id,
    )
    message = {"refundId": str(refund_id), "paymentId": str(payment_id)}
    world.execute("select pgmq.send('refund_requested', %s::jsonb)", json.dumps(message))
    wait_until(lambda: world.row("select status from payments.refunds") == ("PENDING",))
    wait_until(lambda: world.row("select looks >= 1 from payments.watches") == (True,))
    (intent,) = world.sandbox.intents(payment_id)
    (refund,) = intent["refunds"]
    world.sandbox.steer("POST", f"refunds/{refund['id']}", status="succeeded")
    wait_until(lambda: world.row("select status from payments.refunds") == ("PROCESSED",))
    wait_until(lambda: has_no_watch(world))
    world.sandbox.steer("POST", "behaviours", refund_delay_s=5)


def test_a_change_begins_the_pauses_anew_and_the_end_ends_them(world: World) -> None:
    world.start_worker(**QUICK)
    payment_id, intent_id = browser_payment(world)
    wait_until(lambda: world.row("select looks >= 2 from payments.watches") == (True,))
    # A look an hour away would come too late for what a wish begins now.
    world.execute("update payments.watches set next_look_at = now() + interval '1 hour'")
    world.execute("update payments.payments set status = 'VOIDING', next_action = null")
    wait_until(world.settled(payment_id, "VOIDED"))
    wait_until(lambda: has_no_watch(world))
    assert world.sandbox.intents(payment_id)[0]["id"] == intent_id


@pytest.mark.anyio
@pytest.mark.parametrize(("hours", "is_voided"), [(23, False), (25, True)])
async def test_hold_without_an_order_has_a_day(bench: Bench, hours: int, *, is_voided: bool) -> None:
    payment_id = insert_payment(bench.conn, capture_method="manual")
    bench.stripe.intents.append(intent(payment_id, "requires_capture", id="pi_1", capture_method="manual"))
    bench.conn.execute("alter table payments.payments disable trigger user")
    bench.conn.execute(
        "update payments.payments set status = 'AUTHORIZED', amount_authorized = amount,"
        " processor_payment_intent = 'pi_1', updated_at = now() - make_interval(hours => %s)",
        (hours,),
    )
    bench.conn.execute("alter table payments.payments enable trigger user")
    bench.watch(payment_id)
    await look_at_watches(bench.around)
    status = "VOIDING" if is_voided else "AUTHORIZED"
    assert bench.conn.execute("select status from payments.payments").fetchall() == [(status,)]


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("hours", "looks", "is_cancelled"), [(23, 1, False), (25, 0, False), (25, 1, True)], ids=["young", "unseen", "old"]
)
async def test_payment_intent_that_our_call_left_unconfirmed_is_given_up_after_a_day(
    bench: Bench, hours: int, looks: int, *, is_cancelled: bool
) -> None:
    """Stripe broke off between making and confirming it: nobody else ever will, and its cart has to go on."""
    payment_id = insert_payment(bench.conn)
    bench.stripe.intents.append(intent(payment_id, "requires_confirmation", id="pi_1"))
    bench.conn.execute("alter table payments.payments disable trigger user")
    bench.conn.execute(
        "update payments.payments set processor_payment_intent = 'pi_1', payment_method = 'pm_card_visa',"
        " updated_at = now() - make_interval(hours => %s)",
        (hours,),
    )
    bench.conn.execute("alter table payments.payments enable trigger user")
    bench.watch(payment_id)
    bench.conn.execute("update payments.watches set looks = %s, next_look_at = now() - interval '1 hour'", (looks,))
    await look_at_watches(bench.around)
    told = bench.conn.execute("select message ->> 'cancellationReason' from pgmq.q_void_requested").fetchall()
    assert told == ([("abandoned",)] if is_cancelled else [])
    assert bench.conn.execute("select count(*) from payments.inbox").fetchone() == (1,), "and the recorder hears of it"


def test_each_state_that_leaves_something_open_begins_the_pauses_anew(database: Database) -> None:
    with database.connect() as conn:
        for before, after in (
            ("REQUESTED", "ACTION_REQUIRED"),
            ("REQUESTED", "PROCESSING"),
            ("REQUESTED", "AUTHORIZED"),
            ("AUTHORIZED", "CAPTURING"),
            ("AUTHORIZED", "VOIDING"),
        ):
            payment_id = insert_payment(conn)
            settle(conn, payment_id, before)
            conn.execute("delete from payments.watches")
            # Pauses have become long by now.
            conn.execute("insert into payments.watches values (%s, 20, now() + interval '6 hours')", (payment_id,))
            settle(conn, payment_id, after)
            watch = conn.execute("select looks, next_look_at <= clock_timestamp() from payments.watches").fetchall()
            assert watch == [(0, True)], after


def test_45_looks_are_shared_out_between_workers(world: World) -> None:
    """Two processes, twenty payments: each look is one process's, and all payments end."""
    first = world.start_worker_process(**QUICK)
    second = world.start_worker_process(**QUICK)
    payments = [world.request(payment_method="pm_card_authenticationRequired") for _ in range(20)]
    wait_until(lambda: all(world.status(one) == "ACTION_REQUIRED" for one in payments), 30)
    # If that took long, looks have become rare meanwhile: each pause is twice the one before.
    for made in world.sandbox.intents():
        world.sandbox.steer("POST", "browser/authenticate", payment_intent=made["id"], outcome="succeed")
    wait_until(lambda: all(world.status(one) == "SUCCEEDED" for one in payments), 60)
    looks = [line for worker in (first, second) for line in worker.logged("payment.looked_at")]
    seen = [(line["payment_id"], line["status"], line["looks"]) for line in looks]
    assert len(seen) == len(set(seen)), "the same look twice"
    assert events(world, payments[0])[-1] == "payment-succeeded"


@pytest.mark.anyio
@pytest.mark.parametrize(("outcome", "news"), [("answered", 0), ("refused", 1)])
async def test_failed_payment_is_watched_until_its_intent_is_cancelled(bench: Bench, outcome: str, news: int) -> None:
    payment_id = bench.failed()
    bench.conn.execute(
        "insert into payments.stripe_requests (payment_id, subject_id, operation, idempotency_key, parameters,"
        " attempts, state, outcome, answered_at)"
        " values (%(id)s, %(id)s, 'cancel_payment_intent', 'x', '{}', 1, 'answered', %(outcome)s, now())",
        {"id": payment_id, "outcome": outcome},
    )
    bench.watch(payment_id)
    await look_at_watches(bench.around)
    assert bench.conn.execute("select count(*) from payments.inbox").fetchone() == (news,)


@pytest.mark.anyio
@pytest.mark.parametrize(("way_back", "news"), [("REQUESTED", 0), ("FAILED", 1)])
async def test_late_money_is_watched_until_it_is_on_its_way_back(bench: Bench, way_back: str, news: int) -> None:
    payment_id = bench.failed()
    bench.conn.execute(
        "insert into payments.refunds (refund_id, payment_id, amount, currency, reason, status, failure_reason)"
        " values (gen_random_uuid(), %(id)s, 1000, 'EUR', 'compensation', %(status)s, %(why)s)",
        {"id": payment_id, "status": way_back, "why": "declined" if way_back == "FAILED" else None},
    )
    bench.watch(payment_id)
    await look_at_watches(bench.around)
    assert bench.conn.execute("select count(*) from payments.inbox").fetchone() == (news,)
    assert bench.conn.execute("select count(*) from payments.watches").fetchone() == (news,)
