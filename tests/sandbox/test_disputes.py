"""Disputes and fraud warnings: https://docs.stripe.com/disputes, https://docs.stripe.com/api/disputes."""

from typing import Any

import pytest

from tests.sandbox.documented import documented
from tests.sandbox.driver import Driver, Steer, error_of


def disputed(api: Driver, steer: Steer, token: str = "pm_card_createDispute", **params: Any) -> Any:
    intent = api.pay(payment_method=token, **params)
    steer.advance(1)
    return api.run(api.v1.disputes.list_async({"payment_intent": intent.id})).data[0]


def balance(api: Driver, source: str) -> list[tuple[str, int]]:
    page = api.run(api.v1.balance_transactions.list_async({"source": source}))
    return [(line.type, line.amount) for line in reversed(page.data)]


@documented("https://docs.stripe.com/api/disputes/object#dispute_object-balance_transactions", lines=(34, 58))
def test_dispute_withdraws_the_funds_with_a_balance_transaction(api: Driver, steer: Steer) -> None:
    dispute = disputed(api, steer)
    assert [line.amount for line in dispute.balance_transactions] == [-1000]
    assert balance(api, dispute.id) == [("adjustment", -1000)]
    line = dispute.balance_transactions[0].id
    assert api.run(api.v1.balance_transactions.retrieve_async(line)).reporting_category == "dispute"


@documented("https://docs.stripe.com/testing#disputes")
def test_captured_hold_can_be_disputed(api: Driver, steer: Steer) -> None:
    """The charge succeeds, only to be disputed; a hold moved no money yet."""
    held = api.hold(payment_method="pm_card_createDispute")
    steer.advance(1)
    assert api.charge(held.latest_charge).disputed is False
    api.capture(held.id, amount_to_capture=600)
    steer.advance(1)
    dispute = api.run(api.v1.disputes.list_async({"charge": held.latest_charge})).data[0]
    assert (dispute.amount, dispute.payment_intent) == (600, held.id)


@pytest.mark.parametrize(("text", "outcome"), [("winning_evidence", "won"), ("losing_evidence", "lost")])
@documented("https://docs.stripe.com/testing#evidence", "https://docs.stripe.com/api/disputes/update")
def test_evidence_takes_a_dispute_to_review_and_to_its_end(api: Driver, steer: Steer, text: str, outcome: str) -> None:
    steer.post("behaviours", dispute_delay_s=60)
    intent = api.pay(payment_method="pm_card_createDispute")
    steer.advance(61)
    dispute = api.run(api.v1.disputes.list_async({"payment_intent": intent.id})).data[0]
    sent = api.run(api.v1.disputes.update_async(dispute.id, {"evidence": {"uncategorized_text": text}}))
    assert (sent.status, sent.evidence_details.has_evidence) == ("under_review", True)
    assert sent.evidence_details.submission_count == 1
    steer.advance(61)
    assert api.run(api.v1.disputes.retrieve_async(dispute.id)).status == outcome
    expected = ["charge.dispute.created", "charge.dispute.funds_withdrawn", "charge.dispute.updated"]
    expected += ["charge.dispute.funds_reinstated"] * (outcome == "won") + ["charge.dispute.closed"]
    assert api.event_types(dispute.id) == expected
    error = error_of(
        lambda: api.run(api.v1.disputes.update_async(dispute.id, {"evidence": {"uncategorized_text": "x"}}))
    )
    assert error.http_status == 400


@documented("https://docs.stripe.com/api/disputes/update#update_dispute-submit")
def test_staged_evidence_is_not_submitted(api: Driver, steer: Steer) -> None:
    dispute = disputed(api, steer)
    given = {"evidence": {"uncategorized_text": "a draft"}, "submit": False, "metadata": {"case": "7"}}
    staged = api.run(api.v1.disputes.update_async(dispute.id, given))
    assert (staged.status, staged.evidence_details.submission_count) == ("needs_response", 0)
    assert staged.metadata["case"] == "7"


@documented("https://docs.stripe.com/api/disputes/close")
def test_closing_a_dispute_loses_it(api: Driver, steer: Steer) -> None:
    """The status changes to lost, irreversibly."""
    dispute = disputed(api, steer)
    assert api.run(api.v1.disputes.close_async(dispute.id)).status == "lost"
    assert error_of(lambda: api.run(api.v1.disputes.close_async(dispute.id))).http_status == 400


@pytest.mark.parametrize(("outcome", "refundable"), [("won", True), ("lost", False)])
@documented("https://docs.stripe.com/error-codes#charge-disputed", lines=(34,))
def test_refund_after_a_dispute(api: Driver, steer: Steer, outcome: str, *, refundable: bool) -> None:
    dispute = disputed(api, steer)
    open_error = error_of(lambda: api.refund(payment_intent=dispute.payment_intent))
    assert (open_error.http_status, open_error.error.code) == (400, "charge_disputed")
    steer.post(f"disputes/{dispute.id}", outcome=outcome)
    if refundable:
        assert api.refund(payment_intent=dispute.payment_intent).status == "succeeded"
    else:
        assert error_of(lambda: api.refund(payment_intent=dispute.payment_intent)).error.code == "charge_disputed"


