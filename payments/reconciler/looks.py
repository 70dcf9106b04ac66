"""What a watch over a payment asks of Stripe, what of the answer is news, and when to look next. Pure: no clock."""

from collections.abc import Iterable
from datetime import datetime, timedelta
from enum import Enum
from typing import Any, assert_never
from uuid import UUID

import msgspec

from payments.domain.facts import PaymentIntentFacts
from payments.domain.signals import Kind
from payments.domain.states import PaymentStatus

_S = PaymentStatus

# Between two looks at what may rest for days at Stripe, e.g. a bank debit.
PAUSE_S_MAX = 3_600.0
# A hold, or a failed payment's PaymentIntent, seldom changes by itself.
SLOW_PAUSE_S_MAX = 6 * 3_600.0
# Stripe lets a hold go around `capture_before`, not on the second.
EXPIRY_MARGIN = timedelta(seconds=30)
_DOUBLINGS_MAX = 20  # beyond every maximum

OPEN = frozenset({_S.REQUESTED, _S.ACTION_REQUIRED, _S.PROCESSING, _S.AUTHORIZED, _S.CAPTURING, _S.VOIDING})
_SLOW = frozenset({_S.AUTHORIZED, _S.FAILED})
# Statuses of a PaymentIntent that say no more than the payment's own; those that are missing are always news.
_KNOWN = {
    _S.ACTION_REQUIRED: frozenset({"requires_action", "requires_payment_method", "requires_confirmation"}),
    _S.PROCESSING: frozenset({"processing"}),
    _S.AUTHORIZED: frozenset({"requires_capture"}),
    _S.CAPTURING: frozenset({"requires_capture", "processing"}),
}
_UNCONFIRMED = frozenset({"requires_confirmation", "requires_payment_method"})
_REFUND_STATUS = {"pending": "PENDING", "requires_action": "PENDING", "succeeded": "PROCESSED"}
_REFUND_ENDED = {"failed": "FAILED", "canceled": "FAILED"}


class KnownRefund(msgspec.Struct, frozen=True):
    """A refund as our row has it."""

    refund_id: UUID
    status: str
    reference: str | None = None


class Watched(msgspec.Struct, frozen=True, kw_only=True):
    """A payment under watch, as its row stands.

    `is_orphan`: no order has claimed it. `action`: what the browser is waited for. `is_cancelled`: Stripe has confirmed
    the cancel. `is_compensated`: what came late is on its way back.
    """

    payment_id: UUID
    status: PaymentStatus
    intent_id: str | None
    looks: int
    changed_at: datetime
    capture_before: datetime | None = None
    action: str | None = None
    is_orphan: bool = False
    is_cancelled: bool = False
    is_compensated: bool = False
    refunds: tuple[KnownRefund, ...] = ()


class Limits(msgspec.Struct, frozen=True):
    """How long things may stay as they are."""

    first_look: timedelta
    action_required: timedelta
    orphan_hold: timedelta


class Rest(msgspec.Struct, frozen=True):
    """Nothing is open at Stripe any more: the watch ends."""


class Look(msgspec.Struct, frozen=True):
    """Ask for the PaymentIntent, its refunds, both, or (so far unknown) neither."""

    intent: bool
    refunds: bool


class Sight(Enum):
    """What a PaymentIntent says to a watch."""

    NEWS = "news"  # for the recorder to weigh
    NO_NEWS = "no news"
    AT_REST = "at rest"
    HALF_MADE = "half made"  # by a call of ours that Stripe never confirmed; news as well
    LEFT_OPEN = "left open"  # the payment has failed; nobody may be able to pay it later


class Limit(Enum):
    """Whose time is up."""

    ABANDONED = "abandoned"  # the customer never came back, or nobody will ever confirm: cancel
    ORPHANED = "orphaned"  # no order ever claimed the hold: void


def decide_watch(watched: Watched) -> Rest | Look:
    """What to ask of Stripe, from our own books alone."""
    has_open_refunds = any(refund.status == "PENDING" for refund in watched.refunds)
    is_open = watched.status in OPEN or (
        watched.status is _S.FAILED
        and watched.intent_id is not None
        and not watched.is_cancelled
        and not watched.is_compensated
    )
    if not is_open and not has_open_refunds:
        return Rest()
    # Without a PaymentIntent there is nothing to look at yet: the call that makes it has its own ways.
    is_known = watched.intent_id is not None
    return Look(intent=is_open and is_known, refunds=has_open_refunds and is_known)


