"""What a call to Stripe can come to: a closed set, so that no answer is ever taken for another.

Only `Answered`, `Declined` and `Refused` are Stripe's word on the matter. Everything else leaves open what happened and
says how to go on: with the same key. Nothing here ever means 'failed' for want of an answer.
"""

from typing import Any

import msgspec

StripeObject = dict[str, Any]


class Answered(msgspec.Struct, frozen=True):
    """2xx: the object as Stripe sent it."""

    object: StripeObject
    http_status: int
    request_id: str | None


class Declined(msgspec.Struct, frozen=True):
    """402: the card was declined. `error` is Stripe's error body, usually with the PaymentIntent inside."""

    error: StripeObject
    request_id: str | None
    http_status: int = 402


class Refused(msgspec.Struct, frozen=True):
    """Any other 4xx that is final (400, 404): nothing was done. `error` says which parameter was at fault."""

    error: StripeObject
    http_status: int
    request_id: str | None


class KeyMisused(msgspec.Struct, frozen=True):
    """400 idempotency_error: the same key with other parameters. Our bug: park the call, never take a new key."""

    message: str
    request_id: str | None


class KeyInUse(msgspec.Struct, frozen=True):
    """409: another call under this key is under way. Back off, same key."""

    request_id: str | None


class RateLimited(msgspec.Struct, frozen=True):
    """429, also lock_timeout: nothing was done. Slow down, same key; no attempt is burnt."""

    code: str | None
    request_id: str | None
    retry_after_s: float | None = None


class Unauthorized(msgspec.Struct, frozen=True):
    """401 or 403: our API key is refused. Stop calling and raise an alarm; no payment is at fault."""

    http_status: int
    message: str
    request_id: str | None


class Unknown(msgspec.Struct, frozen=True):
    """Timeout, broken connection, 5xx, or an answer nobody can read: it may have been done or not. Same key again.

    `is_replayed`: Stripe only repeated what it had answered under this key before; it says nothing of Stripe today.
    """

    why: str
    http_status: int | None = None
    request_id: str | None = None
    is_replayed: bool = False


Outcome = Answered | Declined | Refused | KeyMisused | KeyInUse | RateLimited | Unauthorized | Unknown
