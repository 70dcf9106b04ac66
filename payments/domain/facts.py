"""Reads Stripe's objects into frozen facts: only what decisions lean on, tolerant of whatever else is there or missing.

Statuses stay plain strings, for Stripe may add some. Sources: https://docs.stripe.com/api/payment_intents/object,
https://docs.stripe.com/api/refunds/object and https://docs.stripe.com/api/disputes/object
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, TypeVar
from uuid import UUID

import msgspec

from payments.errors import PaymentsError

T = TypeVar("T")

ID_CHARACTERS_MAX = 255  # Stripe's own limit on ids
TEXT_CHARACTERS_MAX = 500  # of messages and reasons: enough to read, too little to fill a table
SECRET_CHARACTERS_MAX = 5_000  # Stripe's limit on any string
AMOUNT_MAX = 999_999_999_999  # Stripe's largest amounts have twelve digits (IDR)
SECONDS_MAX = 253_402_300_799  # the last second of the year 9999


class UnreadableObject(PaymentsError):
    """An object of Stripe's lacks what it must have, or has it in a form that nobody can read."""


class ErrorFacts(msgspec.Struct, frozen=True):
    """Why Stripe said no: https://docs.stripe.com/api/errors."""

    type: str | None = None
    code: str | None = None
    decline_code: str | None = None
    message: str | None = None
    param: str | None = None

    @property
    def parameter(self) -> str | None:
        """The parameter at fault; Stripe names nested ones like payment_method[card]."""
        return None if self.param is None else self.param.partition("[")[0]


class ActionFacts(msgspec.Struct, frozen=True):
    """What the customer must do next, e.g. 3-D Secure."""

    type: str
    redirect_url: str | None = None


class PaymentIntentFacts(msgspec.Struct, frozen=True, kw_only=True):
    """A PaymentIntent as it stood at one moment. None: not said, or said in a form that is none."""

    id: str
    status: str
    amount: int
    currency: str
    amount_capturable: int | None = None
    amount_received: int | None = None
    capture_method: str | None = None
    charge: str | None = None
    charge_status: str | None = None  # known from an expanded charge only, like the next
    capture_before: datetime | None = None
    last_payment_error: ErrorFacts | None = None
    next_action: ActionFacts | None = None
    client_secret: str | None = None
    cancellation_reason: str | None = None
    payment_id: UUID | None = None
    livemode: bool | None = None
    created: datetime | None = None


class RefundFacts(msgspec.Struct, frozen=True, kw_only=True):
    """A refund as it stood at one moment."""

    id: str
    status: str
    amount: int
    currency: str
    intent_id: str | None = None
    failure_reason: str | None = None
    has_balance_transaction: bool = False  # money moved, or is about to
    payment_id: UUID | None = None
    refund_id: UUID | None = None
    reason: str | None = None


class DisputeFacts(msgspec.Struct, frozen=True, kw_only=True):
    """A dispute as it stood at one moment."""

    id: str
    status: str
    amount: int
    currency: str
    intent_id: str | None = None
    reason: str | None = None
    created: datetime | None = None


def read_payment_intent(value: object) -> PaymentIntentFacts:
    """The facts of a PaymentIntent; raises UnreadableObject when id, status, amount or currency cannot be read."""
    intent = _mapping(value)
    if intent is None or intent.get("object", "payment_intent") != "payment_intent":
        raise UnreadableObject("this is no PaymentIntent")
    charge = intent.get("latest_charge")
    return PaymentIntentFacts(
        id=_required(_identifier(intent.get("id"), "pi_"), "id"),
        status=_required(_text(intent.get("status")), "status"),
        amount=_required(_amount(intent.get("amount")), "amount"),
        currency=_required(_text(intent.get("currency")), "currency").upper(),
        amount_capturable=_amount(intent.get("amount_capturable")),
        amount_received=_amount(intent.get("amount_received")),
        capture_method=_text(intent.get("capture_method")),
        charge=_charge_id(charge),
        charge_status=_text((_mapping(charge) or {}).get("status")),
        capture_before=_capture_before(charge),
        last_payment_error=read_error(intent.get("last_payment_error")),
        next_action=_action(intent.get("next_action")),
        client_secret=_text(intent.get("client_secret"), SECRET_CHARACTERS_MAX),
        cancellation_reason=_text(intent.get("cancellation_reason")),
        payment_id=payment_id_of(intent),
        livemode=_flag(intent.get("livemode")),
        created=_moment(intent.get("created")),
    )


def read_refund(value: object) -> RefundFacts:
    """The facts of a refund; raises UnreadableObject when id, status, amount or currency cannot be read."""
    refund = _mapping(value)
    if refund is None or refund.get("object", "refund") != "refund":
        raise UnreadableObject("this is no refund")
    return RefundFacts(
        id=_required(_identifier(refund.get("id")), "id"),
        status=_required(_text(refund.get("status")), "status"),
        amount=_required(_amount(refund.get("amount")) or None, "amount"),
        currency=_required(_text(refund.get("currency")), "currency").upper(),
        intent_id=intent_id_of(refund),
        failure_reason=_text(refund.get("failure_reason")),
        has_balance_transaction=refund.get("balance_transaction") is not None,
        payment_id=payment_id_of(refund),
        refund_id=refund_id_of(refund),
        reason=_text(refund.get("reason")),
    )


