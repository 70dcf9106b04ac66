"""Refunds (https://docs.stripe.com/refunds, https://docs.stripe.com/api/refunds)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stripe_sandbox import charge_objects, fraud_warnings, jobs, ledger
from stripe_sandbox.currencies import shown
from stripe_sandbox.errors import invalid, missing, refused
from stripe_sandbox.events import emit
from stripe_sandbox.methods import behaviour_of
from stripe_sandbox.store import Record

if TYPE_CHECKING:
    from stripe_sandbox.call import Call
    from stripe_sandbox.errors import Json

# https://docs.stripe.com/api/refunds/object#refund_object-failure_reason
FAILURE_REASON = "expired_or_canceled_card"


def create(call: Call, _ids: tuple[str, ...], given: Json) -> Json:
    """``POST /v1/refunds`` of a charge or of a PaymentIntent's latest charge."""
    charge = _charge(call, given)
    amount = _amount(charge, given)
    method = call.store.must("payment_method", charge.body["payment_method"])
    how = behaviour_of(method).refund
    body = charge_objects.refund(charge.body, amount, call.at)
    body["metadata"] = {key: value for key, value in (given.get("metadata") or {}).items() if value != ""}
    body["reason"] = given.get("reason")
    if how == "pending":
        # https://docs.stripe.com/refunds#refund-status and the pending_reason of api/refunds/object.
        body.update(status="pending", pending_reason="processing")
    record = call.store.insert(Record("refund", body, parent=charge.id, tag=body["metadata"].get("refundId")))
    _book(call, record, charge)
    charge.body["amount_refunded"] += amount
    charge.body["refunded"] = charge.body["amount_refunded"] >= charge.body["amount"]
    call.store.save(charge)
    ledger.enter(call, "refund", charge.body, amount, record.id)
    emit(call, "refund.created", record)
    emit(call, "charge.refunded", charge)
    fraud_warnings.look_again(call, charge)
    if how != "succeeded":
        kind = "finish_refund" if how == "pending" else "fail_refund"
        jobs.add(call, kind, record.id, call.now + call.behaviours.refund_delay_s)
    return body


def _charge(call: Call, given: Json) -> Record:
    """The charge to refund; raises StripeError when there is none, or nothing was captured."""
    if given.get("charge") is not None:
        found = call.store.find("charge", given["charge"])
        if found is None:
            raise missing("charge", given["charge"], "charge")
    elif given.get("payment_intent") is not None:
        found = _charge_of_intent(call, given["payment_intent"])
    else:
        text = "One of the following params should be provided for this request: payment_intent or charge."
        raise invalid(text, code="parameter_missing", param="payment_intent")
    _require_refundable(call, found)
    return found


def _charge_of_intent(call: Call, identifier: str) -> Record:
    intent = call.store.find("payment_intent", identifier)
    if intent is None:
        raise missing("payment_intent", identifier, "payment_intent")
    latest = intent.body["latest_charge"]
    charge = call.store.find("charge", latest) if latest else None
    if charge is None or charge.body["status"] != "succeeded":
        text = f"This PaymentIntent ({identifier}) does not have a successful charge to refund."
        raise refused(text, param="payment_intent")
    return charge


def _require_refundable(call: Call, charge: Record) -> None:
    body = charge.body
    if not body["captured"]:
        # https://docs.stripe.com/refunds#cancel-payment: an uncaptured payment is canceled, not refunded.
        text = (
            f"This uncaptured Charge was created by a PaymentIntent ({body['payment_intent']}). You must cancel the "
            "PaymentIntent to reverse the authorization instead of refunding the Charge directly. For "
            "more information, "
            "see https://stripe.com/docs/payments/payment-intents/creating-payment-intents#separate-auth-capture"
        )
        raise refused(text, code="charge_not_refundable", param="charge")
    disputes = call.store.children("dispute", charge.id)
    if any(not one.body["is_charge_refundable"] and one.body["status"] != "won" for one in disputes):
        # https://docs.stripe.com/error-codes#charge-disputed
        text = f"Charge {charge.id} has been charged back; cannot issue a refund."
        raise refused(text, code="charge_disputed")
    if body["refunded"]:
        # https://docs.stripe.com/error-codes#charge-already-refunded
        raise refused(f"Charge {charge.id} has already been refunded.", code="charge_already_refunded")


