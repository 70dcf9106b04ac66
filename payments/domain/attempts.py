"""Whether to call Stripe for a command. Pure: no clock, no chance; `now` is the database's time.

One rule above all: what is not known is never failed. The same key and parameters go out again until Stripe has said
yes or no, or until the key is of no use any more: so old that Stripe may have forgotten it, or Stripe keeps a 5xx under
it. A new key then: for a capture or a cancel at once, for Stripe refuses to do either twice under whatever key; for a
PaymentIntent or a refund only once the reconciler has proved that the old key has done nothing.
"""

from datetime import datetime, timedelta
from enum import StrEnum
from typing import assert_never

import msgspec

from payments.domain.states import PaymentStatus

# Stripe forgets keys once they are 24 hours old; after that the same key charges a second time. An hour in hand covers
# the clocks of both sides and the longest call.
KEY_AGE_MAX = timedelta(hours=23)
# A cancel that was refused may be asked for again, but never in a tight circle with whoever asks.
CANCEL_AGAIN_S_MIN = 1.0
CANCEL_AGAIN_S_MAX = 300.0


class CallState(StrEnum):
    """How far an intended call has come; the words of payments.stripe_requests."""

    INTENDED = "intended"
    IN_FLIGHT = "in_flight"
    IN_DOUBT = "in_doubt"
    TO_RECONCILE = "to_reconcile"
    ANSWERED = "answered"
    PARKED = "parked"


class CallOutcome(StrEnum):
    """How an answered call came out: the first three are Stripe's word, the others ours."""

    ANSWERED = "answered"
    DECLINED = "declined"
    REFUSED = "refused"
    SETTLED = "settled"  # the answer came by another way
    WITHDRAWN = "withdrawn"  # never sent, and not wanted any more
    ADOPTED = "adopted"  # not ours at first: taken over from Stripe with its payment
    SUPERSEDED = "superseded"  # asked again under the next generation's key
    ABSENT = "absent"  # the reconciler's proof: nothing exists at Stripe under this key, so a new one may be used


class Call(msgspec.Struct, frozen=True):
    """What is known of the newest generation of a call that somebody intended before."""

    state: CallState
    attempts: int
    first_attempt_at: datetime | None
    outcome: str | None = None
    generation: int = 1
    answered_at: datetime | None = None

    @property
    def is_open(self) -> bool:
        """Whether its answer is still to come."""
        return self.state not in {CallState.ANSWERED, CallState.PARKED}

    @property
    def may_have_acted(self) -> bool:
        """Whether something may exist at Stripe because of it."""
        return self.outcome != CallOutcome.ABSENT and (self.attempts > 0 or not self.is_open)


class Attempt(msgspec.Struct, frozen=True):
    """Call Stripe, with the stored key and parameters, or with new ones when none are stored.

    `renews`: with the next generation's key, and parameters built anew.
    """

    renews: bool = False


class AlreadySettled(msgspec.Struct, frozen=True):
    """There is nothing left to ask for. `close_call`: the call's answer came by another way."""

    why: str
    close_call: bool


class VoidWithoutCall(msgspec.Struct, frozen=True):
    """The wish was taken back before anything was asked of Stripe."""


class Later(msgspec.Struct, frozen=True):
    """Not yet: the command stays in its queue for so many seconds."""

    after_s: float
    why: str


class Reconcile(msgspec.Struct, frozen=True):
    """Not blindly: the reconciler looks at Stripe, and says how it goes on."""

    why: str


class Park(msgspec.Struct, frozen=True):
    """This needs an operator."""

    why: str


class Unclaimed(msgspec.Struct, frozen=True):
    """The command names a payment or a refund that does not exist."""


Decision = Attempt | AlreadySettled | VoidWithoutCall | Later | Reconcile | Park | Unclaimed

# Nothing came of these, or nothing that stands in the way of asking again.
_RENEWED = frozenset({CallOutcome.ABSENT, CallOutcome.SUPERSEDED})


def decide_create(
    status: PaymentStatus | None,
    call: Call | None,
    now: datetime,
    *,
    has_intent: bool = False,
    asked_at: datetime | None = None,
) -> Decision:
    """What to do about the command to create a payment's PaymentIntent; `asked_at`: when the payment was accepted."""
    if status is None:
        return Unclaimed()
    if status not in {PaymentStatus.REQUESTED, PaymentStatus.VOIDING}:
        return _unwanted(f"the payment is {status}", call)
    if has_intent and (call is None or call.outcome in _RENEWED or not call.may_have_acted):
        # Whatever was proved: it is there, and neither a second one nor a void that forgets it may follow.
        return _unwanted("its PaymentIntent is known", call)
    if status is PaymentStatus.VOIDING and (call is None or not call.may_have_acted):
        return VoidWithoutCall()
    # VOIDING goes on, too: what the first attempt has made must be known before it can be cancelled.
    return _decide_wanted(call, now, is_repeatable=False, asked_at=asked_at)


