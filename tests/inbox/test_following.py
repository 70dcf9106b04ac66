"""What follows from what Stripe said: commands to the worker, money that goes back, refunds, disputes, conflicts."""

from typing import Any
from uuid import UUID, uuid4

import pytest

from payments.domain.identifiers import new_id
from tests.domain.stories import expanded, said_no
from tests.domain.stripe_objects import (
    INSUFFICIENT_FUNDS,
    INTENT,
    answered,
    declined,
    dispute,
    event,
    intent,
    refund,
    refused,
)
from tests.inbox.conftest import Desk

pytestmark = pytest.mark.anyio

COMMANDS = "select message, headers from pgmq.q_void_requested order by msg_id"
REFUNDS = """
select amount, status, external, reason, failure_reason from payments.refunds where payment_id = %s order by 1, 2
"""


def commands(desk: Desk) -> list[str]:
    return [message["cancellationReason"] for message, _ in desk.sql(COMMANDS)]


async def paid(desk: Desk, intent_id: str = INTENT) -> UUID:
    payment_id = desk.payment()
    taken = intent(payment_id, "succeeded", id=intent_id)
    desk.truth.intents[intent_id] = expanded(taken)
    desk.answer(answered(expanded(taken)), payment_id)
    await desk.settle()
    desk.notices.sent.clear()
    return payment_id


def ask_refund(desk: Desk, payment_id: UUID, amount: int = 400) -> UUID:
    refund_id = new_id()
    insert = "insert into payments.refunds (refund_id, payment_id, amount, currency) values (%s, %s, %s, 'EUR')"
    desk.sql(insert, refund_id, payment_id, amount)
    return refund_id


def refund_answer(desk: Desk, payment_id: UUID, refund_id: UUID, payload: dict[str, Any]) -> None:
    desk.answer({**payload, "operation": "create_refund", "subjectId": str(refund_id)}, payment_id, 77)


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


# --- late money ----------------------------------------------------------------------------------------------------


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


# --- refunds -------------------------------------------------------------------------------------------------------


async def test_refund_that_ends_wakes_whoever_waits_for_it(desk: Desk) -> None:
    payment_id = await paid(desk)
    refund_id = ask_refund(desk, payment_id)
    ours = {"metadata": {"refundId": str(refund_id), "paymentId": str(payment_id)}}
    refund_answer(desk, payment_id, refund_id, answered(refund(INTENT, 400, "succeeded", **ours)))
    await desk.settle()
    assert ("payments_settled", str(refund_id)) in desk.notices.sent
    assert desk.one("select amount_refunded, amount_reserved from payments.payments") == (400, 400)
    payload, _ = desk.one("select payload, headers from payments.outbox where event_type = 'refund-processed'")
    assert (payload["refundId"], payload["amount"], payload["currency"]) == (str(refund_id), 400, "EUR")


async def test_refund_that_stripe_refuses_fails_with_its_code_and_frees_its_amount(desk: Desk) -> None:
    payment_id = await paid(desk)
    refund_id = ask_refund(desk, payment_id)
    refund_answer(desk, payment_id, refund_id, refused({"type": "invalid_request_error", "code": "charge_disputed"}))
    await desk.settle()
    assert desk.sql(REFUNDS, payment_id) == [(400, "FAILED", False, None, "charge_disputed")]
    assert desk.one("select amount_reserved from payments.payments") == (0,)
    assert desk.events(payment_id)[-1] == "refund-failed"
    assert desk.one("select payload ->> 'reason' from payments.outbox where event_type = 'refund-failed'") == (
        "charge_disputed",
    )


@pytest.mark.parametrize("fault", [{"amount": 399}, {"currency": "usd"}, {"payment_intent": "pi_another"}])
async def test_refund_that_contradicts_ours_is_a_conflict_and_nothing_is_published(
    desk: Desk, fault: dict[str, Any]
) -> None:
    payment_id = await paid(desk)
    refund_id = ask_refund(desk, payment_id)
    thing = refund(INTENT, 400, "succeeded", metadata={"refundId": str(refund_id)}) | fault
    refund_answer(desk, payment_id, refund_id, answered(thing))
    await desk.settle()
    assert desk.status(payment_id) == "CONFLICTED"
    assert desk.events(payment_id) == ["payment-requested", "payment-succeeded"]
    assert desk.history(payment_id)[-1][4] == "conflicted"
    desk.webhook(event("refund.updated", refund(INTENT, 400, "succeeded", metadata={"refundId": str(refund_id)})))
    await desk.settle()
    assert desk.sql(REFUNDS, payment_id) == [(400, "REQUESTED", False, None, None)]


async def test_second_refund_under_one_id_of_ours_is_a_conflict(desk: Desk) -> None:
    payment_id = await paid(desk)
    refund_id = ask_refund(desk, payment_id)
    ours = {"metadata": {"refundId": str(refund_id), "paymentId": str(payment_id)}}
    for name in ("re_first", "re_second"):
        thing = refund(INTENT, 400, "succeeded", id=name, **ours)
        desk.truth.refunds[name] = thing
        desk.webhook(event("refund.created", thing))
        await desk.settle()
    assert desk.status(payment_id) == "CONFLICTED"


@pytest.mark.every_postgres
async def test_refund_in_the_dashboard_waits_until_ours_is_refused(desk: Desk) -> None:
    payment_id = await paid(desk)
    refund_id = ask_refund(desk, payment_id, 1000)
    desk.webhook(event("refund.created", refund(INTENT, 1000, "succeeded")))
    await desk.recorder.run_once()
    (waits, error) = desk.one("select next_attempt_at > now(), last_error from payments.inbox where outcome is null")
    assert waits
    assert "does not fit" in error
    refund_answer(desk, payment_id, refund_id, refused({"type": "x", "code": "charge_already_refunded"}))
    await desk.settle()
    assert desk.sql(REFUNDS, payment_id) == [
        (1000, "FAILED", False, None, "charge_already_refunded"),
        (1000, "PROCESSED", True, None, None),
    ]


