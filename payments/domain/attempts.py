"""Whether to call Stripe for a command, and what an outcome means for the next attempt. Pure: no clock, no chance.

One rule above all: what is not known is never failed. The same key and parameters go out again until Stripe has said
yes or no, or until the key is so old that Stripe may have forgotten it; then the reconciler looks before anybody calls.
"""

from datetime import datetime, timedelta
from enum import StrEnum
from typing import assert_never

import msgspec

from payments.domain.states import PaymentStatus
from payments.stripe_gateway.outcomes import (
    Answered,
    Declined,
    KeyInUse,
    KeyMisused,
    Outcome,
    RateLimited,
    Refused,
    Unauthorized,
    Unknown,
)

# Stripe forgets keys once they are 24 hours old; after that the same key charges a second time. An hour in hand covers
# the clocks of both sides and the longest call.
KEY_AGE_MAX = timedelta(hours=23)
# Seconds to the next attempt while the outcome is unknown: doubling from one to five minutes, for up to 23 hours.
UNKNOWN_RETRY_S_MIN = 1.0
UNKNOWN_RETRY_S_MAX = 300.0
# Nothing was done: the limiter or another call under the key is in the way, and soon is not.
BUSY_RETRY_S_MIN = 1.0
BUSY_RETRY_S_MAX = 30.0
# The breaker holds back everybody until a probe shows that our key is taken again; the backlog is due by then.
UNAUTHORIZED_RETRY_S = 2.0

# What the caller's wish, and not our code, can be wrong about (https://docs.stripe.com/error-codes).
WISH_PARAMETERS = frozenset({"payment_method", "customer", "amount", "currency"})
WISH_CODES = frozenset(
    {
        "amount_too_large",
        "amount_too_small",
        "invalid_charge_amount",
        "payment_intent_incompatible_payment_method",
        "payment_method_customer_decline",
        "payment_method_invalid_parameter",
        "payment_method_provider_decline",
        "payment_method_unactivated",
        "payment_method_unexpected_state",
        "payment_method_unsupported_type",
    }
)


class CallState(StrEnum):
    """How far an intended call has come; the words of payments.stripe_requests."""

    INTENDED = "intended"
    IN_FLIGHT = "in_flight"
    IN_DOUBT = "in_doubt"
    ANSWERED = "answered"
    PARKED = "parked"


class Call(msgspec.Struct, frozen=True):
    """What is known of a call that somebody intended before."""

    state: CallState
    attempts: int
    first_attempt_at: datetime | None


class Attempt(msgspec.Struct, frozen=True):
    """Call Stripe, with the stored key and parameters, or with new ones when none are stored."""


class AlreadySettled(msgspec.Struct, frozen=True):
    """There is nothing left to ask for. `close_call`: the call's answer came by another way."""

    why: str
    close_call: bool


class VoidWithoutCall(msgspec.Struct, frozen=True):
    """The wish was taken back before anything was asked of Stripe."""


class Park(msgspec.Struct, frozen=True):
    """Not blindly: this waits for the reconciler (`dead_letter` False) or for an operator."""

    why: str
    dead_letter: bool


class Unclaimed(msgspec.Struct, frozen=True):
    """The command names a payment that does not exist."""


Decision = Attempt | AlreadySettled | VoidWithoutCall | Park | Unclaimed


class Record(msgspec.Struct, frozen=True):
    """Stripe's word: keep it for the recorder. `outcome` is answered, declined or refused."""

    outcome: str


class Retry(msgspec.Struct, frozen=True):
    """Again after so many seconds, with the same key.

    Unless it `burns`, the attempt is not counted, but the count stays at `attempts_min`: from 1 on something may have
    been done at Stripe, at 0 certainly nothing was.
    """

    after_s: float
    why: str
    burns: bool
    attempts_min: int = 0


Next = Record | Retry | Park


def decide_attempt(status: PaymentStatus | None, call: Call | None, now: datetime) -> Decision:
    """What to do about the command to create a payment's PaymentIntent; `now` is the database's time."""
    if status is None:
        return Unclaimed()
    if call is not None and call.state in {CallState.ANSWERED, CallState.PARKED}:
        return AlreadySettled(f"the call is {call.state}", close_call=False)
    if status not in {PaymentStatus.REQUESTED, PaymentStatus.VOIDING}:
        return AlreadySettled(f"the payment is {status}", close_call=call is not None)
    if call is None or call.attempts == 0:
        return VoidWithoutCall() if status is PaymentStatus.VOIDING else Attempt()
    # VOIDING goes on, too: what the first attempt has made must be known before it can be cancelled.
    if call.first_attempt_at is None or now - call.first_attempt_at >= KEY_AGE_MAX:
        return Park("the key is too old to be used without looking", dead_letter=False)
    return Attempt()


def decide_next(outcome: Outcome, attempts: int, deliveries: int, jitter: float) -> Next:
    """What follows on an outcome; `attempts` at Stripe and `deliveries` of the command count from 1, 0 ≤ jitter < 1."""
    result: Next
    match outcome:
        case Answered():
            result = Record("answered")
        case Declined():
            result = Record("declined")
        case Refused():
            result = _decide_refused(outcome)
        case KeyMisused():
            result = Park("the key was used with other parameters", dead_letter=True)
        case KeyInUse():
            # The other call under this key may well do something.
            result = Retry(_busy_s(deliveries, jitter), "key in use", burns=False, attempts_min=1)
        case RateLimited():
            after_s = max(_busy_s(deliveries, jitter), outcome.retry_after_s or 0.0)
            result = Retry(after_s, f"rate limited: {outcome.code or 'no code'}", burns=False)
        case Unauthorized():
            after_s = UNAUTHORIZED_RETRY_S * (1 + jitter)
            result = Retry(after_s, f"unauthorized: HTTP {outcome.http_status}", burns=False)
        case Unknown():
            after_s = _doubling(UNKNOWN_RETRY_S_MIN, UNKNOWN_RETRY_S_MAX, attempts, jitter)
            result = Retry(after_s, f"unknown: {outcome.why}", burns=True)
        case _:
            assert_never(outcome)
    return result


def _decide_refused(outcome: Refused) -> Record | Park:
    param, code = outcome.error.get("param"), outcome.error.get("code")
    # Stripe names nested parameters like payment_method[card].
    name = param.split("[", 1)[0] if isinstance(param, str) else None
    if name in WISH_PARAMETERS or (isinstance(code, str) and code in WISH_CODES):
        return Record("refused")
    return Park(f"refused: HTTP {outcome.http_status} {code or ''} {param or ''}".rstrip(), dead_letter=True)


def _busy_s(deliveries: int, jitter: float) -> float:
    return _doubling(BUSY_RETRY_S_MIN, BUSY_RETRY_S_MAX, deliveries, jitter)


def _doubling(least_s: float, most_s: float, count: int, jitter: float) -> float:
    """Half to all of a time that doubles with each try: spread, so that what failed together comes back apart."""
    exponent = min(max(count, 1) - 1, 30)  # 2**30 is beyond every maximum
    return min(most_s, least_s * 2.0**exponent) * (0.5 + jitter / 2)