def _amount(charge: Record, given: Json) -> int:
    left: int = charge.body["amount"] - charge.body["amount_refunded"]
    amount: int = given.get("amount", left)
    if amount < 1:
        text = "This value must be greater than or equal to 1."
        raise invalid(text, code="parameter_invalid_integer", param="amount")
    if amount > left:
        # https://docs.stripe.com/api/refunds/create: "never more than the original".
        currency = charge.body["currency"]
        wanted, rest = (shown(value, currency).rsplit(" ", 1)[0] for value in (amount, left))
        raise refused(f"Refund amount ({wanted}) is greater than unrefunded amount on charge ({rest})", param="amount")
    return amount


def _book(call: Call, refund: Record, charge: Record) -> None:
    line = charge_objects.balance_transaction("refund", refund.body, -refund.body["amount"], 0, call.at)
    call.store.insert(Record("balance_transaction", line, parent=refund.id, tag=line["type"]))
    refund.body["balance_transaction"] = line["id"]
    call.store.save(refund)
    if charge.body["balance_transaction"] is None:
        jobs.add(call, "settle_charge", charge.id, call.now)


def finish(call: Call, refund_id: str) -> None:
    """A pending refund succeeds (https://docs.stripe.com/testing#refunds: ``refund.updated``)."""
    refund = call.store.must("refund", refund_id)
    if refund.body["status"] != "pending":
        return
    refund.body["status"] = "succeeded"
    refund.body.pop("pending_reason", None)
    call.store.save(refund)
    _announce(call, refund, {"pending_reason": "processing", "status": "pending"})


def fail(call: Call, refund_id: str) -> None:
    """A refund fails, even after it succeeded (https://docs.stripe.com/refunds#failed-refunds)."""
    refund = call.store.must("refund", refund_id)
    if refund.body["status"] in ("failed", "canceled"):
        return
    _take_back(call, refund, "failed", FAILURE_REASON)
    emit(call, "refund.failed", refund)


def cancel(call: Call, ids: tuple[str, ...], _given: Json) -> Json:
    """``POST /v1/refunds/{id}/cancel``: only from ``requires_action`` (https://docs.stripe.com/api/refunds/cancel)."""
    refund = load(call, ids[0])
    if refund.body["status"] != "requires_action":
        text = f"Refund {refund.id} cannot be canceled because it has a status of {refund.body['status']}."
        raise refused(text, param="id")
    _take_back(call, refund, "canceled", "merchant_request")
    return refund.body


def _take_back(call: Call, refund: Record, status: str, reason: str) -> None:
    charge = call.store.must("charge", refund.body["charge"])
    before = refund.body["status"]
    line = charge_objects.balance_transaction("refund_failure", refund.body, refund.body["amount"], 0, call.at)
    call.store.insert(Record("balance_transaction", line, parent=refund.id, tag=line["type"]))
    refund.body.update(status=status, failure_reason=reason, failure_balance_transaction=line["id"])
    refund.body.pop("pending_reason", None)
    call.store.save(refund)
    charge.body["amount_refunded"] -= refund.body["amount"]
    charge.body["refunded"] = False
    call.store.save(charge)
    ledger.enter(call, "refund_failed", charge.body, refund.body["amount"], refund.id)
    _announce(call, refund, {"failure_balance_transaction": None, "failure_reason": None, "status": before})


def _announce(call: Call, refund: Record, previous: Json) -> None:
    """``refund.updated`` and its older name (https://docs.stripe.com/api/events/types)."""
    emit(call, "refund.updated", refund, previous)
    emit(call, "charge.refund.updated", refund, previous)


def update(call: Call, ids: tuple[str, ...], given: Json) -> Json:
    """``POST /v1/refunds/{id}``: metadata only (https://docs.stripe.com/api/refunds/update)."""
    refund = load(call, ids[0])
    previous = dict(refund.body["metadata"])
    refund.body["metadata"].update(given.get("metadata") or {})
    call.store.save(refund)
    _announce(call, refund, {"metadata": previous})
    return refund.body


def retrieve(call: Call, ids: tuple[str, ...], _given: Json) -> Json:
    """``GET /v1/refunds/{id}``."""
    return load(call, ids[0]).body


def load(call: Call, identifier: str) -> Record:
    """The refund; raises StripeError (404)."""
    record = call.store.find("refund", identifier)
    if record is None:
        raise missing("refund", identifier, "refund", status=404)
    return record