def decide_sight(watched: Watched, facts: PaymentIntentFacts) -> Sight:
    """Whether a PaymentIntent says anything that the payment does not say already."""
    if watched.status is _S.FAILED:
        return _decide_failed(facts)
    if watched.status not in OPEN:
        return Sight.AT_REST if facts.status in {"succeeded", "canceled"} else Sight.NEWS
    if facts.status not in _KNOWN.get(watched.status, frozenset()):
        is_half_made = watched.status is _S.REQUESTED and facts.status in _UNCONFIRMED
        return Sight.HALF_MADE if is_half_made else Sight.NEWS
    if watched.status is _S.ACTION_REQUIRED and _action_of(facts) != watched.action:
        return Sight.NEWS
    if watched.status is _S.AUTHORIZED and watched.capture_before is None and facts.capture_before is not None:
        return Sight.NEWS
    return Sight.NO_NEWS


def _decide_failed(facts: PaymentIntentFacts) -> Sight:
    match facts.status:
        case "canceled":
            return Sight.AT_REST
        case "succeeded" | "requires_capture":
            return Sight.NEWS
        case _:
            return Sight.LEFT_OPEN


def _action_of(facts: PaymentIntentFacts) -> str:
    """As the recorder keeps it: the kind of action, or the status that waits for the customer."""
    if facts.status == "requires_action" and facts.next_action is not None:
        return facts.next_action.type
    return facts.status


def decide_refunds(watched: Watched, seen: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Those of Stripe's refunds of a payment that our books do not have, or have in another state."""
    by_reference = {refund.reference: refund.status for refund in watched.refunds if refund.reference}
    by_id = {str(refund.refund_id): refund.status for refund in watched.refunds}
    return [refund for refund in seen if _ours(refund, by_reference, by_id) != _status_of(refund)]


def _ours(refund: dict[str, Any], by_reference: dict[str, str], by_id: dict[str, str]) -> str | None:
    metadata = refund.get("metadata")
    named = metadata.get("refundId") if isinstance(metadata, dict) else None
    return by_reference.get(str(refund.get("id"))) or (by_id.get(named) if isinstance(named, str) else None)


def _status_of(refund: dict[str, Any]) -> str | None:
    status = str(refund.get("status"))
    return _REFUND_STATUS.get(status) or _REFUND_ENDED.get(status)


def decide_limit(watched: Watched, now: datetime, limits: Limits) -> Limit | None:
    """Whose time is up, after Stripe had no news."""
    deadline = _deadline(watched, limits)
    if deadline is None or now < deadline:
        return None
    return Limit.ORPHANED if watched.status is _S.AUTHORIZED else Limit.ABANDONED


def _deadline(watched: Watched, limits: Limits) -> datetime | None:
    match watched.status:
        case _S.ACTION_REQUIRED:
            return watched.changed_at + limits.action_required
        case _S.REQUESTED if watched.looks > 0:  # what the first look brought has not moved it
            return watched.changed_at + limits.action_required
        case _S.AUTHORIZED if watched.is_orphan:
            return watched.changed_at + limits.orphan_hold
        case _:
            return None


def decide_pause(watched: Watched, now: datetime, limits: Limits) -> timedelta:
    """How long until the next look: doubling, but not past a moment at which something is bound to happen."""
    least = limits.first_look
    most = timedelta(seconds=SLOW_PAUSE_S_MAX if watched.status in _SLOW else PAUSE_S_MAX)
    expires_at = watched.capture_before + EXPIRY_MARGIN if watched.capture_before is not None else None
    if expires_at is not None and now >= expires_at:
        # Overdue: often at first, then as far apart as it is late.
        return min(max(least, now - expires_at), timedelta(seconds=PAUSE_S_MAX))
    pause = min(least * 2.0 ** min(watched.looks, _DOUBLINGS_MAX), most)
    moments = [moment for moment in (expires_at, _deadline(watched, limits)) if moment is not None and moment > now]
    return max(min([pause, *(moment - now for moment in moments)]), timedelta(milliseconds=100))


def decide_stock(kind: Kind, thing: dict[str, Any], known_as: str | None) -> bool:
    """Whether an object of the past is news; `known_as`: its payment's status, or its own, in our books."""
    status = str(thing.get("status"))
    match kind:
        case Kind.PAYMENT_INTENT if status == "succeeded":
            return known_as != _S.SUCCEEDED
        case Kind.PAYMENT_INTENT if status == "canceled":
            return known_as not in {_S.FAILED, _S.VOIDED, _S.EXPIRED}
        case Kind.PAYMENT_INTENT:
            return known_as is None  # what is open and known has its watch
        case Kind.REFUND:
            return known_as is None or known_as != _status_of(thing)
        case Kind.DISPUTE:
            return known_as != status
        case _:
            assert_never(kind)
