"""Refunds: https://docs.stripe.com/refunds, https://docs.stripe.com/api/refunds."""

import stripe

from tests.sandbox.documented import documented
from tests.sandbox.driver import Driver, Steer, error_of, is_a


@documented("https://docs.stripe.com/api/refunds/create", lines=(21, 26))
def test_full_refund(api: Driver) -> None:
    """The whole remaining amount by default."""
    intent = api.pay()
    refund = api.refund(payment_intent=intent.id, reason="requested_by_customer", metadata={"refundId": "r-1"})
    assert (refund.status, refund.amount, refund.charge) == ("succeeded", 1000, intent.latest_charge)
    assert (refund.payment_intent, refund.reason, refund.metadata["refundId"]) == (
        intent.id,
        "requested_by_customer",
        "r-1",
    )
    charge = api.charge(intent.latest_charge)
    assert (charge.refunded, charge.amount_refunded, charge.status) == (True, 1000, "succeeded")
    assert api.intent(intent.id).status == "succeeded"


@documented("https://docs.stripe.com/refunds", lines=(29,))
def test_partial_refunds_add_up(api: Driver) -> None:
    """Partial refunds until the whole is refunded."""
    intent = api.pay()
    for amount in (300, 300):
        api.refund(charge=intent.latest_charge, amount=amount)
    charge = api.charge(intent.latest_charge)
    assert (charge.refunded, charge.amount_refunded) == (False, 600)
    assert api.refund(charge=intent.latest_charge).amount == 400


@documented("https://docs.stripe.com/api/refunds/create", lines=(28,))
def test_refund_above_the_rest_is_refused(api: Driver) -> None:
    """Never more than was charged."""
    intent = api.pay()
    api.refund(payment_intent=intent.id, amount=600)
    error = error_of(lambda: api.refund(payment_intent=intent.id, amount=401))
    assert is_a(error, stripe.InvalidRequestError)
    assert (error.http_status, error.error.param) == (400, "amount")
    assert "is greater than unrefunded amount on charge ($4.00)" in str(error)


@documented("https://docs.stripe.com/error-codes#charge-already-refunded", lines=(28,))
def test_second_full_refund_is_refused(api: Driver) -> None:
    intent = api.pay()
    api.refund(payment_intent=intent.id)
    error = error_of(lambda: api.refund(payment_intent=intent.id))
    assert (error.http_status, error.error.code) == (400, "charge_already_refunded")


@documented("https://docs.stripe.com/refunds#cancel-payment", lines=(27,))
def test_hold_is_canceled_not_refunded(api: Driver) -> None:
    held = api.hold()
    error = error_of(lambda: api.refund(payment_intent=held.id))
    assert error.http_status == 400
    assert "cancel" in str(error)
    assert api.intent(held.id).status == "requires_capture"


@documented("https://docs.stripe.com/api/refunds/create")
def test_refund_needs_a_payment(api: Driver) -> None:
    assert error_of(lambda: api.refund(amount=100)).http_status == 400
    assert error_of(lambda: api.refund(payment_intent="pi_unknown")).error.code == "resource_missing"
    unpaid = api.pay(confirm=False)
    assert error_of(lambda: api.refund(payment_intent=unpaid.id)).http_status == 400


@documented("https://docs.stripe.com/api/idempotent_requests", lines=(30,))
def test_refund_is_idempotent(api: Driver) -> None:
    intent = api.pay()
    first = api.refund("refund-" + intent.id, payment_intent=intent.id, amount=300)
    second = api.refund("refund-" + intent.id, payment_intent=intent.id, amount=300)
    assert first.id == second.id
    assert api.charge(intent.latest_charge).amount_refunded == 300


@documented("https://docs.stripe.com/api/refunds/list")
def test_refunds_can_be_retrieved_and_listed(api: Driver) -> None:
    intent, other = api.pay(), api.pay()
    made = [api.refund(payment_intent=intent.id, amount=100).id for _time in range(2)]
    api.refund(payment_intent=other.id)
    assert api.run(api.refunds.retrieve_async(made[0])).id == made[0]
    for given in ({"payment_intent": intent.id}, {"charge": intent.latest_charge}):
        page = api.run(api.refunds.list_async(given))
        assert [one.id for one in page.data] == made[::-1]


@documented("https://docs.stripe.com/api/events/types")
def test_refund_events(api: Driver) -> None:
    intent = api.pay()
    refund = api.refund(payment_intent=intent.id)
    assert "refund.created" in api.event_types(refund.id)
    assert "charge.refunded" in api.event_types(intent.latest_charge)


@documented("https://docs.stripe.com/testing#refunds", lines=(31,))
def test_refund_can_be_pending_and_succeed_later(api: Driver, steer: Steer) -> None:
    intent = api.pay(payment_method="pm_card_pendingRefund")
    refund = api.refund(payment_intent=intent.id)
    assert (refund.status, refund.pending_reason) == ("pending", "processing")
    steer.advance(60)
    assert api.run(api.refunds.retrieve_async(refund.id)).status == "succeeded"
    assert api.event_types(refund.id) == ["refund.created", "refund.updated", "charge.refund.updated"]