@documented("https://docs.stripe.com/disputes/how-disputes-work#inquiries")
def test_inquiry_can_be_escalated(api: Driver, steer: Steer) -> None:
    """An inquiry can become a chargeback."""
    inquiry = disputed(api, steer, "pm_card_createDisputeInquiry", metadata={"paymentId": "p-inquiry"})
    assert (inquiry.status, inquiry.is_charge_refundable) == ("warning_needs_response", True)
    assert steer.post(f"disputes/{inquiry.id}", outcome="under_review")["status"] == "warning_under_review"
    assert steer.ledger("p-inquiry")["payment_intents"][0]["amount_disputed"] == 0
    escalated = steer.post(f"disputes/{inquiry.id}", outcome="escalated")
    assert (escalated["status"], escalated["is_charge_refundable"]) == ("needs_response", False)
    assert steer.ledger("p-inquiry")["payment_intents"][0]["amount_disputed"] == 1000
    assert api.event_types(inquiry.id) == [
        "charge.dispute.created",
        "charge.dispute.updated",
        "charge.dispute.updated",
        "charge.dispute.funds_withdrawn",
    ]


@documented("https://docs.stripe.com/api/disputes/object#dispute_object-status")
def test_closed_inquiry_leaves_the_charge_refundable(api: Driver, steer: Steer) -> None:
    inquiry = disputed(api, steer, "pm_card_createDisputeInquiry")
    assert steer.post(f"disputes/{inquiry.id}", outcome="won")["status"] == "warning_closed"
    assert "charge.dispute.funds_reinstated" not in api.event_types(inquiry.id)
    assert api.refund(payment_intent=inquiry.payment_intent).status == "succeeded"


@documented("https://docs.stripe.com/api/radar/early_fraud_warnings/object", "https://docs.stripe.com/testing#disputes")
def test_early_fraud_warning_moves_no_money(api: Driver, steer: Steer) -> None:
    intent = api.pay(payment_method="pm_card_createIssuerFraudRecord")
    steer.advance(1)
    page = api.run(api.v1.radar.early_fraud_warnings.list_async({"payment_intent": intent.id}))
    (warning,) = page.data
    assert (warning.charge, warning.actionable) == (intent.latest_charge, True)
    charge = api.charge(intent.latest_charge)
    assert (charge.disputed, charge.amount_refunded) == (False, 0)
    api.refund(payment_intent=intent.id)
    again = api.run(api.v1.radar.early_fraud_warnings.retrieve_async(warning.id))
    assert again.actionable is False, "a fully refunded charge wants no action any more"
    assert api.event_types(warning.id) == ["radar.early_fraud_warning.created", "radar.early_fraud_warning.updated"]


@documented("https://docs.stripe.com/api/events/object#event_object-data-previous_attributes", lines=(31, 58))
def test_failed_refund_says_what_changed(api: Driver, steer: Steer) -> None:
    intent = api.pay(payment_method="pm_card_refundFail")
    refund = api.refund(payment_intent=intent.id)
    steer.advance(60)
    (event,) = [one for one in api.events_of(refund.id) if one.type == "charge.refund.updated"]
    previous = event.to_dict()["data"]["previous_attributes"]
    assert previous == {"failure_balance_transaction": None, "failure_reason": None, "status": "succeeded"}
    assert [kind for kind, _ in balance(api, refund.id)] == ["refund", "refund_failure"]
    assert sum(amount for _, amount in balance(api, refund.id)) == 0


@documented("https://docs.stripe.com/api/payment_methods/detach")
def test_detached_method_serves_nobody(api: Driver) -> None:
    """It can no longer be used for payments."""
    customer = api.customer(payment_method="pm_card_visa")
    method = api.run(api.v1.customers.payment_methods.list_async(customer.id)).data[0].id
    detached = api.run(api.v1.payment_methods.detach_async(method))
    assert detached.customer is None
    assert api.run(api.v1.customers.payment_methods.list_async(customer.id)).data == []
    assert error_of(lambda: api.pay(payment_method=method, customer=customer.id)).http_status == 400
    assert error_of(lambda: api.pay(payment_method=method)).http_status == 400
    assert error_of(lambda: api.run(api.v1.payment_methods.detach_async(method))).http_status == 400


@documented("https://docs.stripe.com/disputes/how-disputes-work", lines=(34, 58))
def test_won_dispute_brings_the_funds_back(api: Driver, steer: Steer) -> None:
    """As a second line of the balance, which undoes the first."""
    dispute = disputed(api, steer)
    steer.post(f"disputes/{dispute.id}", outcome="won")
    assert balance(api, dispute.id) == [("adjustment", -1000), ("adjustment", 1000)]
    lines = api.run(api.v1.balance_transactions.list_async({"source": dispute.id})).data
    assert [line.reporting_category for line in lines] == ["dispute_reversal", "dispute"]
