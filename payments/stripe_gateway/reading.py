"""Which outcome an answer of Stripe's is: pure, and total over every status and body.

Follows https://docs.stripe.com/error-low-level and https://docs.stripe.com/api/errors.
"""

from payments.stripe_gateway.outcomes import (
    Answered,
    Declined,
    KeyInUse,
    KeyMisused,
    Outcome,
    RateLimited,
    Refused,
    StripeObject,
    Unauthorized,
    Unknown,
)

RETRY_AFTER_S_MAX = 300.0  # longer is a mistake, or a date in a form nobody uses
# 408: Stripe gave up waiting for the request. 424: something that Stripe depends on failed. Neither says what was done.
_DOUBTFUL_4XX = frozenset({408, 424})


def read_answer(  # noqa: PLR0913 - the parts of an answer
    status: int,
    content: StripeObject | None,
    request_id: str | None,
    *,
    why: str,
    retry_after: str | None = None,
    is_replayed: bool = False,
) -> Outcome:
    """The outcome of a status and a body; `content` is None when the body could not be read, for the reason `why`.

    `is_replayed`: the answer is the one that Stripe keeps under the idempotency key.
    """
    error = _error_of(content)
    code = _word(error, "code")
    match status:
        case 401 | 403:
            # No body is needed to know it: whoever refuses the key executed nothing.
            return Unauthorized(status, _word(error, "message") or why, request_id)
        case 429:
            return RateLimited(code, request_id, _seconds(retry_after))
        case 409:
            # Stripe's only 409 is another request under the same key; it did nothing for this one.
            return KeyInUse(request_id)
        case _ if 200 <= status < 300 and content is not None:
            return _read_object(status, content, request_id)
        case _ if 400 <= status < 500 and error is not None and status not in _DOUBTFUL_4XX:
            return _read_refusal(status, error, code, request_id, retry_after)
        case _:
            # A 2xx is no doubt that Stripe keeps: its body was lost on the way, and the next replay may bring it.
            return Unknown(why, status, request_id, is_replayed=is_replayed and not 200 <= status < 300)


def _read_object(status: int, content: StripeObject, request_id: str | None) -> Outcome:
    # Every resource of Stripe's names its type: anything else with a 2xx came from somebody in between.
    if not isinstance(content.get("object"), str):
        return Unknown("2xx without a Stripe object", status, request_id)
    return Answered(content, status, request_id)


def _read_refusal(
    status: int, error: StripeObject, code: str | None, request_id: str | None, retry_after: str | None
) -> Outcome:
    if code in {"rate_limit", "lock_timeout"}:  # earlier API versions sent these with 400
        return RateLimited(code, request_id, _seconds(retry_after))
    if _word(error, "type") == "idempotency_error":
        return KeyMisused(_word(error, "message") or "idempotency_error", request_id)
    if status == 402:
        return Declined(error, request_id)
    return Refused(error, status, request_id)


def _error_of(content: StripeObject | None) -> StripeObject | None:
    error = content.get("error") if content is not None else None
    return error if isinstance(error, dict) else None


def _word(error: StripeObject | None, name: str) -> str | None:
    value = error.get(name) if error is not None else None
    return value if isinstance(value, str) else None


def _seconds(text: str | None) -> float | None:
    try:
        seconds = float(text or "")
    except ValueError:
        return None
    return seconds if 0 <= seconds <= RETRY_AFTER_S_MAX else None  # also refuses NaN