def decide_capture(
    status: PaymentStatus | None, call: Call | None, now: datetime, *, is_current: bool, has_intent: bool
) -> Decision:
    """What to do about the command to capture; `is_current`: no later wish to capture has taken its place."""
    if status is None:
        return Unclaimed()
    if status is not PaymentStatus.CAPTURING:
        return _unwanted(f"the payment is {status}", call)
    if not is_current:
        return _unwanted("a later wish to capture took its place", call)
    if not has_intent:
        return Park("no PaymentIntent is known that could be captured")
    return _decide_wanted(call, now, is_repeatable=True)


def decide_cancel(  # noqa: PLR0913 - all that a cancel depends on
    status: PaymentStatus | None,
    call: Call | None,
    now: datetime,
    *,
    has_intent: bool,
    was_asked: bool,
    is_abandoned: bool,
) -> Decision:
    """What to do about the command to cancel a payment's PaymentIntent.

    `was_asked`: something may exist at Stripe, known or not. `is_abandoned`: nobody wished it, the customer is gone.
    """
    match status:
        case None:
            return Unclaimed()
        case PaymentStatus.VOIDING if not was_asked and not has_intent:
            return VoidWithoutCall()
        case PaymentStatus.VOIDING | PaymentStatus.FAILED | PaymentStatus.VOIDED | PaymentStatus.EXPIRED:
            wanted = True
        case PaymentStatus.ACTION_REQUIRED | PaymentStatus.REQUESTED:
            wanted = is_abandoned
        case (
            PaymentStatus.PROCESSING
            | PaymentStatus.AUTHORIZED
            | PaymentStatus.CAPTURING
            | PaymentStatus.SUCCEEDED
            | PaymentStatus.CONFLICTED
        ):
            wanted = False
        case _:
            assert_never(status)
    if not wanted:
        return _unwanted(f"the payment is {status}", call)
    if not has_intent:
        return _unwanted("no PaymentIntent is known yet; once it is, the recorder asks again", call)
    if call is not None and call.state is CallState.ANSWERED and call.outcome != CallOutcome.ANSWERED:
        return _cancel_again(call, now)
    return _decide_wanted(call, now, is_repeatable=True)


def _cancel_again(call: Call, now: datetime) -> Attempt | Later:
    """A cancel moves no money, and under the old key Stripe would only repeat its refusal."""
    pause_s = min(CANCEL_AGAIN_S_MAX, CANCEL_AGAIN_S_MIN * 2.0 ** min(call.generation - 1, 30))
    passed_s = pause_s if call.answered_at is None else (now - call.answered_at).total_seconds()
    if passed_s >= pause_s or call.outcome in _RENEWED:
        return Attempt(renews=True)
    return Later(min(pause_s, pause_s - passed_s), "refused a moment ago")


def decide_refund(  # noqa: PLR0913 - all that a refund depends on
    call: Call | None,
    now: datetime,
    *,
    exists: bool,
    is_requested: bool,
    has_intent: bool,
    asked_at: datetime | None = None,
) -> Decision:
    """What to do about the command to make a refund.

    `is_requested`: Stripe has not answered for it yet. `asked_at`: when it was asked for.
    """
    if not exists:
        return Unclaimed()
    if not is_requested:
        return _unwanted("the refund is not REQUESTED any more", call)
    if not has_intent:
        return Park("no PaymentIntent is known that could be refunded")
    return _decide_wanted(call, now, is_repeatable=False, asked_at=asked_at)


def _unwanted(why: str, call: Call | None) -> AlreadySettled:
    return AlreadySettled(why, close_call=call is not None and call.is_open)


def _decide_wanted(
    call: Call | None, now: datetime, *, is_repeatable: bool, asked_at: datetime | None = None
) -> Decision:
    """For a wish that stands; `is_repeatable`: Stripe does it at most once, under whatever key."""
    if call is None and asked_at is not None and now - asked_at >= KEY_AGE_MAX:
        # A restored backup may have lost the call, and Stripe its key.
        return Reconcile("asked for too long ago to be called for without looking")
    if call is None:
        return Attempt()
    decision: Decision
    match call.state:
        case CallState.ANSWERED if call.outcome in _RENEWED:
            decision = Attempt(renews=True)
        case CallState.ANSWERED | CallState.PARKED:
            decision = AlreadySettled(f"the call is {call.state}", close_call=False)
        case CallState.TO_RECONCILE if is_repeatable:
            decision = Attempt(renews=True)
        case CallState.TO_RECONCILE:
            decision = AlreadySettled("the reconciler has the call", close_call=False)
        case CallState.INTENDED | CallState.IN_FLIGHT | CallState.IN_DOUBT if not _is_too_old(call, now):
            decision = Attempt()
        case CallState.INTENDED | CallState.IN_FLIGHT | CallState.IN_DOUBT if is_repeatable:
            decision = Attempt(renews=True)
        case CallState.INTENDED | CallState.IN_FLIGHT | CallState.IN_DOUBT:
            decision = Reconcile("the key is too old to be used without looking")
        case _:
            assert_never(call.state)
    return decision


def _is_too_old(call: Call, now: datetime) -> bool:
    """Whether Stripe may have forgotten the key of a call that was sent."""
    return call.attempts > 0 and (call.first_attempt_at is None or now - call.first_attempt_at >= KEY_AGE_MAX)
