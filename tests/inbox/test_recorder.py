"""The recorder on a real database: what Stripe said becomes payment, history and outbox, in one transaction."""

import asyncio
from collections.abc import Callable
from typing import Any
from uuid import UUID, uuid4

import pytest
import structlog.testing

from payments.database.connections import transaction
from payments.inbox.rows import receive
from tests.domain.stripe_objects import (
    CHARGE,
    INTENT,
    SECRET,
    answered,
    declined,
    event,
    intent,
    refused,
)
from tests.inbox.conftest import Desk

pytestmark = [pytest.mark.anyio, pytest.mark.every_postgres]

MONEY = """
select status, amount_authorized, amount_captured, processor_payment_intent, processor_reference, last_sequence, version
from payments.payments where payment_id = %s
"""


async def test_an_answered_call_makes_a_payment_succeed(desk: Desk) -> None:
    payment_id = desk.payment()
    desk.answer(answered(intent(payment_id, "succeeded")), payment_id)
    await desk.settle()
    assert desk.one(MONEY, payment_id) == ("SUCCEEDED", 1000, 1000, INTENT, CHARGE, 2, 2)
    assert desk.events(payment_id) == ["payment-requested", "payment-succeeded"]
    assert desk.outcomes() == ["applied"]
    why = "Stripe has the money"
    kind = "api.create_payment_intent"
    assert desk.history(payment_id) == [(kind, "stripe-api", "REQUESTED", "SUCCEEDED", "applied", why, "req_tests")]
    assert desk.notices.sent == [("payments_outbox", ""), ("payments_settled", str(payment_id))]
    payload, headers = desk.one(
        "select payload, headers from payments.outbox where aggregate_id = %s and sequence = 2", payment_id
    )
    assert (payload["amount"], payload["currency"], payload["processorReference"]) == (1000, "EUR", CHARGE)
    assert (headers["ce-sequence"], headers["x-pgmq-group"]) == ("0000000002", str(payment_id))


async def test_each_kind_of_word_leads_where_it_should(desk: Desk) -> None:
    """One payment for each, all weighed in one batch."""
    expected: dict[UUID, tuple[str, list[str], str]] = {}

    def expect(payment_id: UUID, status: str, events: list[str], outcome: str = "applied") -> UUID:
        expected[payment_id] = (status, ["payment-requested", *events], outcome)
        return payment_id

    def told(number: int, status: str, **fields: Any) -> dict[str, Any]:
        return {"id": f"pi_{number}", **fields, "status": status}

    def thing(payment_id: UUID, number: int, status: str, **fields: Any) -> dict[str, Any]:
        return intent(payment_id, status, **{**fields, "id": f"pi_{number}"})

    held = expect(desk.payment(capture_method="manual"), "AUTHORIZED", ["payment-authorized"])
    desk.answer(answered(thing(held, 1, "requires_capture", capture_method="manual")), held)
    asked = expect(desk.payment(payment_method=None), "ACTION_REQUIRED", ["payment-action-required"])
    desk.answer(answered(thing(asked, 2, "requires_payment_method")), asked)
    pending = expect(desk.payment(), "PROCESSING", [])
    desk.answer(answered(thing(pending, 3, "processing")), pending)
    poor = expect(desk.payment(), "FAILED", ["payment-failed"])
    desk.answer(declined(thing(poor, 4, "requires_payment_method")), poor)
    wrong = expect(desk.payment(), "FAILED", ["payment-failed"])
    desk.answer(refused({"code": "resource_missing", "param": "payment_method"}), wrong)
    cancelled = expect(desk.payment(), "VOIDED", ["payment-voided"])
    desk.webhook(event("payment_intent.canceled", thing(cancelled, 5, "canceled")))
    lapsed = expect(desk.payment(capture_method="manual"), "EXPIRED", ["payment-expired"])
    gone = thing(lapsed, 6, "canceled", capture_method="manual", cancellation_reason="automatic")
    desk.webhook(event("payment_intent.canceled", gone))
    odd = expect(desk.payment(), "CONFLICTED", [], "conflicted")
    desk.answer(answered(thing(odd, 7, "succeeded", amount=7)), odd)
    ours = expect(desk.payment(), "REQUESTED", [], "dead")
    desk.answer(refused({"code": "parameter_unknown", "param": "confrim"}), ours)
    await desk.settle()
    for payment_id, (status, events, outcome) in expected.items():
        assert (desk.status(payment_id), desk.events(payment_id)) == (status, events)
        assert desk.sql("select outcome from payments.inbox where payment_id = %s", payment_id) == [(outcome,)]
        (row,) = desk.history(payment_id)
        assert (row[2], row[3]) == ("REQUESTED", status)
        assert row[4] == {"dead": "ignored"}.get(outcome, outcome)
    assert desk.one("select next_action from payments.payments where payment_id = %s", asked) == (
        {"type": "requires_payment_method", "clientSecret": SECRET},
    )
    failure = (
        "select failure_reason, failure_decline_code, failure_message from payments.payments where payment_id = %s"
    )
    kept = ("INSUFFICIENT_FUNDS", "insufficient_funds", "Your card has insufficient funds.")
    assert desk.one(failure, poor) == kept
    assert desk.sql("select payment_id from payments.dead_letters") == [(ours,)]
    assert desk.sql("select * from payments.audit_imbalances where payment_id <> %s", odd) == []


