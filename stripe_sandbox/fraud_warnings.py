"""Early fraud warnings (https://docs.stripe.com/api/radar/early_fraud_warnings, https://docs.stripe.com/disputes/measuring)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stripe_sandbox.errors import missing
from stripe_sandbox.events import emit
from stripe_sandbox.identifiers import new_id
from stripe_sandbox.store import Record

if TYPE_CHECKING:
    from stripe_sandbox.call import Call
    from stripe_sandbox.errors import Json


def warn(call: Call, charge_id: str) -> None:
    """The issuer reports a charge as fraudulent: no money moves, and no dispute is opened."""
    charge = call.store.must("charge", charge_id)
    body: Json = {
        "id": new_id("issfr"),
        "object": "radar.early_fraud_warning",
        "actionable": not charge.body["disputed"] and not charge.body["refunded"],
        "charge": charge.id,
        "created": call.at,
        "fraud_type": "misc",
        "livemode": False,
        "payment_intent": charge.body["payment_intent"],
    }
    emit(call, "radar.early_fraud_warning.created", call.store.insert(Record(body["object"], body, parent=charge.id)))


def look_again(call: Call, charge: Record) -> None:
    """A warning is actionable until its charge is disputed or fully refunded (…/early_fraud_warnings/object)."""
    actionable = not charge.body["disputed"] and not charge.body["refunded"]
    for warning in call.store.children("radar.early_fraud_warning", charge.id):
        if warning.body["actionable"] and not actionable:
            warning.body["actionable"] = False
            call.store.save(warning)
            emit(call, "radar.early_fraud_warning.updated", warning, {"actionable": True})


def retrieve(call: Call, ids: tuple[str, ...], _given: Json) -> Json:
    """``GET /v1/radar/early_fraud_warnings/{id}``."""
    record = call.store.find("radar.early_fraud_warning", ids[0])
    if record is None:
        raise missing("early_fraud_warning", ids[0], "early_fraud_warning", status=404)
    return record.body
