"""Every answer that is not a success, as one table: problem details of RFC 9457 with a stable type.

A handler raises `Refusal`, the app makes it the answer. docs/http-api.md explains each type; a test keeps both equal.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import msgspec
from litestar import Response

MEDIA_TYPE = "application/problem+json"
TYPE_PREFIX = "urn:payments:problem:"


class Kind(NamedTuple):
    """What all problems of one code have in common."""

    status: int
    title: str
    retryable: bool = False


PROBLEMS: Mapping[str, Kind] = MappingProxyType(
    {
        "malformed_request": Kind(400, "The request is not HTTP as it should be"),
        "malformed_json": Kind(400, "The body is not JSON"),
        "invalid_request": Kind(400, "The body breaks a rule"),
        "invalid_parameter": Kind(400, "A query parameter breaks a rule"),
        "invalid_idempotency_key": Kind(400, "The Idempotency-Key is not one"),
        "invalid_signature": Kind(400, "The webhook is not signed as Stripe signs"),
        "malformed_event": Kind(400, "The webhook holds no event"),
        "card_number_not_allowed": Kind(400, "Card numbers are not accepted here"),
        "api_key_missing": Kind(401, "An API key is needed"),
        "api_key_invalid": Kind(401, "The API key is not valid"),
        "payment_declined": Kind(402, "The payment failed"),
        "scope_missing": Kind(403, "The API key lacks a scope"),
        "not_found": Kind(404, "There is nothing here"),
        "payment_not_found": Kind(404, "There is no such payment"),
        "refund_not_found": Kind(404, "There is no such refund"),
        "method_not_allowed": Kind(405, "This path takes other methods"),
        "request_timeout": Kind(408, "The body did not arrive in time", retryable=True),
        "cart_has_live_payment": Kind(409, "The cart has a live payment"),
        "idempotency_in_progress": Kind(409, "The same request is still being worked on", retryable=True),
        "cart_in_progress": Kind(409, "Another request for the cart is still being worked on", retryable=True),
        "payment_in_progress": Kind(409, "The payment is still being worked on", retryable=True),
        "amount_exceeds_authorized": Kind(409, "More than was authorized"),
        "amount_exceeds_captured": Kind(409, "More than is left of what was captured"),
        "not_capturable": Kind(409, "The payment cannot be captured"),
        "not_refundable": Kind(409, "The payment cannot be refunded"),
        "not_voidable": Kind(409, "The payment cannot be voided"),
        "body_too_large": Kind(413, "The body is too large"),
        "unsupported_media_type": Kind(415, "The body must be plain JSON"),
        "idempotency_key_reused": Kind(422, "The Idempotency-Key was used for another request"),
        "too_many_requests": Kind(429, "Too many requests are being worked on", retryable=True),
        "headers_too_large": Kind(431, "The request's head is too large"),
        "internal_error": Kind(500, "The service made a mistake", retryable=True),
        "not_ready": Kind(503, "The service is not ready", retryable=True),
        "database_unavailable": Kind(503, "The database cannot be reached", retryable=True),
        "catching_up": Kind(503, "Stripe is being looked at after a restore", retryable=True),
        "outcome_unknown": Kind(503, "It is not known whether the request was recorded", retryable=True),
        "refund_outcome_unknown": Kind(503, "It is not known whether the refund was recorded"),
    }
)


class Fault(msgspec.Struct, frozen=True):
    """One thing wrong: where (a JSON Pointer into the body, `query:limit` or `header:Idempotency-Key`), and what."""

    pointer: str
    detail: str


class Problem(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """The body of an answer of application/problem+json."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    retryable: bool
    payment_id: str | None = None
    reason: str | None = None
    decline_code: str | None = None
    errors: tuple[Fault, ...] = ()


class Refusal(Exception):
    """Ends a request with the problem `code`; `particulars` are further fields of Problem."""

    def __init__(
        self,
        code: str,
        detail: str,
        *,
        headers: Mapping[str, str] | None = None,
        **particulars: Any,
    ) -> None:
        super().__init__(code)
        kind = PROBLEMS[code]
        self.headers = headers or {}
        self.problem = Problem(
            type=problem_type(code),
            title=kind.title,
            status=kind.status,
            detail=detail,
            code=code,
            retryable=kind.retryable,
            **particulars,
        )


def problem_type(code: str) -> str:
    """The stable identifier that stands in `type`."""
    return TYPE_PREFIX + code.replace("_", "-")


def to_response(refusal: Refusal) -> Response[bytes]:
    """The answer for a refusal."""
    return Response(
        msgspec.json.encode(refusal.problem),
        status_code=refusal.problem.status,
        media_type=MEDIA_TYPE,
        headers=dict(refusal.headers),
    )
