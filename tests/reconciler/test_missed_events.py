"""Scenarios 36, 45 and 46: webhooks that never came are fetched; beyond thirty days, what was made then."""

from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any
from uuid import UUID, uuid4

import pytest

from payments.reconciler import events as catching_up
from tests.conftest import wait_until
from tests.worker.world import World

# Nothing but the list of events may help: no watch looks within an hour.
QUICK: dict[str, Any] = {"PAYMENTS_RECONCILE_AFTER_S": "3600", "PAYMENTS_EVENTS_BACKFILL_S": "0.3"}
IDLE: dict[str, Any] = {"PAYMENTS_RECONCILE_AFTER_S": "3600", "PAYMENTS_EVENTS_BACKFILL_S": "86400"}


def intent_of(world: World, payment_id: UUID) -> dict[str, Any]:
    (intent,) = world.sandbox.intents(payment_id)
    return intent


def has_changed(world: World, query: str, seen: tuple[Any, ...]) -> bool:
    return world.row(query) != seen


def move_position(world: World, back: timedelta) -> None:
    """As if the reconciler had last been here so long ago."""
    world.execute(
        "insert into payments.reconciler_progress (job, position) values ('events', now() - %s::interval)"
        " on conflict (job) do update set position = excluded.position",
        back,
    )


def make_due(world: World) -> None:
    world.execute("update payments.reconciler_progress set position = now() where job like 'turn/%%'")


def test_45_all_answers_lost_and_the_events_tell(world: World) -> None:
    payment_id = world.request()
    world.sandbox.fault("after_executing", payment_id, times=None)
    world.start_worker(**QUICK)
    wait_until(lambda: world.status(payment_id) == "SUCCEEDED")
    world.sandbox.clear_faults()
    wait_until(world.settled(payment_id))
    assert intent_of(world, payment_id)["amount_captured"] == 1000
    sources = world.rows("select distinct source from payments.inbox where processed_at is not null order by 1")
    assert ("stripe-webhook",) in sources


def test_45_event_that_a_webhook_brings_too_is_weighed_once(world: World) -> None:
    payment_id = world.request(payment_method="pm_card_authenticationRequired")
    world.start_worker(**QUICK)
    wait_until(world.settled(payment_id, "ACTION_REQUIRED"))
    world.sandbox.steer(
        "POST", "browser/authenticate", payment_intent=intent_of(world, payment_id)["id"], outcome="succeed"
    )
    wait_until(world.settled(payment_id))
    # Once more around: what is known is not put there again.
    turns = "select updated_at from payments.reconciler_progress where job = 'turn/events'"
    for _ in range(3):
        wait_until(partial(has_changed, world, turns, world.row(turns)))
    per_event = world.rows("select count(*), message_id from payments.inbox where source = 'stripe-webhook' group by 2")
    assert per_event
    assert all(count == 1 for count, _ in per_event)
    published = world.row("select count(*) from payments.outbox where event_type = 'payment-succeeded'")
    assert published == (1,)