async def test_refund_in_the_dashboard_that_is_pending_is_watched(desk: Desk) -> None:
    payment_id = await paid(desk)
    desk.sql("delete from payments.watches")
    desk.webhook(event("refund.created", refund(INTENT, 300, "pending")))
    await desk.settle()
    assert desk.sql(REFUNDS, payment_id) == [(300, "PENDING", True, None, None)]
    assert desk.sql("select payment_id from payments.watches") == [(payment_id,)]


async def test_refund_that_does_not_fit_for_three_days_goes_to_an_operator(desk: Desk) -> None:
    payment_id = await paid(desk)
    ask_refund(desk, payment_id, 1000)
    desk.webhook(event("refund.created", refund(INTENT, 1000, "succeeded")))
    for hours, given_up in ((71, 0), (73, 1)):
        desk.sql("update payments.inbox set received_at = now() - make_interval(hours => %s)", hours)
        desk.sql("update payments.inbox set next_attempt_at = now()")
        await desk.recorder.run_once()
        assert desk.one("select count(*) from payments.dead_letters") == (given_up,)
    assert desk.sql("select payment_id from payments.dead_letters") == [(payment_id,)]


async def test_refund_that_a_restored_backup_lost_is_ours_again(desk: Desk) -> None:
    payment_id, refund_id = await paid(desk), uuid4()
    ours = {"metadata": {"refundId": str(refund_id), "paymentId": str(payment_id)}}
    desk.webhook(event("refund.updated", refund(INTENT, 400, "pending", **ours)))
    await desk.settle()
    row = desk.one("select refund_id, amount, status, external from payments.refunds")
    assert row == (refund_id, 400, "PENDING", False)
    assert desk.events(payment_id)[-1] == "refund-requested", "its wish is told of once more, as a lost payment's is"


async def test_refund_of_another_api_version_is_fetched(desk: Desk) -> None:
    payment_id = await paid(desk)
    theirs = refund(INTENT, 300, "succeeded")
    desk.truth.refunds[theirs["id"]] = theirs
    desk.webhook(event("refund.created", refund(INTENT, 300, "pending"), api_version="2019-02-11"))
    await desk.settle()
    assert desk.sql(REFUNDS, payment_id) == [(300, "PROCESSED", True, None, None)]


async def test_released_hold_is_no_refund(desk: Desk) -> None:
    payment_id = desk.payment(capture_method="manual")
    gone = intent(payment_id, "canceled", capture_method="manual", latest_charge="ch_1")
    desk.truth.intents[INTENT] = expanded(gone)
    let_go = refund(INTENT, 1000, "succeeded", balance_transaction=None)
    desk.truth.refunds[let_go["id"]] = let_go
    desk.webhook(event("refund.created", let_go))
    desk.webhook(event("charge.refunded", {"id": "ch_1", "object": "charge", "payment_intent": INTENT}))
    desk.webhook(event("payment_intent.canceled", gone))
    await desk.settle()
    assert (desk.status(payment_id), desk.sql(REFUNDS, payment_id)) == ("VOIDED", [])


# --- disputes ------------------------------------------------------------------------------------------------------


async def test_dispute_is_kept_told_and_shown_on_the_payment(desk: Desk) -> None:
    payment_id = await paid(desk)
    desk.webhook(event("charge.dispute.created", dispute(INTENT, "needs_response")))
    await desk.settle()
    assert desk.one("select disputed, status from payments.payments") == (True, "SUCCEEDED")
    desk.webhook(event("charge.dispute.closed", dispute(INTENT, "won")))
    desk.webhook(event("charge.dispute.updated", dispute(INTENT, "under_review")))
    await desk.settle()
    assert desk.one("select disputed from payments.payments") == (False,)
    row = desk.one("select status, amount, currency, reason, closed_at is not null from payments.disputes")
    assert row == ("won", 1000, "EUR", "fraudulent", True)
    assert desk.events(payment_id)[2:] == ["dispute-opened", "dispute-closed"]


async def test_payment_is_disputed_while_any_of_its_disputes_is_open_or_lost(desk: Desk) -> None:
    payment_id = await paid(desk)
    first, second = ({"id": f"dp_{number}", "amount": 300 + number} for number in range(2))
    for one in (first, second):
        desk.webhook(event("charge.dispute.created", dispute(INTENT, "needs_response", **one)))
    desk.webhook(event("charge.dispute.closed", dispute(INTENT, "won", **first)))
    await desk.settle()
    assert desk.one("select disputed from payments.payments") == (True,)
    told = "select payload -> 'amount' from payments.outbox where event_type = 'dispute-opened' order by sequence"
    assert desk.sql(told) == [(300,), (301,)]
    assert {row[0] for row in desk.sql("select payment_id from payments.inbox")} == {payment_id}


async def test_two_ends_of_a_dispute_are_settled_by_the_dispute_itself(desk: Desk) -> None:
    payment_id = await paid(desk)
    desk.truth.disputes["dp_3Qm4Tests0000000000001"] = dispute(INTENT, "won")
    for status in ("lost", "won", "lost"):
        desk.webhook(event("charge.dispute.closed", dispute(INTENT, status)))
        await desk.settle()
    assert desk.one("select status from payments.disputes") == ("won",)
    assert desk.one("select disputed from payments.payments") == (False,)
    assert desk.events(payment_id).count("dispute-closed") == 1


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
