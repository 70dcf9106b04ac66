"""Payments as they stand, what Stripe says of them, and what is decided."""

from typing import Any

from payments.domain.decisions import Apply, Decision
from payments.domain.declines import Failure, FailureReason
from payments.domain.intents import IntentSignal, decide_payment
from payments.domain.payment import NextAction, Payment
from payments.domain.signals import read_answer, read_event
from payments.domain.states import PaymentStatus
from payments.stripe_gateway.api_version import STRIPE_API_VERSION
from tests.domain.stripe_lives import PAYMENT
from tests.domain.stripe_objects import CHARGE, INTENT, SECRET, answered, event, fetched, intent

S = PaymentStatus

ENDED = (S.FAILED, S.VOIDED, S.EXPIRED)


def payment(status: PaymentStatus = S.REQUESTED, **fields: Any) -> Payment:
    by_status: dict[PaymentStatus, dict[str, Any]] = {
        S.ACTION_REQUIRED: {"next_action": NextAction("use_stripe_sdk", SECRET), "was_customer_asked": True},
        S.AUTHORIZED: {"capture_method": "manual", "amount_authorized": 1000, "processor_reference": CHARGE},
        S.CAPTURING: {"capture_method": "manual", "amount_authorized": 1000, "processor_reference": CHARGE},
        S.SUCCEEDED: {"amount_authorized": 1000, "amount_captured": 1000, "processor_reference": CHARGE},
        S.FAILED: {"failure": Failure(FailureReason.CARD_DECLINED, None, None)},
    }
    known = {} if status is S.REQUESTED else {"processor_payment_intent": INTENT}
    base: dict[str, Any] = {
        "payment_id": PAYMENT,
        "order_id": PAYMENT,
        "amount": 1000,
        "currency": "EUR",
        "capture_method": "automatic",
        "payment_method": "pm_card_visa",
        "last_history_id": 5,
    }
    return Payment(**{**base, **known, **by_status.get(status, {}), "status": status, **fields})


def said(payload: dict[str, Any]) -> IntentSignal:
    signal = read_answer(payload)
    assert isinstance(signal, IntentSignal)
    return signal


def told(kind: str, thing: dict[str, Any]) -> IntentSignal:
    signal = read_event(event(kind, thing), livemode=False, account=None, api_version=STRIPE_API_VERSION)
    assert isinstance(signal, IntentSignal)
    return signal


def seen(status: str, **fields: Any) -> IntentSignal:
    return told("payment_intent.updated", intent(PAYMENT, status, **fields))


def answer(status: str, **fields: Any) -> IntentSignal:
    return said(answered(intent(PAYMENT, status, **fields)))


def fresh(status: str, after: int = 5, **fields: Any) -> IntentSignal:
    return said(fetched(intent(PAYMENT, status, **fields), after))


def decide(before: Payment, signal: IntentSignal) -> Decision:
    return decide_payment(before, signal, livemode=False)


def applied(before: Payment, signal: IntentSignal) -> Apply:
    decision = decide(before, signal)
    assert isinstance(decision, Apply), decision
    return decision
