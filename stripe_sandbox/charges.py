"""One attempt to pay: authorize, capture, release, fail (https://docs.stripe.com/api/charges).

Each function changes charge, intent and ledger and emits the events, in the caller's transaction.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from stripe_sandbox import charge_objects, jobs, ledger
from stripe_sandbox.errors import StripeError, declined, doc_url, missing
from stripe_sandbox.events import emit
from stripe_sandbox.states import move
from stripe_sandbox.store import Record

if TYPE_CHECKING:
    from stripe_sandbox.call import Call
    from stripe_sandbox.errors import Json
    from stripe_sandbox.tokens import Decline

# https://docs.stripe.com/payments/place-a-hold-on-a-payment-method#auth-windows: Visa holds a merchant-initiated
# transaction for 4 days and 18 hours; everything else online is held for 7 days.
HOLD_S = 7 * 24 * 3600
HOLD_MERCHANT_VISA_S = 4 * 24 * 3600 + 18 * 3600

# A flat stand-in for Stripe's pricing: 2.9 % + 30 minor units.
FEE_PER_MILLE = 29
FEE_FIXED = 30


def open_charge(call: Call, intent: Record, method: Record) -> Record:
    """A charge in status ``pending``, named as the intent's latest."""
    body = charge_objects.charge(intent.body, method.body, call.at)
    intent.body["latest_charge"] = body["id"]
    record = Record("charge", body, parent=intent.id, tag=intent.tag)
    return call.store.insert(record)


def authorize(call: Call, intent: Record, charge: Record, *, off_session: bool) -> None:
    """The issuer says yes: a hold with manual capture, else the money."""
    body = charge.body
    body.update(
        paid=True, status="succeeded", outcome=_outcome("authorized", "Payment complete.", None, "approved_by_network")
    )
    body["receipt_url"] = f"https://pay.stripe.com/receipts/sandbox/{charge.id}"
    intent.body.update(last_payment_error=None, next_action=None, processing=None)
    ledger.enter(call, "authorize", body, body["amount"])
    if "card" in body["payment_method_details"]:
        body["payment_method_details"]["card"]["amount_authorized"] = body["amount"]
    if intent.body["capture_method"] == "manual":
        _hold(call, intent, charge, off_session=off_session)
    else:
        _collect(call, intent, charge)


def _hold(call: Call, intent: Record, charge: Record, *, off_session: bool) -> None:
    card = charge.body["payment_method_details"].get("card")
    if card is not None:
        short = off_session and card["brand"] == "visa"
        card["capture_before"] = call.at + (HOLD_MERCHANT_VISA_S if short else HOLD_S)
        jobs.add(call, "expire_hold", intent.id, card["capture_before"])
    intent.body["amount_capturable"] = intent.body["amount"]
    move(intent, "requires_capture")
    call.store.save(charge)
    call.store.save(intent)
    emit(call, "charge.succeeded", charge)
    emit(call, "payment_intent.amount_capturable_updated", intent)


def _collect(call: Call, intent: Record, charge: Record) -> None:
    amount = charge.body["amount"]
    charge.body.update(captured=True, amount_captured=amount)
    ledger.enter(call, "capture", charge.body, amount)
    if intent.body["capture_method"] == "automatic_async":
        # https://docs.stripe.com/payments/payment-intents/asynchronous-capture: null until charge.updated.
        jobs.add(call, "settle_charge", charge.id, call.now + call.behaviours.balance_delay_s)
    else:
        book(call, charge)
    intent.body["amount_received"] = amount
    move(intent, "succeeded")
    call.store.save(charge)
    call.store.save(intent)
    emit(call, "charge.succeeded", charge)
    emit(call, "payment_intent.succeeded", intent)


