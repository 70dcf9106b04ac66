"""What follows on the outcome of a call: Stripe's word is recorded, silence is met with the same key again. Pure."""

from collections.abc import Callable
from typing import assert_never

import msgspec

from payments.domain.attempts import CallOutcome, Park, Reconcile
from payments.domain.declines import is_about_payment
from payments.domain.facts import ErrorFacts, read_error
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

# Seconds to the next attempt while the outcome is unknown: doubling from one to five minutes, for up to 23 hours.
UNKNOWN_RETRY_S_MIN = 1.0
UNKNOWN_RETRY_S_MAX = 300.0
# Nothing was done: the limiter or another call under the key is in the way, and soon is not.
BUSY_RETRY_S_MIN = 1.0
BUSY_RETRY_S_MAX = 30.0
# The breaker holds back everybody until a probe shows that our key is taken again; the backlog is due by then.
UNAUTHORIZED_RETRY_S = 2.0


class CallRules(msgspec.Struct, frozen=True):
    """What distinguishes one operation's outcomes from another's.

    `is_repeatable`: Stripe does it at most once, under whatever key. `is_about_wish`: which refusals are about the wish
    or the state of things, and so an answer; any other shows a fault of ours.
    """

    is_repeatable: bool
    is_about_wish: Callable[[ErrorFacts], bool]


def _about(parameters: frozenset[str], codes: frozenset[str]) -> Callable[[ErrorFacts], bool]:
    return lambda error: error.parameter in parameters or error.code in codes


# https://docs.stripe.com/error-codes
_ABOUT_THE_STATE = frozenset(
    {
        "capture_charge_authorization_expired",
        "capture_unauthorized_payment",
        "charge_already_captured",
        "charge_already_refunded",
        "charge_disputed",
        "charge_expired_for_capture",
        "charge_not_refundable",
        "intent_invalid_state",
        "payment_intent_action_required",
        "payment_intent_authentication_failure",
        "payment_intent_payment_attempt_expired",
        "payment_intent_payment_attempt_failed",
        "payment_intent_unexpected_state",
        "refund_disputed_payment",
    }
)
_ABOUT_THE_AMOUNT = frozenset({"amount_too_large", "amount_too_small", "invalid_charge_amount"})

CREATE_RULES = CallRules(is_repeatable=False, is_about_wish=is_about_payment)
CAPTURE_RULES = CallRules(
    is_repeatable=True,
    is_about_wish=_about(frozenset({"amount_to_capture"}), _ABOUT_THE_STATE | _ABOUT_THE_AMOUNT),
)
CANCEL_RULES = CallRules(is_repeatable=True, is_about_wish=_about(frozenset(), _ABOUT_THE_STATE))
# "Refund amount is greater than unrefunded amount" comes without a code, and names `amount`; that nothing was charged
# likewise, and names `payment_intent`.
REFUND_RULES = CallRules(
    is_repeatable=False,
    is_about_wish=_about(frozenset({"amount", "charge", "payment_intent"}), _ABOUT_THE_STATE | _ABOUT_THE_AMOUNT),
)
# That Stripe does not know an object which our books name is no answer to a wish: another account, or a bug.
_OBJECTS_OF_OURS = frozenset({"charge", "id", "intent", "payment_intent"})
_MISSING = "resource_missing"


class Record(msgspec.Struct, frozen=True):
    """Stripe's word: keep it for the recorder. `outcome` is answered, declined or refused."""

    outcome: CallOutcome


class Retry(msgspec.Struct, frozen=True):
    """Again after so many seconds, with the same key.

    Unless it `burns`, the attempt is not counted, but the count stays at `attempts_min`: from 1 on something may have
    been done at Stripe, at 0 certainly nothing was.
    """

    after_s: float
    why: str
    burns: bool
    attempts_min: int = 0


class Renew(msgspec.Struct, frozen=True):
    """Again after so many seconds, with a new key: under the old one Stripe only repeats itself."""

    after_s: float
    why: str


Next = Record | Retry | Renew | Reconcile | Park


def decide_next(outcome: Outcome, attempts: int, deliveries: int, jitter: float, rules: CallRules) -> Next:
    """What follows on an outcome; `attempts` at Stripe and `deliveries` of the command count from 1, 0 ≤ jitter < 1."""
    result: Next
    match outcome:
        case Answered():
            result = Record(CallOutcome.ANSWERED)
        case Declined():
            result = Record(CallOutcome.DECLINED)
        case Refused():
            result = _decide_refused(outcome, rules)
        case KeyMisused():
            result = Park("the key was used with other parameters")
        case KeyInUse():
            # The other call under this key may well do something.
            result = Retry(_busy_s(deliveries, jitter), "key in use", burns=False, attempts_min=1)
        case RateLimited():
            after_s = max(_busy_s(deliveries, jitter), outcome.retry_after_s or 0.0)
            result = Retry(after_s, f"rate limited: {outcome.code or 'no code'}", burns=False)
        case Unauthorized():
            after_s = UNAUTHORIZED_RETRY_S * (1 + jitter)
            result = Retry(after_s, f"unauthorized: HTTP {outcome.http_status}", burns=False)
        case Unknown(is_replayed=True):
            why = f"Stripe keeps repeating: {outcome.why}"
            after_s = _doubling(UNKNOWN_RETRY_S_MIN, UNKNOWN_RETRY_S_MAX, deliveries, jitter)
            result = Renew(after_s, why) if rules.is_repeatable else Reconcile(why)
        case Unknown():
            after_s = _doubling(UNKNOWN_RETRY_S_MIN, UNKNOWN_RETRY_S_MAX, attempts, jitter)
            result = Retry(after_s, f"unknown: {outcome.why}", burns=True)
        case _:
            assert_never(outcome)
    return result


def _decide_refused(outcome: Refused, rules: CallRules) -> Record | Park:
    error = read_error(outcome.error) or ErrorFacts()
    is_missing_ours = error.code == _MISSING and error.parameter in _OBJECTS_OF_OURS
    if rules.is_about_wish(error) and not is_missing_ours:
        return Record(CallOutcome.REFUSED)
    return Park(f"refused: HTTP {outcome.http_status} {error.code or ''} {error.param or ''}".rstrip())


def _busy_s(deliveries: int, jitter: float) -> float:
    return _doubling(BUSY_RETRY_S_MIN, BUSY_RETRY_S_MAX, deliveries, jitter)


def _doubling(least_s: float, most_s: float, count: int, jitter: float) -> float:
    """Half to all of a time that doubles with each try: spread, so that what failed together comes back apart."""
    exponent = min(max(count, 1) - 1, 30)  # 2**30 is beyond every maximum
    return min(most_s, least_s * 2.0**exponent) * (0.5 + jitter / 2)
