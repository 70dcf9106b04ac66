"""What the operations of the OpenAPI page are made of: their shape, and the parameters and problems that they share."""

from typing import Any, NamedTuple

from payments.api.headers import WAIT_S_MAX
from payments.api.idempotency import KEY_CHARACTERS_MAX

JSON = "application/json"


class Answer(NamedTuple):
    """A success."""

    status: int
    description: str
    schema: dict[str, Any] | None
    headers: tuple[str, ...] = ()
    media_type: str = JSON


class Operation(NamedTuple):
    """One method of one path."""

    method: str
    path: str
    name: str
    summary: str
    tag: str
    answers: tuple[Answer, ...]
    problems: tuple[str, ...]
    parameters: tuple[dict[str, Any], ...] = ()
    scopes: tuple[str, ...] = ()
    body: str | None = None
    is_body_required: bool = True


def ref(name: str) -> dict[str, Any]:
    """A schema among the page's components."""
    return {"$ref": f"#/components/schemas/{name}"}


def parameter(where: str, name: str, description: str, schema: dict[str, Any]) -> dict[str, Any]:
    """A parameter; those of the path are required."""
    return {"in": where, "name": name, "description": description, "required": where == "path", "schema": schema}


UUID = {"type": "string", "format": "uuid"}
PAYMENT_ID = parameter("path", "paymentId", "The payment.", UUID)
REFUND_ID = parameter("path", "refundId", "The refund.", UUID)
CUSTOMER_ID = parameter("path", "customerId", "The customer.", UUID)
REQUEST_ID = parameter(
    "header", "X-Request-Id", "An id of the caller's own for this request; 128 characters at most.", {"type": "string"}
)
TRACEPARENT = parameter("header", "traceparent", "W3C Trace Context; goes on into the events.", {"type": "string"})
KEY = parameter(
    "header",
    "Idempotency-Key",
    "The same key and body get the same answer, and take effect once. Visible ASCII, bare or as a quoted string; "
    "a random UUID is best.",
    {
        "type": "string",
        "minLength": 1,
        "maxLength": KEY_CHARACTERS_MAX,
        "pattern": "^[\\x21\\x23-\\x7e][\\x21-\\x7e]*$",
    },
)
PREFER = parameter(
    "header",
    "Prefer",
    f"`wait=N` (RFC 7240): answer when the payment or refund has settled, or after N seconds; {WAIT_S_MAX} at most.",
    {"type": "string"},
)
SIGNATURE = parameter(
    "header", "Stripe-Signature", "Stripe's signature over the raw body: `t=…,v1=…`.", {"type": "string"}
)
IF_NONE_MATCH = parameter("header", "If-None-Match", "ETags that the caller knows.", {"type": "string"})
WAIT = parameter(
    "query",
    "wait",
    "Let the answer wait until the payment has settled, so many seconds at most.",
    {"type": "integer", "minimum": 0, "maximum": WAIT_S_MAX},
)

ANYWHERE = ("malformed_request", "card_number_not_allowed", "headers_too_large", "internal_error")
WITH_KEY = (
    *ANYWHERE,
    "invalid_parameter",
    "api_key_missing",
    "api_key_invalid",
    "scope_missing",
    "too_many_requests",
    "database_unavailable",
)
WISH = (
    *WITH_KEY,
    "malformed_json",
    "invalid_request",
    "invalid_idempotency_key",
    "payment_not_found",
    "request_timeout",
    "idempotency_in_progress",
    "payment_in_progress",
    "body_too_large",
    "unsupported_media_type",
    "idempotency_key_reused",
    "catching_up",
    "outcome_unknown",
)