def book(call: Call, charge: Record) -> None:
    """Give a captured charge its balance transaction."""
    amount = charge.body["amount_captured"]
    fee = min(amount, amount * FEE_PER_MILLE // 1000 + FEE_FIXED)
    line = charge_objects.balance_transaction("charge", charge.body, amount, fee, call.at)
    call.store.insert(Record("balance_transaction", line, parent=charge.id, tag=line["type"]))
    charge.body["balance_transaction"] = line["id"]
    call.store.save(charge)


def settle(call: Call, charge_id: str) -> None:
    """The late balance transaction of an asynchronous capture, announced by ``charge.updated``."""
    charge = call.store.must("charge", charge_id)
    if charge.body["balance_transaction"] is None:
        book(call, charge)
        emit(call, "charge.updated", charge, {"balance_transaction": None})


def capture(call: Call, intent: Record, amount: int) -> None:
    """Take ``amount`` of the hold; the rest goes back (https://docs.stripe.com/api/payment_intents/capture)."""
    charge = call.store.must("charge", intent.body["latest_charge"])
    charge.body.update(captured=True, amount_captured=amount)
    ledger.enter(call, "capture", charge.body, amount)
    book(call, charge)
    intent.body.update(amount_capturable=0, amount_received=amount)
    move(intent, "succeeded")
    call.store.save(intent)
    emit(call, "charge.captured", charge)
    rest = charge.body["amount"] - amount
    if rest:
        release(call, charge, rest)
    emit(call, "payment_intent.succeeded", intent)


def release(call: Call, charge: Record, amount: int) -> None:
    """Give a hold, or what is left of it, back.

    Stripe reports it as a refund of what was never captured: ``amount_refunded`` grows and ``charge.refunded`` is sent
    (https://docs.stripe.com/api/payment_intents/cancel: "automatically refunded"). No money moved.
    """
    charge.body["amount_refunded"] += amount
    charge.body["refunded"] = charge.body["amount_refunded"] >= charge.body["amount"]
    ledger.enter(call, "release", charge.body, amount)
    call.store.save(charge)
    if call.behaviours.release_makes_refund:
        body = charge_objects.refund(charge.body, amount, call.at)
        made = call.store.insert(Record("refund", body, parent=charge.id, inner={"release": True}))
        emit(call, "refund.created", made)
    emit(call, "charge.refunded", charge)


def fail(call: Call, intent: Record, charge: Record, method: Record, decline: Decline) -> StripeError:
    """The attempt is refused: the intent wants another payment method (https://docs.stripe.com/declines).

    Returns the 402 for the caller to raise; what it recorded is meant to be committed.
    """
    body = charge.body
    reason = decline.decline_code or decline.code
    kind, network = (
        ("blocked", "not_sent_to_network") if decline.blocked else ("issuer_declined", "declined_by_network")
    )
    seller = (
        "Stripe blocked this payment as too risky."
        if decline.blocked
        else "The bank did not return any further details with this decline."
    )
    body.update(status="failed", paid=False, outcome=_outcome(kind, seller, reason, network))
    body.update(failure_code=decline.code, failure_message=decline.message)
    charge.inner["decline_code"] = decline.decline_code
    error: Json = {"charge": charge.id, "code": decline.code}
    if decline.decline_code:
        error["decline_code"] = decline.decline_code
    error |= {"doc_url": doc_url(decline.code), "message": decline.message}
    if decline.param:
        error["param"] = decline.param
    error |= {"payment_method": method.body, "type": "card_error"}
    refuse(intent, error)
    call.store.save(charge)
    call.store.save(intent)
    emit(call, "charge.failed", charge)
    emit(call, "payment_intent.payment_failed", intent)
    parts = {"charge": charge.id, "payment_intent": intent.body, "payment_method": method.body, "param": decline.param}
    return declined(decline.message, decline.code, decline.decline_code, **parts)


def refuse(intent: Record, error: Json) -> None:
    """Back to ``requires_payment_method`` with ``last_payment_error``; the method is taken off."""
    intent.body.update(last_payment_error=error, payment_method=None, next_action=None, processing=None)
    move(intent, "requires_payment_method")


def _outcome(kind: str, seller: str, reason: str | None, network: str) -> Json:
    return {
        "advice_code": None,
        "network_advice_code": None,
        "network_decline_code": None,
        "network_status": network,
        "reason": reason,
        "risk_level": "highest" if kind == "blocked" else "normal",
        "risk_score": 75 if kind == "blocked" else 20,
        "seller_message": seller,
        "type": kind,
    }


def retrieve(call: Call, ids: tuple[str, ...], _given: Json) -> Json:
    """``GET /v1/charges/{id}``."""
    record = call.store.find("charge", ids[0])
    if record is None:
        raise missing("charge", ids[0], "id", status=404)
    return record.body