def test_46_outage_of_days_is_caught_up_with_oldest_first(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Slices that hold too much are halved: here more than a page is too much, and a day has 120 events and more."""
    monkeypatch.setattr(catching_up, "PAGES_MAX", 1)
    world.sandbox.steer("POST", "clock", advance_s=-3 * 86_400)
    worker = world.start_worker(**IDLE)
    payments = [world.request(payment_method="pm_card_authenticationRequired") for _ in range(3)]
    wait_until(lambda: all(world.status(one) == "ACTION_REQUIRED" for one in payments))
    worker.stop()
    for number, payment_id in enumerate(payments):
        intent_id = intent_of(world, payment_id)["id"]
        world.sandbox.steer("POST", "browser/authenticate", payment_intent=intent_id, outcome="succeed")
        for other in range(120):
            if other % 20 == 0:
                world.sandbox.steer("POST", "clock", advance_s=7_200)
            made = {"amount": 500, "currency": "eur", "metadata[number]": f"{number}/{other}"}
            world.sandbox.call("POST", "/v1/payment_intents", data=made).raise_for_status()
        world.sandbox.steer("POST", "clock", advance_s=43_200)
    move_position(world, timedelta(days=3, minutes=1))
    make_due(world)
    world.start_worker(**QUICK)
    wait_until(lambda: all(world.status(one) == "SUCCEEDED" for one in payments), 30)
    since, until = world.row(
        "select min(to_timestamp((payload ->> 'created')::int)), max(to_timestamp((payload ->> 'created')::int))"
        " from payments.inbox where source = 'stripe-webhook'"
    )
    assert until - since > timedelta(days=1)
    (position,) = world.row("select position from payments.reconciler_progress where job = 'events'")
    wait_until(
        lambda: (
            world.row(
                "select position > now() - interval '11 minutes' from payments.reconciler_progress where job = 'events'"
            )
            == (True,)
        )
    )
    assert isinstance(position, datetime)
    brought = "select count(*) from payments.inbox where source = 'stripe-webhook' and message_type = %s"
    assert world.row(brought, "payment_intent.created") == (363,)
    assert world.row(brought, "payment_intent.succeeded") == (3,), "none was passed over, whatever the watches find"


def test_46_beyond_thirty_days_what_was_made_is_listed(world: World) -> None:
    """A backup of forty days ago was restored: one payment was begun before it, one is known to Stripe only."""
    world.sandbox.steer("POST", "clock", advance_s=-40 * 86_400)
    worker = world.start_worker(**IDLE)
    begun = world.request()
    world.sandbox.fault("after_executing", begun, times=None)
    wait_until(lambda: (world.call(begun) or {}).get("state") == "in_doubt")
    worker.stop()
    world.sandbox.clear_faults()
    lost, cart_id = uuid4(), uuid4()
    made = {
        "amount": 700,
        "currency": "eur",
        "confirm": "true",
        "payment_method": "pm_card_visa",
        "automatic_payment_methods[enabled]": "true",
        "automatic_payment_methods[allow_redirects]": "never",
        "metadata[paymentId]": str(lost),
        "metadata[cartId]": str(cart_id),
        "metadata[orderId]": str(cart_id),
    }
    world.sandbox.call("POST", "/v1/payment_intents", data=made).raise_for_status()
    world.sandbox.steer("POST", "clock", advance_s=40 * 86_400)
    world.execute("delete from pgmq.q_payment_requested")
    world.execute("update payments.stripe_requests set state = 'in_doubt'")
    move_position(world, timedelta(days=41))
    make_due(world)
    world.start_worker(**QUICK)
    wait_until(lambda: world.status(begun) == "SUCCEEDED")
    wait_until(lambda: world.rows("select from payments.payments where payment_id = %s", lost))
    wait_until(lambda: world.status(lost) == "SUCCEEDED")
    assert world.row("select client_id, amount_captured from payments.payments where payment_id = %s", lost) == (
        "adopted",
        700,
    )
    at_present = "select position > now() - interval '1 hour' from payments.reconciler_progress where job = 'events'"
    wait_until(lambda: world.row(at_present) == (True,))


def test_cursor_moves_only_with_what_is_in_the_inbox(world: World) -> None:
    """The inbox takes nothing, so the cursor stays; once it does, nothing is missing."""
    payment_id = world.request(payment_method="pm_card_authenticationRequired")
    worker = world.start_worker(**IDLE)
    wait_until(world.settled(payment_id, "ACTION_REQUIRED"))
    worker.stop()
    intent_id = intent_of(world, payment_id)["id"]
    world.sandbox.steer("POST", "browser/authenticate", payment_intent=intent_id, outcome="succeed")
    move_position(world, timedelta(minutes=5))
    (before,) = world.row("select position from payments.reconciler_progress where job = 'events'")
    world.execute("alter table payments.inbox add constraint nothing check (source <> 'stripe-webhook') not valid")
    make_due(world)
    worker = world.start_worker(**QUICK)
    wait_until(lambda: worker.logged("reconciler.database_away"))
    assert world.row("select position from payments.reconciler_progress where job = 'events'") == (before,)
    world.execute("alter table payments.inbox drop constraint nothing")
    wait_until(world.settled(payment_id))


def test_45_dispute_that_no_webhook_told_of_is_heard_of(world: World) -> None:
    payment_id = world.request(payment_method="pm_card_createDispute")
    world.start_worker(**QUICK)
    wait_until(
        lambda: world.rows("select payment_id, status from payments.disputes") == [(payment_id, "needs_response")]
    )
    wait_until(lambda: world.row("select disputed from payments.payments where payment_id = %s", payment_id) == (True,))


def test_foreign_events_are_no_business_of_ours(world: World) -> None:
    worker = world.start_worker(**QUICK)
    world.request()
    world.sandbox.call("POST", "/v1/customers", data={"name": "somebody"}).raise_for_status()
    wait_until(lambda: worker.logged("events.backfilled"))
    types = {row[0] for row in world.rows("select message_type from payments.inbox where source = 'stripe-webhook'")}
    assert types
    assert all(kind.startswith(("payment_intent.", "refund.", "charge.dispute.")) for kind in types)


def test_clock_of_stripe_that_runs_ahead_is_believed_for_minutes_only(world: World) -> None:
    world.sandbox.steer("POST", "clock", advance_s=7 * 86_400)
    payment_id = world.request()
    world.start_worker(**QUICK)
    wait_until(world.settled(payment_id))
    wait_until(lambda: world.rows("select from payments.inbox where source = 'stripe-webhook'"))
    position = "select position from payments.reconciler_progress where job = 'events'"
    wait_until(lambda: world.rows(position))
    assert world.row(position)[0] < datetime.now(UTC) + timedelta(minutes=11)
