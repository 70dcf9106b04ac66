"""Money that comes after a payment's end goes back, once."""

from typing import Any
from uuid import UUID

import pytest

from tests.domain.story import expanded
from tests.domain.stripe_objects import INTENT, declined, event, intent, refund, refused
from tests.inbox.conftest import Desk
from tests.inbox.wishes import REFUNDS, commands, refund_answer

pytestmark = pytest.mark.anyio


async def fail(desk: Desk, **options: Any) -> UUID:
    payment_id = desk.payment(**options)
    desk.answer(declined(intent(payment_id, "requires_payment_method", **_manual(options))), payment_id)
    await desk.settle()
    desk.sql("delete from pgmq.q_void_requested")
    return payment_id


def _manual(options: dict[str, Any]) -> dict[str, Any]:
    return {"capture_method": "manual"} if options.get("capture_method") == "manual" else {}


@pytest.mark.every_postgres
async def test_late_money_goes_back_once_however_often_it_is_heard_of(desk: Desk) -> None:
    payment_id = await fail(desk)
    taken = intent(payment_id, "succeeded")
    desk.truth.intents[INTENT] = expanded(taken)
    for _ in range(3):
        desk.webhook(event("payment_intent.succeeded", taken))
        await desk.settle()
    assert desk.status(payment_id) == "FAILED"
    assert desk.sql(REFUNDS, payment_id) == [(1000, "REQUESTED", False, "compensation", None)]
    assert desk.events(payment_id) == ["payment-requested", "payment-failed", "refund-requested"]
    decisions = [row[4] for row in desk.history(payment_id)]
    assert decisions.count("compensated") == 1
    assert desk.sql("select * from payments.audit_imbalances") == []
    (refund_id,) = desk.one("select refund_id from payments.refunds")
    done = refund(INTENT, 1000, "succeeded", metadata={"refundId": str(refund_id), "paymentId": str(payment_id)})
    desk.webhook(event("refund.created", done))
    await desk.settle()
    assert desk.one("select amount_reserved, amount_refunded from payments.payments") == (1000, 0)
    assert desk.events(payment_id)[-1] == "refund-processed"


async def test_late_hold_is_let_go(desk: Desk) -> None:
    payment_id = await fail(desk, capture_method="manual")
    held = intent(payment_id, "requires_capture", capture_method="manual")
    desk.truth.intents[INTENT] = expanded(held)
    desk.webhook(event("payment_intent.amount_capturable_updated", held))
    await desk.settle()
    assert (desk.status(payment_id), commands(desk)) == ("FAILED", ["abandoned"])
    assert desk.history(payment_id)[-1][4] == "compensated"


@pytest.mark.parametrize("status", ["succeeded", "requires_capture"])
async def test_late_money_of_a_payment_whose_intent_was_not_known_can_be_given_back(desk: Desk, status: str) -> None:
    """Voided, because nothing seemed to exist; by what Stripe made of it late, the worker refunds or cancels."""
    manual = {"capture_method": "manual"} if status == "requires_capture" else {}
    payment_id = desk.payment(**manual)
    desk.sql("update payments.payments set status = 'VOIDING'")
    desk.sql("update payments.payments set status = 'VOIDED'")
    late = intent(payment_id, status, **manual)
    desk.truth.intents[INTENT] = expanded(late)
    kind = "succeeded" if status == "succeeded" else "amount_capturable_updated"
    desk.webhook(event(f"payment_intent.{kind}", late), payment_id)
    await desk.settle()
    assert desk.one("select status, processor_payment_intent from payments.payments") == ("VOIDED", INTENT)
    assert desk.history(payment_id)[-1][4] == "compensated"
    wishes = (len(desk.sql(REFUNDS, payment_id)), len(commands(desk)))
    assert wishes == ((1, 0) if status == "succeeded" else (0, 1))


async def test_late_money_that_somebody_gave_back_in_the_dashboard_is_not_given_back_again(desk: Desk) -> None:
    payment_id = await fail(desk)
    desk.truth.intents[INTENT] = expanded(intent(payment_id, "succeeded"))
    theirs = refund(INTENT, 1000, "succeeded")
    desk.truth.refunds[theirs["id"]] = theirs
    desk.webhook(event("refund.created", theirs))
    desk.webhook(event("payment_intent.succeeded", intent(payment_id, "succeeded")))
    await settle_while_ours_is_refused(desk, payment_id)
    assert desk.status(payment_id) == "FAILED"
    done = [row for row in desk.sql(REFUNDS, payment_id) if row[1] == "PROCESSED"]
    assert done == [(1000, "PROCESSED", True, "compensation", None)]


async def settle_while_ours_is_refused(desk: Desk, payment_id: UUID) -> None:
    """As Stripe does with a refund of what was refunded already."""
    for _ in range(10):
        await desk.recorder.run_once()
        await desk.recorder.finish_fetches(5)
        for (refund_id,) in desk.sql("select refund_id from payments.refunds where status = 'REQUESTED'"):
            refund_answer(desk, payment_id, refund_id, refused({"type": "x", "code": "charge_already_refunded"}))
        desk.sql("update payments.inbox set next_attempt_at = now() where next_attempt_at > now()")
    assert desk.sql("select from payments.inbox where processed_at is null") == []