async def test_events_that_touch_no_payment_are_sorted_out(desk: Desk) -> None:
    payment_id = desk.payment()
    thing = intent(payment_id, "succeeded")
    desk.webhook(event("payment_intent.succeeded", thing, livemode=True))
    desk.webhook(event("payment_intent.succeeded", intent(None, "succeeded", id="pi_foreign")))
    desk.webhook(event("payment_intent.succeeded", intent(uuid4(), "succeeded", id="pi_lost")))
    desk.webhook(event("customer.created", {"id": "cus_1", "object": "customer"}))
    desk.webhook(event("charge.refunded", {"id": CHARGE, "object": "charge", "metadata": thing["metadata"]}))
    await desk.settle()
    assert desk.outcomes() == ["quarantined", "foreign", "foreign", "foreign", "ignored"]
    assert desk.status(payment_id) == "REQUESTED"
    assert desk.truth.asked == ["pi_lost"]
    assert [(row[0], row[4]) for row in desk.history(payment_id)] == [("charge.refunded", "ignored")]


async def test_webhook_before_the_answer_is_resolved_by_metadata_and_later_ones_by_the_intent(desk: Desk) -> None:
    payment_id = desk.payment(payment_method=None)
    desk.webhook(event("payment_intent.created", intent(payment_id, "requires_payment_method")))
    await desk.settle()
    assert desk.status(payment_id) == "ACTION_REQUIRED"
    desk.webhook(event("payment_intent.succeeded", intent(None, "succeeded")))
    desk.answer(answered(intent(payment_id, "requires_payment_method")), payment_id)
    await desk.settle()
    assert desk.status(payment_id) == "SUCCEEDED"
    assert [row[0] for row in desk.sql("select distinct payment_id from payments.inbox")] == [payment_id]


async def test_distinct_events_of_one_state_publish_once(desk: Desk) -> None:
    payment_id = desk.payment()
    for _ in range(5):
        desk.webhook(event("payment_intent.succeeded", intent(payment_id, "succeeded")))
    desk.answer(answered(intent(payment_id, "succeeded")), payment_id)
    await desk.settle()
    assert desk.events(payment_id) == ["payment-requested", "payment-succeeded"]
    assert sorted(desk.outcomes()) == ["applied", *["ignored"] * 5]
    assert len(desk.history(payment_id)) == 6


async def test_whoever_waits_hears_of_a_conflict(desk: Desk) -> None:
    payment_id = desk.payment()
    desk.answer(answered(intent(payment_id, "succeeded", amount=7)), payment_id)
    await desk.settle()
    assert desk.status(payment_id) == "CONFLICTED"
    assert desk.notices.sent == [("payments_settled", str(payment_id))]


async def test_word_that_holds_a_nul_is_kept_without_it(desk: Desk) -> None:
    payload = rb'{"operation": "retrieve_refund", "outcome": "refused", "objectId": "a\u0000b"}'
    async with transaction(desk.pool) as conn:
        assert await receive(conn, "reconciler", "re_1/req_1", "fetched.refund", None, payload)
    assert desk.one("select payload ->> 'objectId' from payments.inbox") == ("a\ufffdb",)


async def test_late_money_changes_nothing_and_is_named_in_history(desk: Desk) -> None:
    payment_id = desk.payment()
    desk.answer(declined(intent(payment_id, "requires_payment_method")), payment_id)
    desk.truth.intents[INTENT] = intent(payment_id, "succeeded")
    desk.webhook(event("payment_intent.succeeded", intent(payment_id, "succeeded")))
    await desk.settle()
    assert desk.status(payment_id) == "FAILED"
    assert desk.outcomes() == ["applied", "superseded", "compensated"]
    assert desk.history(payment_id)[-1][5].startswith("late money")


async def test_recorder_claims_only_what_is_new_and_nobody_elses(desk: Desk) -> None:
    """A row that another recorder has is neither waited for nor weighed twice; one that was put off has its time."""
    payments = [desk.payment() for _ in range(3)]
    for payment_id in payments:
        desk.answer(answered(intent(payment_id, "succeeded", id=f"pi_{payment_id.hex}")), payment_id)
    theirs, later, free = payments
    desk.sql("update payments.inbox set next_attempt_at = now() + interval '1 h' where payment_id = %s", later)
    with desk.database.connect(autocommit=False) as another:
        another.execute("select from payments.inbox where payment_id = %s for update", (theirs,))
        assert await desk.recorder.run_once() == 1
    assert [desk.status(payment_id) for payment_id in (theirs, later, free)] == ["REQUESTED", "REQUESTED", "SUCCEEDED"]


async def test_recorder_waits_for_whoever_holds_the_payment(desk: Desk, eventually_async: Callable[..., Any]) -> None:
    payment_id = desk.payment(capture_method="manual")
    desk.answer(answered(intent(payment_id, "requires_capture", capture_method="manual")), payment_id)
    waiting = "select from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()"
    with structlog.testing.capture_logs() as logs, desk.database.connect(autocommit=False) as holder:
        holder.execute("update payments.payments set status = 'VOIDING' where payment_id = %s", (payment_id,))
        recording = asyncio.create_task(desk.recorder.run_once())
        await eventually_async(lambda: desk.sql(waiting))
        holder.commit()
        await recording
    assert desk.status(payment_id) == "VOIDING"
    assert desk.history(payment_id)[0][5].startswith("it is being voided")
    assert [entry["event"] for entry in logs] == ["signal.weighed"], "it was right at the first try"
