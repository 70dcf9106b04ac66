"""What the API offers, as data: the operations of the OpenAPI page."""

from typing import Any, NamedTuple

from payments.api.authentication import READ_PAYMENTS, WRITE_PAYMENTS
from payments.api.headers import WAIT_S_MAX
from payments.api.idempotency import KEY_CHARACTERS_MAX
from payments.api.reading import ITEMS_DEFAULT, ITEMS_MAX
from payments.domain.states import PaymentStatus

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


def _ref(name: str) -> dict[str, Any]:
    return {"$ref": f"#/components/schemas/{name}"}


def _parameter(where: str, name: str, description: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"in": where, "name": name, "description": description, "required": where == "path", "schema": schema}


_UUID = {"type": "string", "format": "uuid"}
_PAYMENT_ID = _parameter("path", "paymentId", "The payment.", _UUID)
_REQUEST_ID = _parameter(
    "header", "X-Request-Id", "An id of the caller's own for this request; 128 characters at most.", {"type": "string"}
)
_TRACEPARENT = _parameter("header", "traceparent", "W3C Trace Context; goes on into the events.", {"type": "string"})
_KEY = _parameter(
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
_PREFER = _parameter(
    "header",
    "Prefer",
    f"`wait=N` (RFC 7240): let the answer wait until the payment has settled, N seconds at most, {WAIT_S_MAX} at most.",
    {"type": "string"},
)
_SIGNATURE = _parameter(
    "header", "Stripe-Signature", "Stripe's signature over the raw body: `t=…,v1=…`.", {"type": "string"}
)
_IF_NONE_MATCH = _parameter("header", "If-None-Match", "ETags that the caller knows.", {"type": "string"})
_WAIT = _parameter(
    "query",
    "wait",
    "Let the answer wait until the payment has settled, so many seconds at most.",
    {"type": "integer", "minimum": 0, "maximum": WAIT_S_MAX},
)

_ANYWHERE = ("malformed_request", "card_number_not_allowed", "headers_too_large", "internal_error")
_WITH_KEY = (
    *_ANYWHERE,
    "invalid_parameter",
    "api_key_missing",
    "api_key_invalid",
    "scope_missing",
    "too_many_requests",
    "database_unavailable",
)

OPERATIONS = (
    Operation(
        "POST",
        "/payments/authorize",
        "authorizePayment",
        "Authorize the payment of a cart",
        "Payments",
        (
            Answer(
                201,
                "The payment was recorded, now or under this key before. REQUESTED, unless the answer waited.",
                _ref("Payment"),
                ("Location", "Idempotency-Replayed", "Preference-Applied"),
            ),
            Answer(
                200,
                "Without a key: the cart's live payment, made by the same body before.",
                _ref("Payment"),
                ("Location", "Preference-Applied"),
            ),
        ),
        (
            *_WITH_KEY,
            "malformed_json",
            "invalid_request",
            "invalid_idempotency_key",
            "payment_declined",
            "request_timeout",
            "cart_has_live_payment",
            "cart_in_progress",
            "idempotency_in_progress",
            "body_too_large",
            "unsupported_media_type",
            "idempotency_key_reused",
            "outcome_unknown",
        ),
        (_KEY, _PREFER, _TRACEPARENT, _REQUEST_ID),
        WRITE_PAYMENTS,
        "AuthorizePayment",
    ),
    Operation(
        "GET",
        "/payments",
        "listPayments",
        "List payments, the newest first",
        "Payments",
        (Answer(200, "A page.", _ref("PaymentPage")),),
        _WITH_KEY,
        (
            _parameter("query", "cartId", "Only payments of this cart.", _UUID),
            _parameter("query", "orderId", "Only payments of this order.", _UUID),
            _parameter("query", "customerId", "Only payments of this customer.", _UUID),
            _parameter(
                "query", "status", "Only payments in this state.", {"type": "string", "enum": list(PaymentStatus)}
            ),
            _parameter(
                "query", "cursor", "`nextCursor` of the page before, with the same filters.", {"type": "string"}
            ),
            _parameter(
                "query",
                "limit",
                "How many.",
                {"type": "integer", "minimum": 1, "maximum": ITEMS_MAX, "default": ITEMS_DEFAULT},
            ),
            _REQUEST_ID,
        ),
        READ_PAYMENTS,
    ),
    Operation(
        "GET",
        "/payments/{paymentId}",
        "getPayment",
        "Read a payment, at once or when it has settled",
        "Payments",
        (
            Answer(200, "The payment.", _ref("Payment"), ("ETag",)),
            Answer(304, "The caller's version is the current one.", None, ("ETag",)),
        ),
        (*_WITH_KEY, "payment_not_found"),
        (_PAYMENT_ID, _WAIT, _IF_NONE_MATCH, _REQUEST_ID),
        READ_PAYMENTS,
    ),
    Operation(
        "GET",
        "/payments/{paymentId}/history",
        "getPaymentHistory",
        "Why a payment is where it is",
        "Payments",
        (Answer(200, "Every signal and what was decided on it.", _ref("HistoryPage")),),
        (*_WITH_KEY, "payment_not_found"),
        (_PAYMENT_ID, _REQUEST_ID),
        READ_PAYMENTS,
    ),
    Operation(
        "POST",
        "/webhooks/stripe",
        "stripeWebhook",
        "Take an event from Stripe",
        "Stripe",
        (Answer(200, "The event is committed, by this delivery or an earlier one.", _ref("WebhookReceipt")),),
        (
            *_ANYWHERE,
            "invalid_signature",
            "malformed_event",
            "request_timeout",
            "body_too_large",
            "too_many_requests",
            "database_unavailable",
        ),
        (_SIGNATURE,),
        body="StripeEvent",
    ),
    Operation(
        "GET",
        "/health/live",
        "live",
        "Whether the process lives",
        "Operation",
        (Answer(200, "It does.", _ref("Health")),),
        _ANYWHERE,
    ),
    Operation(
        "GET",
        "/health/ready",
        "ready",
        "Whether requests can be worked on",
        "Operation",
        (Answer(200, "They can: the database answers and has this release's schema.", _ref("Health")),),
        (*_ANYWHERE, "not_ready"),
    ),
    Operation(
        "GET",
        "/metrics",
        "metrics",
        "Metrics for Prometheus",
        "Operation",
        (Answer(200, "Text exposition format.", {"type": "string"}, media_type="text/plain"),),
        _ANYWHERE,
    ),
    Operation(
        "GET",
        "/schema",
        "schemaPage",
        "This page, for people",
        "Operation",
        (
            Answer(
                200, "HTML without scripts, needing nothing from elsewhere.", {"type": "string"}, media_type="text/html"
            ),
        ),
        (*_ANYWHERE, "too_many_requests"),
    ),
    Operation(
        "GET",
        "/schema/openapi.json",
        "schemaDocument",
        "This page, for programs",
        "Operation",
        (Answer(200, "OpenAPI 3.1.", {"type": "object"}),),
        (*_ANYWHERE, "too_many_requests"),
    ),
)
