"""Stripe's error bodies.

StripeError
  one class for all of them; ``status``, ``type`` and ``code`` tell them apart
  (https://docs.stripe.com/api/errors).
"""

from __future__ import annotations

from typing import Any

Json = dict[str, Any]


class StripeError(Exception):
    """An answer other than 200.

    ``keeps_effects``: a declined charge is still recorded, so what the call did so far is committed.
    ``saved``: whether the idempotency layer keeps it; only what comes after execution began is kept
    (https://docs.stripe.com/api/idempotent_requests).
    """

    def __init__(  # noqa: PLR0913 - the attributes of https://docs.stripe.com/api/errors
        self,
        status: int,
        message: str,
        *,
        kind: str = "invalid_request_error",
        code: str | None = None,
        param: str | None = None,
        extra: Json | None = None,
        keeps_effects: bool = False,
        saved: bool = False,
        should_retry: bool | None = False,
    ) -> None:
        """Build the error; ``extra`` is merged into the body (``decline_code``, ``payment_intent``, …)."""
        super().__init__(message)
        self.status = status
        self.message = message
        self.kind = kind
        self.code = code
        self.param = param
        self.extra = extra or {}
        self.keeps_effects = keeps_effects
        self.saved = saved
        self.should_retry = should_retry

    def body(self, request_id: str) -> Json:
        """The error object; absent attributes are left out, as Stripe does."""
        error: Json = {}
        if self.code:
            error["code"] = self.code
            error["doc_url"] = doc_url(self.code)
        error["message"] = self.message
        if self.param is not None:
            error["param"] = self.param
        error["request_log_url"] = f"https://dashboard.stripe.com/test/logs/{request_id}"
        error["type"] = self.kind
        error.update(self.extra)
        return {"error": error}


def doc_url(code: str) -> str:
    """Where Stripe documents an error code (https://docs.stripe.com/error-codes)."""
    return f"https://docs.stripe.com/error-codes#{code.replace('_', '-')}"


def invalid(message: str, *, code: str | None = None, param: str | None = None) -> StripeError:
    """A request refused by validation, before execution: the idempotency layer forgets it."""
    return StripeError(400, message, code=code, param=param)


def refused(message: str, *, code: str | None = None, param: str | None = None, **extra: Any) -> StripeError:
    """A request refused while executing, for example for the object's state: it is replayed under its key."""
    return StripeError(400, message, code=code, param=param, extra=extra, saved=True)


def missing(noun: str, identifier: str, param: str, *, status: int = 400) -> StripeError:
    """``resource_missing`` (https://docs.stripe.com/error-codes#resource-missing): 404 for the path's own id."""
    return StripeError(status, f"No such {noun}: '{identifier}'", code="resource_missing", param=param, saved=True)


def declined(message: str, code: str, decline_code: str | None, **extra: Any) -> StripeError:
    """402 ``card_error`` (https://docs.stripe.com/declines); what it recorded stays recorded."""
    more = {key: value for key, value in extra.items() if value is not None and key != "param"}
    if decline_code:
        more["decline_code"] = decline_code
    return StripeError(
        402,
        message,
        kind="card_error",
        code=code,
        param=extra.get("param"),
        extra=more,
        keeps_effects=True,
        saved=True,
    )


def key_in_use(key: str) -> StripeError:
    """409 while the first request still runs (https://docs.stripe.com/error-low-level, 409 Conflict)."""
    text = (
        "There is currently another in-progress request using this Idempotent Key (that probably means you submitted "
        f"twice, and the other request is still going through): {key}. Please try again later."
    )
    return StripeError(409, text, kind="idempotency_error", code="idempotency_key_in_use", should_retry=True)


def lock_timeout() -> StripeError:
    """429 on an object another request holds (https://docs.stripe.com/rate-limits#object-lock-timeouts)."""
    text = (
        "This object cannot be accessed right now because another API request or Stripe process is currently accessing "
        "it. If you see this error intermittently, retry the request. If you see this error frequently and are making "
        "multiple concurrent requests to a single object, make your requests serially or at a lower rate. For more "
        "details, see https://stripe.com/docs/rate-limits#object-lock-timeouts."
    )
    return StripeError(429, text, code="lock_timeout", should_retry=True)


def rate_limited() -> StripeError:
    """429 (https://docs.stripe.com/rate-limits); the limiter stands before the idempotency layer."""
    text = (
        "Testmode request rate limit exceeded, the rate limits in testmode are lower than livemode. You can learn more "
        "about rate limits here https://stripe.com/docs/rate-limits."
    )
    return StripeError(429, text, code="rate_limit", should_retry=None)


def server_error(status: int = 500) -> StripeError:
    """5xx (https://docs.stripe.com/error-low-level#server-errors): the outcome is indeterminate."""
    text = "An unknown error occurred. Please contact support@stripe.com if the problem persists."
    return StripeError(status, text, kind="api_error", saved=status == 500, should_retry=status != 500)
