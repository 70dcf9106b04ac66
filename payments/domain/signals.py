"""What a payment can hear from Stripe: a closed set, read from the rows of the inbox.

A snapshot of an object is worth as much as the way it came (`Heard`): only a fetched one is known to be fresh.
"""

from collections.abc import Mapping
from enum import Enum, StrEnum
from typing import Any, assert_never
from uuid import UUID

import msgspec

from payments.domain.facts import (
    DisputeFacts,
    ErrorFacts,
    PaymentIntentFacts,
    RefundFacts,
    UnreadableObject,
    intent_id_of,
    object_id_of,
    read_dispute,
    read_error,
    read_payment_intent,
    read_refund,
)
from payments.errors import PaymentsError

CREATE = "create_payment_intent"
CAPTURE = "capture_payment_intent"
CANCEL = "cancel_payment_intent"
REFUND = "create_refund"
# The first event of a PaymentIntent: whatever else was heard of it is newer.
FIRST_EVENT = "payment_intent.created"


class Kind(StrEnum):
    """The objects of Stripe's that can be in doubt, and are then asked for."""

    PAYMENT_INTENT = "payment_intent"
    REFUND = "refund"
    DISPUTE = "dispute"

    @property
    def operation(self) -> str:
        """The call that fetches it, as an inbox payload names it."""
        return f"retrieve_{self}"

    @property
    def label(self) -> str:
        """Its name in a sentence."""
        return "PaymentIntent" if self is Kind.PAYMENT_INTENT else self.value

    @property
    def message_type(self) -> str:
        """The inbox message that brings it."""
        return f"fetched.{self}"


# Whose snapshot an event is, by how its type begins. What a charge tells of itself is left alone: it says `refunded`
# also when a hold was let go, and all else that it knows is told by the others as well.
_KINDS = {
    "payment_intent.": Kind.PAYMENT_INTENT,
    "refund.": Kind.REFUND,
    "charge.dispute.": Kind.DISPUTE,
}
_RETRIEVED = {kind.operation: kind for kind in Kind}


class Heard(Enum):
    """How a snapshot came to us."""

    EVENT = "event"  # a webhook: late, early or twice
    FIRST_EVENT = "first event"  # the same, but older than all others
    ANSWER = "answer"  # the answer to a call of ours; a replayed one is as old as the first
    FETCHED = "fetched"  # asked for because of a doubt


class IntentSeen(msgspec.Struct, frozen=True):
    """A PaymentIntent as it stood when Stripe wrote it down."""

    facts: PaymentIntentFacts
    heard: Heard
    after_history_id: int = 0  # FETCHED only: the payment's last history row before the fetch began
    capture_id: UUID | None = None  # the wish that this answers


class CreateDeclined(msgspec.Struct, frozen=True):
    """402: Stripe tried the card and was refused. The PaymentIntent exists, usually."""

    error: ErrorFacts
    facts: PaymentIntentFacts | None


class CreateRefused(msgspec.Struct, frozen=True):
    """400 or 404: Stripe did nothing; no PaymentIntent exists."""

    error: ErrorFacts
    http_status: int


class CallRefused(msgspec.Struct, frozen=True):
    """Stripe would not capture or cancel, usually because the PaymentIntent (`facts`) is not where we thought."""

    operation: str
    subject_id: UUID | None
    error: ErrorFacts
    facts: PaymentIntentFacts | None
    http_status: int


class RefundSeen(msgspec.Struct, frozen=True):
    """A refund as it stood when Stripe wrote it down."""

    facts: RefundFacts
    heard: Heard
    refund_id: UUID | None = None  # ours, by the call that it answers or by its metadata
    intent: PaymentIntentFacts | None = None  # FETCHED only: its PaymentIntent, asked for at the same time


class RefundRefused(msgspec.Struct, frozen=True):
    """4xx: Stripe did nothing; there is no such refund."""

    refund_id: UUID
    error: ErrorFacts
    http_status: int


class DisputeSeen(msgspec.Struct, frozen=True):
    """A dispute as it stood when Stripe wrote it down."""

    facts: DisputeFacts
    heard: Heard


class Mentioned(msgspec.Struct, frozen=True):
    """Something was said about an object that cannot be relied on as it was said."""

    kind: Kind
    object_id: str
    why: str


class Missing(msgspec.Struct, frozen=True):
    """Stripe was asked, and knows no such object."""

    kind: Kind
    object_id: str


class SomethingElse(msgspec.Struct, frozen=True):
    """True, perhaps, but nothing that a payment's state depends on."""

    why: str


Signal = (
    IntentSeen
    | CreateDeclined
    | CreateRefused
    | CallRefused
    | RefundSeen
    | RefundRefused
    | DisputeSeen
    | Mentioned
    | Missing
    | SomethingElse
)


class UnreadableSignal(PaymentsError):
    """A row of the inbox holds what nobody can read; trying again will not help, a person must look."""


class Elsewhere(msgspec.Struct, frozen=True):
    """An event of another mode or account: it must not touch any payment of ours."""

    why: str


