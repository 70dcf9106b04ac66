"""What follows from what Stripe said: commands to the worker, events of captures and holds, conflicts."""

from uuid import UUID, uuid4

import pytest

from payments.domain.identifiers import new_id
from tests.domain.story import expanded, said_no
from tests.domain.stripe_objects import INSUFFICIENT_FUNDS, INTENT, answered, declined, event, intent, refused
from tests.inbox.conftest import Desk
from tests.inbox.wishes import COMMANDS, commands

pytestmark = pytest.mark.anyio


# --- commands ------------------------------------------------------------------------------------------------------


@pytest.mark.every_postgres
async def test_declined_payment_has_its_intent_cancelled_at_once(desk: Desk) -> None:
    payment_id = desk.payment()
    desk.answer(declined(intent(payment_id, "requires_payment_method")), payment_id)
    await desk.settle()
    ((message, headers),) = desk.sql(COMMANDS)
    assert message["paymentId"] == str(payment_id)
    assert (message["amount"], message["currency"], message["cancellationReason"]) == (1000, "EUR", "abandoned")
    assert (headers["ce-type"], headers["x-pgmq-group"]) == ("void-requested", str(payment_id))
    assert UUID(headers["ce-id"]).version == 7
    assert ("payments_queue", "void_requested") in desk.notices.sent
    assert desk.events(payment_id) == ["payment-requested", "payment-failed"], "the command is told to nobody"


async def test_attempt_that_fails_in_the_browser_ends_nothing(desk: Desk) -> None:
    """The customer, who was asked for a signature, may try another card: their PaymentIntent is not cancelled."""
    payment_id = desk.payment(payment_method="pm_card_visa")
    desk.sql(
        "insert into payments.payment_history (payment_id, signal, source, to_status, decision, why)"
        " values (%s, 'authorize', 'api', 'REQUESTED', 'applied', 'asked for')",
        payment_id,
    )
    desk.answer(answered(intent(payment_id, "requires_action")), payment_id)
    await desk.settle()
    assert desk.status(payment_id) == "ACTION_REQUIRED"
    tried = intent(payment_id, "requires_payment_method", last_payment_error=INSUFFICIENT_FUNDS)
    desk.truth.intents[INTENT] = tried
    desk.webhook(event("payment_intent.payment_failed", tried))
    await desk.settle()
    assert (desk.status(payment_id), commands(desk)) == ("ACTION_REQUIRED", [])


async def test_failure_without_an_intent_has_nothing_to_cancel(desk: Desk) -> None:
    payment_id = desk.payment()
    desk.answer(refused({"type": "card_error", "code": "card_declined"}), payment_id)
    await desk.settle()
    assert (desk.status(payment_id), commands(desk)) == ("FAILED", [])


async def test_intent_that_turns_up_after_the_failure_is_cancelled(desk: Desk) -> None:
    payment_id = desk.payment()
    desk.answer(declined(None), payment_id)
    await desk.settle()
    assert commands(desk) == []
    desk.webhook(event("payment_intent.created", intent(payment_id, "requires_confirmation")))
    await desk.settle()
    assert commands(desk) == ["abandoned"]


@pytest.mark.parametrize("status", ["requires_action", "requires_capture", "processing"])
async def test_void_goes_out_as_soon_as_the_intent_is_known(desk: Desk, status: str) -> None:
    payment_id = desk.payment(capture_method="manual")
    desk.sql("update payments.payments set status = 'VOIDING' where payment_id = %s", payment_id)
    desk.answer(answered(expanded(intent(payment_id, status, capture_method="manual"))), payment_id)
    await desk.settle()
    assert (desk.status(payment_id), commands(desk)) == ("VOIDING", ["requested_by_customer"])


async def test_refused_cancel_is_not_repeated_by_the_recorder(desk: Desk) -> None:
    payment_id = desk.payment()
    desk.sql("update payments.payments set status = 'VOIDING' where payment_id = %s", payment_id)
    no = said_no("cancel_payment_intent", intent(payment_id, "processing"))
    desk.answer({**no, "subjectId": str(payment_id)}, payment_id)
    await desk.settle()
    assert (desk.status(payment_id), commands(desk)) == ("VOIDING", [])


# --- captures ------------------------------------------------------------------------------------------------------


async def capturing(desk: Desk, amount: int = 600) -> tuple[UUID, UUID]:
    payment_id, capture_id = desk.payment(capture_method="manual"), new_id()
    desk.answer(answered(expanded(intent(payment_id, "requires_capture", capture_method="manual"))), payment_id)
    await desk.settle()
    desk.sql(
        "update payments.payments set status = 'CAPTURING', capture_id = %s, amount_to_capture = %s"
        " where payment_id = %s",
        capture_id,
        amount,
        payment_id,
    )
    return payment_id, capture_id


async def test_capture_of_another_amount_than_asked_for_is_a_conflict(desk: Desk) -> None:
    payment_id, capture_id = await capturing(desk)
    done = intent(payment_id, "succeeded", capture_method="manual", amount_received=500)
    answer = {**answered(expanded(done), "capture_payment_intent"), "subjectId": str(capture_id)}
    desk.answer(answer, payment_id, 2)
    await desk.settle()
    assert desk.status(payment_id) == "CONFLICTED"
    assert "payment-succeeded" not in desk.events(payment_id)


async def test_capture_of_a_part_is_told_with_the_part(desk: Desk) -> None:
    payment_id, capture_id = await capturing(desk, 600)
    done = intent(payment_id, "succeeded", capture_method="manual", amount_received=600)
    answer = {**answered(expanded(done), "capture_payment_intent"), "subjectId": str(capture_id)}
    desk.answer(answer, payment_id, 2)
    await desk.settle()
    told = "select payload -> 'amount' from payments.outbox where event_type = 'payment-succeeded'"
    assert (desk.status(payment_id), desk.sql(told)) == ("SUCCEEDED", [(600,)])


async def test_refused_capture_of_an_earlier_wish_changes_nothing(desk: Desk) -> None:
    payment_id, capture_id = await capturing(desk)
    no = said_no("capture_payment_intent", intent(payment_id, "requires_capture", capture_method="manual"))
    desk.answer({**no, "subjectId": str(uuid4())}, payment_id, 2)
    await desk.settle()
    assert desk.status(payment_id) == "CAPTURING"
    desk.answer({**no, "subjectId": str(capture_id)}, payment_id, 3)
    await desk.settle()
    assert desk.status(payment_id) == "AUTHORIZED"
    assert ("payments_settled", str(payment_id)) in desk.notices.sent


async def test_hold_that_a_webhook_tells_of_first_is_told_with_its_deadline(desk: Desk) -> None:
    payment_id = desk.payment(capture_method="manual")
    held = intent(payment_id, "requires_capture", capture_method="manual")
    desk.truth.intents[INTENT] = expanded(held)
    desk.webhook(event("payment_intent.amount_capturable_updated", held))
    await desk.settle()
    (payload,) = desk.one("select payload from payments.outbox where event_type = 'payment-authorized'")
    assert payload["captureBefore"].startswith("2030-")
