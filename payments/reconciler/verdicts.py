"""What to do about a call whose key is no longer to be trusted: pure, and a closed set.

A new key only after proof that nothing exists under the old one. Whatever exists is for the recorder to weigh.
"""

from enum import StrEnum
from typing import Any, assert_never
from uuid import UUID

import msgspec

from payments.domain.states import PaymentStatus

_S = PaymentStatus


class Operation(StrEnum):
    """The calls of payments.stripe_requests."""

    CREATE = "create_payment_intent"
    CAPTURE = "capture_payment_intent"
    CANCEL = "cancel_payment_intent"
    REFUND = "create_refund"


class Doubtful(msgspec.Struct, frozen=True, kw_only=True):
    """A call to reconcile, and what our books say of its subject now."""

    call_id: int
    payment_id: UUID
    subject_id: UUID
    operation: Operation
    status: PaymentStatus
    intent_id: str | None = None
    capture_id: UUID | None = None
    refund_status: str | None = None


class Question(StrEnum):
    """What must be known of Stripe before anything is done about a call."""

    NONE = "none"  # what the call was for is settled by another way
    INTENT = "intent"
    REFUNDS = "refunds"
    CREATED = "created"  # every PaymentIntent made since the first attempt


class Found(msgspec.Struct, frozen=True):
    """The effect is there, or the PaymentIntent is past it: the objects go to the recorder, the call is closed."""

    objects: tuple[dict[str, Any], ...]


class Absent(msgspec.Struct, frozen=True):
    """Nothing was done: the same wish may go out under a new key."""


class Doubled(msgspec.Struct, frozen=True):
    """Two objects stand for one wish, which should never be: an operator must look."""

    objects: tuple[dict[str, Any], ...]


class Unshown(msgspec.Struct, frozen=True):
    """Stripe will not show what became of it, now or later: an operator must look."""

    why: str


Verdict = Found | Absent | Doubled | Unshown


def decide_question(doubtful: Doubtful) -> Question:
    """What to ask of Stripe about a call, from our own books alone."""
    match doubtful.operation:
        case Operation.CREATE:
            if doubtful.status not in {_S.REQUESTED, _S.VOIDING}:
                return Question.NONE
            return Question.CREATED if doubtful.intent_id is None else Question.INTENT
        case Operation.CAPTURE:
            is_open = doubtful.status is _S.CAPTURING and doubtful.capture_id == doubtful.subject_id
            return Question.INTENT if is_open and doubtful.intent_id is not None else Question.NONE
        case Operation.CANCEL:
            is_over = doubtful.status in {_S.SUCCEEDED, _S.VOIDED, _S.EXPIRED, _S.CONFLICTED}
            return Question.NONE if is_over or doubtful.intent_id is None else Question.INTENT
        case Operation.REFUND:
            is_open = doubtful.refund_status == "REQUESTED" and doubtful.intent_id is not None
            return Question.REFUNDS if is_open else Question.NONE
        case _:
            assert_never(doubtful.operation)


def decide_by_intent(doubtful: Doubtful, intent: dict[str, Any]) -> Verdict:
    """What the PaymentIntent says about the call that was to make, capture or cancel it."""
    status = intent.get("status")
    match doubtful.operation:
        case Operation.CREATE:
            return Found((intent,))
        case Operation.CAPTURE:
            return Absent() if status == "requires_capture" else Found((intent,))
        case Operation.CANCEL:
            # While it is processing, Stripe may refuse; the payment's watch asks again later.
            return Found((intent,)) if status in {"succeeded", "canceled", "processing"} else Absent()
        case Operation.REFUND:
            raise AssertionError("a refund is looked for in the list of its PaymentIntent's refunds")
        case _:
            assert_never(doubtful.operation)


def decide_by_list(doubtful: Doubtful, objects: list[dict[str, Any]]) -> Verdict:
    """What a whole list of PaymentIntents, or of refunds, says about the call that would have made one of them."""
    name = "refundId" if doubtful.operation is Operation.REFUND else "paymentId"
    found = {str(one["id"]): one for one in objects if names(one, name) == str(doubtful.subject_id)}
    match len(found):
        case 0:
            return Absent()
        case 1:
            return Found(tuple(found.values()))
        case _:
            return Doubled(tuple(found.values()))


def names(thing: dict[str, Any], name: str) -> str | None:
    """What an object's metadata says under a name of ours."""
    metadata = thing.get("metadata")
    value = metadata.get(name) if isinstance(metadata, dict) else None
    return value if isinstance(value, str) else None