@documented("https://docs.stripe.com/testing#refunds", "https://docs.stripe.com/refunds#failed-refunds", lines=(31,))
def test_refund_can_fail_after_it_succeeded(api: Driver, steer: Steer) -> None:
    intent = api.pay(payment_method="pm_card_refundFail", metadata={"paymentId": "p-fail"})
    refund = api.refund(payment_intent=intent.id)
    assert refund.status == "succeeded"
    assert steer.ledger("p-fail")["payment_intents"][0]["amount_refunded"] == 1000
    steer.advance(60)
    failed = api.run(api.refunds.retrieve_async(refund.id))
    assert (failed.status, failed.failure_reason) == ("failed", "expired_or_canceled_card")
    assert failed.failure_balance_transaction.startswith("txn_")
    assert api.event_types(refund.id)[-1] == "refund.failed"
    charge = api.charge(intent.latest_charge)
    assert (charge.amount_refunded, charge.refunded) == (0, False)
    assert steer.ledger("p-fail")["payment_intents"][0]["amount_refunded"] == 0
    assert api.refund(payment_intent=intent.id).amount == 1000, "it may be tried again"


@documented("https://docs.stripe.com/api/refunds/cancel")
def test_only_refunds_that_need_action_can_be_canceled(api: Driver) -> None:
    intent = api.pay()
    refund = api.refund(payment_intent=intent.id)
    assert error_of(lambda: api.run(api.refunds.cancel_async(refund.id))).http_status == 400


@documented("https://docs.stripe.com/api/refunds/create", lines=(28,))
def test_concurrent_refunds_never_exceed_the_charge(api: Driver, steer: Steer) -> None:
    intent = api.pay(metadata={"paymentId": "p-many"})
    works = [api.refunds.create_async({"payment_intent": intent.id, "amount": 400}) for _time in range(6)]
    outcomes = api.together(*works)
    assert sum(not isinstance(one, BaseException) for one in outcomes) == 2
    report = steer.ledger("p-many")
    assert report["totals"]["usd"]["amount_refunded"] == 800
    assert report["imbalances"] == []


@documented("https://docs.stripe.com/api/events/object#event_object-request", lines=(33,))
def test_dashboard_refund_has_no_key_of_ours(api: Driver, steer: Steer) -> None:
    intent = api.pay()
    refund = steer.post("refunds", payment_intent=intent.id, amount=250)
    event = api.events_of(refund["id"])[0]
    assert (event.type, event.request.idempotency_key) == ("refund.created", None)


@documented("https://docs.stripe.com/testing#disputes", lines=(34,))
def test_dispute_is_opened_by_its_test_card(api: Driver, steer: Steer) -> None:
    intent = api.pay(payment_method="pm_card_createDispute")
    steer.advance(1)
    charge = api.charge(intent.latest_charge)
    assert charge.disputed is True
    page = api.run(api.v1.disputes.list_async({"payment_intent": intent.id}))
    dispute = page.data[0]
    assert (dispute.reason, dispute.status, dispute.amount) == ("fraudulent", "needs_response", 1000)
    assert api.run(api.v1.disputes.retrieve_async(dispute.id)).charge == charge.id
    types = api.event_types(dispute.id)
    assert types == ["charge.dispute.created", "charge.dispute.funds_withdrawn"]
    error = error_of(lambda: api.refund(payment_intent=intent.id))
    assert error.error.code == "charge_disputed"


@documented("https://docs.stripe.com/disputes/how-disputes-work", lines=(34,))
def test_dispute_can_be_won_and_lost(api: Driver, steer: Steer) -> None:
    for outcome in ("won", "lost"):
        intent = api.pay(payment_method="pm_card_createDispute", metadata={"paymentId": outcome})
        steer.advance(1)
        closed = steer.post(f"disputes/{intent.latest_charge}", outcome=outcome)
        assert closed["status"] == outcome
        types = api.event_types(closed["id"])
        assert types[-1] == "charge.dispute.closed"
        assert ("charge.dispute.funds_reinstated" in types) is (outcome == "won")
        line = steer.ledger(outcome)["payment_intents"][0]
        assert line["amount_disputed"] == (0 if outcome == "won" else 1000)


@documented("https://docs.stripe.com/disputes/how-disputes-work#inquiries", lines=(34,))
def test_inquiry_takes_no_money(api: Driver, steer: Steer) -> None:
    intent = api.pay(payment_method="pm_card_createDisputeInquiry")
    steer.advance(1)
    dispute = api.run(api.v1.disputes.list_async({"charge": intent.latest_charge})).data[0]
    assert (dispute.status, dispute.balance_transactions) == ("warning_needs_response", [])
    assert api.refund(payment_intent=intent.id).status == "succeeded"


@documented("https://docs.stripe.com/refunds", "https://docs.stripe.com/testing#refunds", lines=(28, 31))
def test_pending_refund_takes_its_part_of_the_rest(api: Driver) -> None:
    intent = api.pay(payment_method="pm_card_pendingRefund")
    assert api.refund(payment_intent=intent.id, amount=600).status == "pending"
    assert error_of(lambda: api.refund(payment_intent=intent.id, amount=401)).http_status == 400


@documented(
    "https://docs.stripe.com/reports/balance-transaction-types",
    "https://docs.stripe.com/api/balance_transactions/object",
    lines=(58,),
)
def test_refund_is_a_line_of_the_balance(api: Driver) -> None:
    intent = api.pay(capture_method="automatic")
    refund = api.refund(payment_intent=intent.id, amount=300)
    line = api.run(api.v1.balance_transactions.retrieve_async(refund.balance_transaction))
    assert (line.type, line.reporting_category, line.source) == ("refund", "refund", refund.id)
    assert (line.amount, line.net) == (-300, -300 - line.fee)
