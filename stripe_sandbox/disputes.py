"""Disputes (https://docs.stripe.com/api/disputes, https://docs.stripe.com/disputes/how-disputes-work)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stripe_sandbox import charge_objects, fraud_warnings, jobs, ledger
from stripe_sandbox.errors import missing, refused
from stripe_sandbox.events import emit
from stripe_sandbox.methods import behaviour_of
from stripe_sandbox.store import Record

if TYPE_CHECKING:
    from stripe_sandbox.call import Call
    from stripe_sandbox.errors import Json

# https://docs.stripe.com/disputes/how-disputes-work: a fee per chargeback; none for an inquiry.
DISPUTE_FEE = 1500

OPEN = ("needs_response", "under_review", "warning_needs_response", "warning_under_review")

# https://docs.stripe.com/testing#evidence: what in `uncategorized_text` decides a dispute in test mode.
DECISIVE = {"winning_evidence": "win_dispute", "losing_evidence": "lose_dispute"}


def expect(call: Call, charge: Record) -> None:
    """What the test card of a captured charge brings, when its time has come."""
    behaviour = behaviour_of(call.store.must("payment_method", charge.body["payment_method"]))
    if not charge.body["captured"]:
        return
    if behaviour.dispute is not None:
        jobs.add(call, "open_dispute", charge.id, call.now + call.behaviours.dispute_delay_s)
    if behaviour.fraud_warning:
        jobs.add(call, "warn_of_fraud", charge.id, call.now + call.behaviours.dispute_delay_s)


def open_dispute(call: Call, charge_id: str) -> None:
    """The cardholder objects; a chargeback takes the money back at once, an inquiry doesn't."""
    charge = call.store.must("charge", charge_id)
    if charge.body["disputed"] or not charge.body["amount_captured"]:
        return
    method = call.store.must("payment_method", charge.body["payment_method"])
    behaviour = behaviour_of(method)
    status = "warning_needs_response" if behaviour.inquiry else "needs_response"
    body = charge_objects.dispute(charge.body, behaviour.dispute or "general", status, call.at)
    charge.body["disputed"] = True
    call.store.save(charge)
    fraud_warnings.look_again(call, charge)
    record = call.store.insert(Record("dispute", body, parent=charge.id))
    if not behaviour.inquiry:
        _withdraw_funds(call, record, charge)
    emit(call, "charge.dispute.created", record)
    if not behaviour.inquiry:
        emit(call, "charge.dispute.funds_withdrawn", record)


def _withdraw_funds(call: Call, dispute: Record, charge: Record) -> None:
    amount = dispute.body["amount"]
    line = charge_objects.balance_transaction("adjustment", dispute.body, -amount, DISPUTE_FEE, call.at)
    call.store.insert(Record("balance_transaction", line, parent=dispute.id, tag=line["type"]))
    dispute.body["balance_transactions"].append(line)
    ledger.enter(call, "dispute", charge.body, amount)
    call.store.save(dispute)


def close(call: Call, dispute: Record, outcome: str) -> None:
    """Decide a dispute: ``won`` brings the money back, ``lost`` doesn't, ``warning_closed`` ends an inquiry."""
    if dispute.body["status"] not in OPEN:
        raise refused("This dispute is already closed.", param="dispute")
    inquiry = dispute.body["status"].startswith("warning")
    dispute.body["status"] = "warning_closed" if inquiry else outcome
    if not inquiry:
        dispute.body["is_charge_refundable"] = False
    charge = call.store.must("charge", dispute.body["charge"])
    if outcome == "won" and not inquiry:
        line = charge_objects.balance_transaction("adjustment", dispute.body, dispute.body["amount"], 0, call.at)
        call.store.insert(Record("balance_transaction", line, parent=dispute.id, tag=line["type"]))
        dispute.body["balance_transactions"].append(line)
        ledger.enter(call, "dispute_won", charge.body, dispute.body["amount"])
    call.store.save(dispute)
    if outcome == "won" and not inquiry:
        emit(call, "charge.dispute.funds_reinstated", dispute)
    emit(call, "charge.dispute.closed", dispute)


def review(call: Call, dispute: Record) -> None:
    """The bank looks at the evidence: ``charge.dispute.updated`` (https://docs.stripe.com/disputes/responding)."""
    before = dispute.body["status"]
    if before not in OPEN:
        raise refused("This dispute is already closed.", param="dispute")
    details = {**dispute.body["evidence_details"], "has_evidence": True, "submission_method": "manual"}
    details["submission_count"] += 1
    dispute.body["evidence_details"] = details
    dispute.body["status"] = "warning_under_review" if before.startswith("warning") else "under_review"
    call.store.save(dispute)
    emit(call, "charge.dispute.updated", dispute, {"status": before})


def escalate(call: Call, dispute: Record) -> None:
    """The money goes after all (https://docs.stripe.com/disputes/how-disputes-work#inquiries)."""
    before = dispute.body["status"]
    if before not in OPEN or not before.startswith("warning"):
        raise refused("Only an open inquiry can be escalated.", param="dispute")
    dispute.body.update(status="needs_response", is_charge_refundable=False)
    dispute.body["payment_method_details"]["card"]["case_type"] = "chargeback"
    call.store.save(dispute)
    _withdraw_funds(call, dispute, call.store.must("charge", dispute.body["charge"]))
    emit(call, "charge.dispute.updated", dispute, {"status": before})
    emit(call, "charge.dispute.funds_withdrawn", dispute)


def decide(call: Call, dispute_id: str, outcome: str) -> None:
    """The bank's word on evidence, unless the dispute was closed meanwhile."""
    dispute = call.store.must("dispute", dispute_id)
    if dispute.body["status"] in OPEN:
        close(call, dispute, outcome)


def update(call: Call, ids: tuple[str, ...], given: Json) -> Json:
    """``POST /v1/disputes/{id}``: evidence, submitted unless staged (https://docs.stripe.com/api/disputes/update)."""
    dispute = load(call, ids[0])
    if dispute.body["status"] not in OPEN:
        raise refused("This dispute is already closed.", param="dispute")
    evidence = given.get("evidence") or {}
    dispute.body["evidence"] = {**dispute.body["evidence"], **evidence}
    dispute.body["metadata"].update(given.get("metadata") or {})
    call.store.save(dispute)
    if not evidence or given.get("submit") is False:
        emit(call, "charge.dispute.updated", dispute, {})
        return dispute.body
    review(call, dispute)
    decided = DECISIVE.get(evidence.get("uncategorized_text", ""))
    if decided is not None:
        jobs.add(call, decided, dispute.id, call.now + call.behaviours.dispute_delay_s)
    return dispute.body


def retrieve(call: Call, ids: tuple[str, ...], _given: Json) -> Json:
    """``GET /v1/disputes/{id}``."""
    return load(call, ids[0]).body


def close_by_api(call: Call, ids: tuple[str, ...], _given: Json) -> Json:
    """``POST /v1/disputes/{id}/close``: accept it, that is, lose it (https://docs.stripe.com/api/disputes/close)."""
    record = load(call, ids[0])
    close(call, record, "lost")
    return record.body


def load(call: Call, identifier: str) -> Record:
    """The dispute; raises StripeError (404)."""
    record = call.store.find("dispute", identifier)
    if record is None:
        raise missing("dispute", identifier, "dispute", status=404)
    return record