def read_event(  # noqa: PLR0911 - a way out for each case
    event: Mapping[str, Any], *, livemode: bool, account: str | None, api_version: str
) -> Signal | Elsewhere:
    """The signal in a webhook's event; never raises on what a signed event may hold."""
    if isinstance(event.get("livemode"), bool) and event["livemode"] is not livemode:
        return Elsewhere(f"livemode is {event['livemode']}, ours is {livemode}")
    theirs = event.get("account")  # of connected accounts only: https://docs.stripe.com/api/events/object
    if theirs is not None and theirs != account:
        return Elsewhere("the event is another account's")
    data = event.get("data")
    thing = data.get("object") if isinstance(data, dict) else None
    name = event.get("type")
    kind = _kind_of(name)
    if kind is None:
        return SomethingElse("only PaymentIntents, refunds and disputes tell what happens to a payment")
    object_id = intent_id_of(thing) if kind is Kind.PAYMENT_INTENT else object_id_of(thing)
    if object_id is None:
        return SomethingElse(f"the event names no {kind.label}")
    if not isinstance(event.get("livemode"), bool):
        return Mentioned(kind, object_id, "the event does not say its mode")
    if event.get("api_version") != api_version:
        return Mentioned(kind, object_id, f"the event is of API version {str(event.get('api_version'))[:40]}")
    try:
        return _read_snapshot(kind, thing, Heard.FIRST_EVENT if name == FIRST_EVENT else Heard.EVENT)
    except UnreadableObject as error:
        return Mentioned(kind, object_id, str(error))


def _kind_of(event_type: object) -> Kind | None:
    if not isinstance(event_type, str):
        return None
    return next((kind for prefix, kind in _KINDS.items() if event_type.startswith(prefix)), None)


def _read_snapshot(kind: Kind, thing: object, heard: Heard) -> IntentSeen | RefundSeen | DisputeSeen:
    match kind:
        case Kind.PAYMENT_INTENT:
            return IntentSeen(read_payment_intent(thing), heard)
        case Kind.REFUND:
            facts = read_refund(thing)
            return RefundSeen(facts, heard, facts.refund_id)
        case Kind.DISPUTE:
            return DisputeSeen(read_dispute(thing), heard)
        case _:
            assert_never(kind)


def read_answer(payload: Mapping[str, Any]) -> Signal:
    """The signal in an answer of Stripe's API; raises UnreadableSignal or UnreadableObject."""
    operation, outcome, thing = payload.get("operation"), payload.get("outcome"), payload.get("object")
    kind = _RETRIEVED.get(operation) if isinstance(operation, str) else None
    match outcome:
        case "answered" if kind is not None:
            return _read_fetched(kind, payload)
        case "answered" if operation == CAPTURE:
            return IntentSeen(read_payment_intent(thing), Heard.ANSWER, capture_id=_subject(payload))
        case "answered" if operation in (CREATE, CANCEL):
            return IntentSeen(read_payment_intent(thing), Heard.ANSWER)
        case "answered" if operation == REFUND:
            facts = read_refund(thing)
            return RefundSeen(facts, Heard.ANSWER, _subject(payload) or facts.refund_id)
        case "refused" if kind is not None:
            return Missing(kind, str(payload.get("objectId"))[:255])
        case "declined" | "refused" if isinstance(operation, str):
            return _read_refusal(operation, outcome, payload)
        case _:
            raise UnreadableSignal(f"nobody here knows an answer {outcome!r} to {operation!r}"[:200])


def _read_fetched(kind: Kind, payload: Mapping[str, Any]) -> Signal:
    seen = _read_snapshot(kind, payload.get("object"), Heard.FETCHED)
    if isinstance(seen, IntentSeen):
        after = payload.get("afterHistoryId")
        return msgspec.structs.replace(seen, after_history_id=after if type(after) is int else 0)
    if isinstance(seen, RefundSeen) and payload.get("paymentIntent") is not None:
        return msgspec.structs.replace(seen, intent=read_payment_intent(payload["paymentIntent"]))
    return seen


def _read_refusal(operation: str, outcome: str, payload: Mapping[str, Any]) -> Signal:
    error = read_error(payload.get("error"))
    if error is None:
        raise UnreadableSignal("the answer says no, but not why")
    inside = payload["error"].get("payment_intent")
    facts = read_payment_intent(inside) if isinstance(inside, dict) else None
    given = payload.get("httpStatus")
    status = given if type(given) is int else 400
    if operation == CREATE:
        return CreateDeclined(error, facts) if outcome == "declined" else CreateRefused(error, status)
    subject_id = _subject(payload)
    if operation in (CAPTURE, CANCEL):
        return CallRefused(operation, subject_id, error, facts, status)
    if operation == REFUND and subject_id is not None:
        return RefundRefused(subject_id, error, status)
    raise UnreadableSignal(f"nobody here knows an answer {outcome!r} to {operation!r}"[:200])


def _subject(payload: Mapping[str, Any]) -> UUID | None:
    try:
        return UUID(payload["subjectId"])
    except (KeyError, ValueError, TypeError, AttributeError):
        return None


def intent_id_in(signal: Signal) -> str | None:
    """The PaymentIntent that a signal is about, where it names one."""
    match signal:
        case IntentSeen():
            return signal.facts.id
        case CreateDeclined() | CallRefused():
            return signal.facts.id if signal.facts else None
        case RefundSeen() | DisputeSeen():
            return signal.facts.intent_id
        case Mentioned() | Missing():
            return signal.object_id if signal.kind is Kind.PAYMENT_INTENT else None
        case CreateRefused() | RefundRefused() | SomethingElse():
            return None
        case _:
            assert_never(signal)
