"""What a payment can hear from Stripe: a closed set, read from the rows of the inbox.

A snapshot of a PaymentIntent is worth as much as the way it came (`Heard`): only a fetched one is known to be fresh.
"""

from collections.abc import Mapping
from enum import Enum
from typing import Any, assert_never

import msgspec

from payments.domain.facts import (
    ErrorFacts,
    PaymentIntentFacts,
    UnreadableObject,
    intent_id_of,
    read_error,
    read_payment_intent,
)
from payments.errors import PaymentsError

CREATE = "create_payment_intent"
RETRIEVE = "retrieve_payment_intent"
# The first event of a PaymentIntent: whatever else was heard of it is newer.
FIRST_EVENT = "payment_intent.created"


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


class CreateDeclined(msgspec.Struct, frozen=True):
    """402: Stripe tried the card and was refused. The PaymentIntent exists, usually."""

    error: ErrorFacts
    facts: PaymentIntentFacts | None


class CreateRefused(msgspec.Struct, frozen=True):
    """400 or 404: Stripe did nothing; no PaymentIntent exists."""

    error: ErrorFacts
    http_status: int


class IntentMentioned(msgspec.Struct, frozen=True):
    """Something was said about a PaymentIntent that cannot be relied on as it was said."""

    intent_id: str
    why: str


class IntentMissing(msgspec.Struct, frozen=True):
    """Stripe was asked, and knows no such PaymentIntent."""

    intent_id: str


class SomethingElse(msgspec.Struct, frozen=True):
    """True, perhaps, but nothing that a payment's state depends on."""

    why: str


Signal = IntentSeen | CreateDeclined | CreateRefused | IntentMentioned | IntentMissing | SomethingElse


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
    kind = event.get("type")
    if not isinstance(kind, str) or not kind.startswith("payment_intent."):
        return SomethingElse("the events of the PaymentIntent itself tell what happens to a payment")
    intent_id = intent_id_of(thing)
    if intent_id is None:
        return SomethingElse("the event names no PaymentIntent")
    if not isinstance(event.get("livemode"), bool):
        return IntentMentioned(intent_id, "the event does not say its mode")
    if event.get("api_version") != api_version:
        return IntentMentioned(intent_id, f"the event is of API version {str(event.get('api_version'))[:40]}")
    try:
        facts = read_payment_intent(thing)
    except UnreadableObject as error:
        return IntentMentioned(intent_id, str(error))
    return IntentSeen(facts, Heard.FIRST_EVENT if kind == FIRST_EVENT else Heard.EVENT)


def read_answer(payload: Mapping[str, Any]) -> Signal:
    """The signal in an answer of Stripe's API; raises UnreadableSignal or UnreadableObject."""
    operation, outcome = payload.get("operation"), payload.get("outcome")
    status = payload.get("httpStatus")
    match outcome:
        case "answered" if operation == RETRIEVE:
            after = payload.get("afterHistoryId")
            return IntentSeen(
                read_payment_intent(payload.get("object")), Heard.FETCHED, after if type(after) is int else 0
            )
        case "answered" if isinstance(operation, str) and operation.endswith("_payment_intent"):
            return IntentSeen(read_payment_intent(payload.get("object")), Heard.ANSWER)
        case "declined" if operation == CREATE:
            error = _error(payload)
            inside = payload["error"].get("payment_intent")
            return CreateDeclined(error, read_payment_intent(inside) if isinstance(inside, dict) else None)
        case "refused" if operation == CREATE:
            return CreateRefused(_error(payload), status if type(status) is int else 400)
        case "refused" if operation == RETRIEVE:
            return IntentMissing(str(payload.get("intentId"))[:255])
        case _:
            raise UnreadableSignal(f"nobody here knows an answer {outcome!r} to {operation!r}"[:200])


def _error(payload: Mapping[str, Any]) -> ErrorFacts:
    error = read_error(payload.get("error"))
    if error is None:
        raise UnreadableSignal("the answer says no, but not why")
    return error


def intent_id_in(signal: Signal) -> str | None:
    """The PaymentIntent that a signal is about, where it names one."""
    match signal:
        case IntentSeen():
            return signal.facts.id
        case CreateDeclined():
            return signal.facts.id if signal.facts else None
        case IntentMentioned() | IntentMissing():
            return signal.intent_id
        case CreateRefused() | SomethingElse():
            return None
        case _:
            assert_never(signal)
