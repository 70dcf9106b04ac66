"""Stripe's objects as its documentation shows them, for tests of everything that reads them."""

from collections.abc import Mapping
from itertools import count
from typing import Any
from uuid import UUID

from payments.stripe_gateway.api_version import STRIPE_API_VERSION

INTENT = "pi_3Qm4Tests0000000000001"
CHARGE = "ch_3Qm4Tests0000000000001"
SECRET = f"{INTENT}_secret_of_tests"
CREATED = 1_900_000_000

_numbers = count(1)

Json = dict[str, Any]

INSUFFICIENT_FUNDS: Json = {
    "type": "card_error",
    "code": "card_declined",
    "decline_code": "insufficient_funds",
    "message": "Your card has insufficient funds.",
    "charge": CHARGE,
}
AUTHENTICATION_FAILURE: Json = {
    "type": "invalid_request_error",
    "code": "payment_intent_authentication_failure",
    "message": "We are unable to authenticate your payment method.",
}
THREE_D_SECURE: Json = {"type": "use_stripe_sdk", "use_stripe_sdk": {"type": "three_d_secure_redirect"}}


def intent(payment_id: UUID | None, status: str, **fields: Any) -> Json:
    """A PaymentIntent of 1000 EUR cents in `status`, with what that status brings along."""
    amount = fields.get("amount", 1000)
    by_status: dict[str, Json] = {
        "succeeded": {"amount_received": amount, "latest_charge": CHARGE},
        "requires_capture": {"amount_capturable": amount, "latest_charge": CHARGE},
        "requires_action": {"next_action": THREE_D_SECURE},
        "canceled": {"canceled_at": CREATED, "cancellation_reason": "requested_by_customer"},
        "processing": {"latest_charge": CHARGE},
    }
    return {
        "id": INTENT,
        "object": "payment_intent",
        "amount": amount,
        "amount_capturable": 0,
        "amount_received": 0,
        "cancellation_reason": None,
        "capture_method": "automatic_async",
        "client_secret": SECRET,
        "created": CREATED,
        "currency": "eur",
        "last_payment_error": None,
        "latest_charge": None,
        "livemode": False,
        "metadata": ours(payment_id) if payment_id else {},
        "next_action": None,
        "status": status,
        **by_status.get(status, {}),
        **fields,
    }


def ours(payment_id: UUID) -> Json:
    """The metadata that the service gives to a PaymentIntent; here cart and order have the payment's own id."""
    return {name: str(payment_id) for name in ("paymentId", "cartId", "orderId")}


def event(kind: str, thing: Mapping[str, Any], **fields: Any) -> Json:
    """An event of its own id about an object as it stood."""
    return {
        "id": f"evt_tests{next(_numbers):012d}",
        "object": "event",
        "api_version": STRIPE_API_VERSION,
        "created": CREATED,
        "data": {"object": dict(thing)},
        "livemode": False,
        "pending_webhooks": 1,
        "request": {"id": "req_tests", "idempotency_key": None},
        "type": kind,
        **fields,
    }


def answered(thing: Mapping[str, Any], operation: str = "create_payment_intent") -> Json:
    """The payload of an answered call."""
    return {
        "operation": operation,
        "outcome": "answered",
        "httpStatus": 200,
        "requestId": "req_tests",
        "attempt": 1,
        "object": dict(thing),
        "error": None,
    }


def declined(thing: Mapping[str, Any] | None, error: Mapping[str, Any] = INSUFFICIENT_FUNDS) -> Json:
    """The payload of a 402 to a create call."""
    body = {**error, **({"payment_intent": dict(thing)} if thing else {})}
    return {**_said_no(402), "outcome": "declined", "error": body}


def refused(error: Mapping[str, Any], status: int = 400) -> Json:
    """The payload of a 400 or 404 to a create call."""
    return {**_said_no(status), "outcome": "refused", "error": dict(error)}


def _said_no(status: int) -> Json:
    return {
        "operation": "create_payment_intent",
        "httpStatus": status,
        "requestId": "req_tests",
        "attempt": 1,
        "object": None,
    }


def fetched(thing: Mapping[str, Any], after_history_id: int = 0) -> Json:
    """The payload of a fetched object."""
    return {**answered(thing, "retrieve_payment_intent"), "afterHistoryId": after_history_id}


def refund(intent_id: str, amount: int, status: str, **fields: Any) -> Json:
    """A refund of EUR cents in `status`."""
    return {
        "id": "re_3Qm4Tests0000000000001",
        "object": "refund",
        "amount": amount,
        "balance_transaction": None if status == "pending" else "txn_tests",
        "charge": CHARGE,
        "created": CREATED,
        "currency": "eur",
        "failure_reason": "expired_or_canceled_card" if status == "failed" else None,
        "metadata": {},
        "payment_intent": intent_id,
        "reason": None,
        "status": status,
        **fields,
    }


def dispute(intent_id: str, status: str, **fields: Any) -> Json:
    """A dispute about all of a charge, in `status`."""
    return {
        "id": "dp_3Qm4Tests0000000000001",
        "object": "dispute",
        "amount": 1000,
        "charge": CHARGE,
        "created": CREATED,
        "currency": "eur",
        "livemode": False,
        "payment_intent": intent_id,
        "reason": "fraudulent",
        "status": status,
        **fields,
    }
