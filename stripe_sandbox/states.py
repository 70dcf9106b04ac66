"""The PaymentIntent's state machine as data (https://docs.stripe.com/payments/paymentintents/lifecycle)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stripe_sandbox.errors import StripeError, refused

if TYPE_CHECKING:
    from stripe_sandbox.store import Record

PAYABLE = ("requires_payment_method", "requires_confirmation", "requires_action")

TRANSITIONS: dict[str, frozenset[str]] = {
    "requires_payment_method": frozenset(
        {
            "requires_confirmation",
            "requires_payment_method",
            "requires_action",
            "processing",
            "requires_capture",
            "succeeded",
            "canceled",
        }
    ),
    "requires_confirmation": frozenset(
        {"requires_payment_method", "requires_action", "processing", "requires_capture", "succeeded", "canceled"}
    ),
    "requires_action": frozenset(
        {"requires_payment_method", "requires_action", "processing", "requires_capture", "succeeded", "canceled"}
    ),
    "processing": frozenset({"requires_payment_method", "succeeded", "requires_capture", "canceled"}),
    "requires_capture": frozenset({"succeeded", "canceled"}),
    "succeeded": frozenset(),
    "canceled": frozenset(),
}

# Which statuses a call may find (https://docs.stripe.com/api/payment_intents/cancel, /capture, /confirm).
CANCELABLE = ("requires_payment_method", "requires_capture", "requires_confirmation", "requires_action", "processing")
CAPTURABLE = ("requires_capture",)


def move(intent: Record, status: str) -> None:
    """Change the status; raises AssertionError on a transition Stripe doesn't have."""
    current = intent.body["status"]
    if status not in TRANSITIONS[current]:
        raise AssertionError(f"{intent.id}: no way from {current} to {status}")
    intent.body["status"] = status


def unexpected_state(intent: Record, message: str) -> StripeError:
    """https://docs.stripe.com/error-codes#payment-intent-unexpected-state, with the intent as it stands."""
    return refused(message, code="payment_intent_unexpected_state", payment_intent=intent.body)


def require_cancelable(intent: Record) -> None:
    """Raise StripeError unless a cancel may go ahead."""
    status = intent.body["status"]
    if status not in CANCELABLE:
        text = (
            f"You cannot cancel this PaymentIntent because it has a status of {status}. Only a "
            "PaymentIntent with one of "
            f"the following statuses may be canceled: {', '.join(CANCELABLE)}."
        )
        raise unexpected_state(intent, text)


def require_capturable(intent: Record) -> None:
    """Raise StripeError unless there is a hold to capture."""
    status = intent.body["status"]
    if status not in CAPTURABLE:
        text = (
            f"This PaymentIntent could not be captured because it has a status of {status}. Only a "
            "PaymentIntent with one "
            f"of the following statuses may be captured: {', '.join(CAPTURABLE)}."
        )
        raise unexpected_state(intent, text)


def require_payable(intent: Record) -> None:
    """Raise StripeError unless the intent may be confirmed."""
    status = intent.body["status"]
    if status == "succeeded":
        text = (
            "You cannot confirm this PaymentIntent because it has already succeeded after being previously confirmed."
        )
        raise unexpected_state(intent, text)
    if status not in PAYABLE:
        text = (
            f"You cannot confirm this PaymentIntent because it has a status of {status}. Only a "
            "PaymentIntent with one of "
            f"the following statuses may be confirmed: {', '.join(PAYABLE)}."
        )
        raise unexpected_state(intent, text)
