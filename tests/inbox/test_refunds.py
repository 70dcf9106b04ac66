"""What Stripe says of refunds, ours and those of its dashboard."""

from typing import Any
from uuid import uuid4

import pytest

from payments.domain.identifiers import new_id
from tests.domain.story import expanded
from tests.domain.stripe_objects import INTENT, answered, declined, dispute, event, intent, refund, refused
from tests.inbox.conftest import Desk
from tests.inbox.wishes import REFUNDS, ask_refund, paid, refund_answer

pytestmark = pytest.mark.anyio


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


async def test_two_words_of_one_refund_in_one_batch_are_told_once(desk: Desk) -> None:
    payment_id = await paid(desk)
    refund_id = ask_refund(desk, payment_id)
    metadata = {"refundId": str(refund_id), "paymentId": str(payment_id)}
    thing = refund(INTENT, 400, "succeeded", metadata=metadata)
    refund_answer(desk, payment_id, refund_id, answered(thing))
    desk.webhook(event("refund.created", thing))
    desk.webhook(event("refund.updated", thing))
    await desk.settle()
    assert desk.sql(REFUNDS, payment_id) == [(400, "PROCESSED", False, None, None)]
    assert desk.events(payment_id)[2:] == ["refund-processed"]
    assert sorted(desk.outcomes())[-2:] == ["ignored", "ignored"]


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


async def test_what_is_said_of_refunds_and_disputes_during_a_conflict_counts_once_it_is_settled(desk: Desk) -> None:
    payment_id = await paid(desk)
    refund_id = ask_refund(desk, payment_id)
    desk.answer(answered(intent(payment_id, "succeeded", amount_received=999)), payment_id, 2)
    await desk.settle()
    assert desk.status(payment_id) == "CONFLICTED"
    metadata = {"refundId": str(refund_id), "paymentId": str(payment_id)}
    refund_answer(desk, payment_id, refund_id, answered(refund(INTENT, 400, "succeeded", metadata=metadata)))
    desk.webhook(event("charge.dispute.created", dispute(INTENT, "needs_response")))
    await desk.settle()
    assert desk.sql(REFUNDS, payment_id) == [(400, "REQUESTED", False, None, None)]
    assert desk.events(payment_id) == ["payment-requested", "payment-succeeded"]
    desk.sql("update payments.payments set status = 'SUCCEEDED' where payment_id = %s", payment_id)
    await desk.settle()
    assert desk.sql(REFUNDS, payment_id) == [(400, "PROCESSED", False, None, None)]
    assert desk.one("select disputed, amount_refunded from payments.payments") == (True, 400)
    assert desk.events(payment_id)[2:] == ["refund-processed", "dispute-opened"]
    ignored = "select count(*) from payments.inbox where payment_id = %s and outcome = 'ignored'"
    assert desk.one(ignored, payment_id) == (0,), "what the conflict was about stays as it was decided"


async def test_settled_conflict_stays_settled_whatever_the_second_intent_gives_back(desk: Desk) -> None:
    payment_id = await paid(desk)
    second = intent(payment_id, "succeeded", id="pi_second")
    desk.truth.intents["pi_second"] = expanded(second)
    desk.webhook(event("payment_intent.succeeded", second))
    await desk.settle()
    assert desk.status(payment_id) == "CONFLICTED"
    back = refund("pi_second", 1000, "succeeded")
    desk.truth.refunds[back["id"]] = back
    desk.webhook(event("refund.created", back))
    await desk.settle()
    desk.sql("update payments.payments set status = 'SUCCEEDED' where payment_id = %s", payment_id)
    await desk.settle()
    desk.webhook(event("refund.updated", back))
    await desk.settle()
    assert desk.status(payment_id) == "SUCCEEDED"
    assert desk.sql(REFUNDS, payment_id) == []
    lost = dispute("pi_second", "needs_response")
    desk.truth.disputes[lost["id"]] = lost
    desk.webhook(event("charge.dispute.created", lost))
    await desk.settle()
    assert desk.one("select status, disputed from payments.payments") == ("SUCCEEDED", False)
    ((error,),) = desk.sql("select error from payments.dead_letters")
    assert "is of pi_second" in error


async def test_money_that_a_second_intent_takes_after_its_conflict_was_settled_is_another_conflict(desk: Desk) -> None:
    payment_id = await paid(desk)
    for status, received in (("processing", 0), ("succeeded", 1000)):
        second = intent(payment_id, status, id="pi_second", amount_received=received)
        desk.truth.intents["pi_second"] = expanded(second)
        for _ in range(2):
            desk.webhook(event(f"payment_intent.{status}", second))
            await desk.settle()
            assert desk.status(payment_id) == "CONFLICTED"
        desk.sql("update payments.payments set status = 'SUCCEEDED' where payment_id = %s", payment_id)
        desk.webhook(event(f"payment_intent.{status}", second))
        await desk.settle()
        assert desk.status(payment_id) == "SUCCEEDED"


async def test_conflict_of_an_ended_payment_whose_cart_has_another_is_an_operators(desk: Desk) -> None:
    """Both would be live, and of two there can be only one."""
    payment_id = desk.payment()
    desk.answer(declined(intent(payment_id, "requires_payment_method")), payment_id)
    await desk.settle()
    desk.sql(
        "insert into payments.payments (payment_id, cart_id, order_id, amount, currency, capture_method, client_id,"
        " fingerprint) select %s, cart_id, order_id, amount, currency, 'automatic', 'tests', fingerprint"
        " from payments.payments where payment_id = %s",
        new_id(),
        payment_id,
    )
    second = intent(payment_id, "succeeded", id="pi_second")
    desk.truth.intents["pi_second"] = expanded(second)
    desk.webhook(event("payment_intent.succeeded", second))
    await desk.settle()
    assert desk.status(payment_id) == "FAILED"
    ((error,),) = desk.sql("select error from payments.dead_letters where payment_id = %s", payment_id)
    assert "pi_second" in error


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


async def test_refund_tells_of_the_capture_that_nobody_told_of(desk: Desk) -> None:
    """Both in the Dashboard; only the refund is heard of, and its PaymentIntent is asked for with it."""
    payment_id = desk.payment(capture_method="manual")
    held = intent(payment_id, "requires_capture", capture_method="manual")
    desk.answer(answered(expanded(held)), payment_id)
    await desk.settle()
    assert desk.status(payment_id) == "AUTHORIZED"
    desk.truth.intents[INTENT] = expanded(intent(payment_id, "succeeded", capture_method="manual"))
    given_back = refund(INTENT, 300, "succeeded")
    desk.truth.refunds[given_back["id"]] = given_back
    desk.webhook(event("refund.created", given_back))
    await desk.settle()
    assert desk.status(payment_id) == "SUCCEEDED"
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