def read_dispute(value: object) -> DisputeFacts:
    """The facts of a dispute; raises UnreadableObject when id, status, amount or currency cannot be read."""
    dispute = _mapping(value)
    if dispute is None or dispute.get("object", "dispute") != "dispute":
        raise UnreadableObject("this is no dispute")
    return DisputeFacts(
        id=_required(_identifier(dispute.get("id")), "id"),
        status=_required(_text(dispute.get("status")), "status"),
        amount=_required(_amount(dispute.get("amount")) or None, "amount"),
        currency=_required(_text(dispute.get("currency")), "currency").upper(),
        intent_id=intent_id_of(dispute),
        reason=_text(dispute.get("reason")),
        created=_moment(dispute.get("created")),
    )


def read_error(value: object) -> ErrorFacts | None:
    """The facts of an error body or of `last_payment_error`; None when there is none."""
    error = _mapping(value)
    if not error:
        return None
    return ErrorFacts(
        type=_text(error.get("type")),
        code=_text(error.get("code")),
        decline_code=_text(error.get("decline_code")),
        message=_text(error.get("message")),
        param=_text(error.get("param")),
    )


def payment_id_of(value: object) -> UUID | None:
    """The payment that an object's metadata names; None when it names none, so the object is not ours."""
    return named_id_of(value, "paymentId")


def refund_id_of(value: object) -> UUID | None:
    """The refund of ours that a refund's metadata names; None when it was made elsewhere, e.g. in the dashboard."""
    return named_id_of(value, "refundId")


def named_id_of(value: object, name: str) -> UUID | None:
    """The id that an object's metadata keeps under a name."""
    text = (_mapping((_mapping(value) or {}).get("metadata")) or {}).get(name)
    try:
        # Only as we write it: UUID() also takes braces, urn: and stray hyphens.
        return UUID(text) if isinstance(text, str) and len(text) == 36 else None
    except ValueError:
        return None


def object_id_of(value: object) -> str | None:
    """Stripe's id of any object."""
    return _identifier((_mapping(value) or {}).get("id"))


def intent_id_of(value: object) -> str | None:
    """The PaymentIntent that an object is or belongs to (charges, refunds and disputes name theirs)."""
    thing = _mapping(value) or {}
    if thing.get("object") == "payment_intent":
        return _identifier(thing.get("id"), "pi_")
    owner = thing.get("payment_intent")
    return _identifier((_mapping(owner) or {}).get("id", owner), "pi_")


def _required(value: T | None, name: str) -> T:
    if value is None:
        raise UnreadableObject(f"the object has no readable {name}")
    return value


def _mapping(value: object) -> Mapping[str, Any] | None:
    return value if isinstance(value, dict) else None


def _text(value: object, characters_max: int = TEXT_CHARACTERS_MAX) -> str | None:
    return value[:characters_max] if isinstance(value, str) and value else None


def _identifier(value: object, prefix: str = "") -> str | None:
    is_one = isinstance(value, str) and value.startswith(prefix) and 0 < len(value) <= ID_CHARACTERS_MAX
    return str(value) if is_one else None


def _amount(value: object) -> int | None:
    return value if type(value) is int and 0 <= value <= AMOUNT_MAX else None


def _flag(value: object) -> bool | None:
    return value if isinstance(value, bool) else None


def _moment(value: object) -> datetime | None:
    if type(value) is not int or not 0 < value <= SECONDS_MAX:
        return None
    return datetime.fromtimestamp(value, UTC)


def _charge_id(charge: object) -> str | None:
    """`latest_charge` is an id, or the charge itself where it was expanded."""
    expanded = _mapping(charge)
    value = expanded.get("id") if expanded is not None else charge
    return value if isinstance(value, str) and 0 < len(value) <= ID_CHARACTERS_MAX else None


def _capture_before(charge: object) -> datetime | None:
    """Known only from an expanded charge: https://docs.stripe.com/payments/place-a-hold-on-a-payment-method."""
    details = _mapping((_mapping(charge) or {}).get("payment_method_details")) or {}
    kind = _mapping(details.get(details.get("type", "card") if isinstance(details.get("type"), str) else "card"))
    return _moment((kind or {}).get("capture_before"))


def _action(value: object) -> ActionFacts | None:
    action = _mapping(value)
    kind = _text((action or {}).get("type"))
    if action is None or kind is None:
        return None
    redirect = _mapping(action.get("redirect_to_url")) or {}
    return ActionFacts(kind, _text(redirect.get("url"), SECRET_CHARACTERS_MAX))
