"""The OpenAPI 3.1 page, written out: every route, every answer, every problem.

It is not derived from the handlers, since those read raw requests to be strict; tests hold it against the routes, and
against what the API really answers.
"""

from importlib.metadata import version
from typing import Any

import msgspec

from payments.api import schemas
from payments.api.operation_parts import Answer, Operation
from payments.api.operations import OPERATIONS
from payments.api.problems import MEDIA_TYPE, PROBLEMS, Problem
from payments.domain.money import CURRENCIES, Currency

REF = "#/components/schemas/{name}"
COMPONENTS = (
    schemas.AuthorizePayment,
    schemas.Payment,
    schemas.PaymentPage,
    schemas.CapturePayment,
    schemas.VoidPayment,
    schemas.RefundPayment,
    schemas.Refund,
    schemas.RefundList,
    schemas.SavePaymentMethod,
    schemas.HistoryPage,
    schemas.Health,
    schemas.StripeEvent,
    schemas.WebhookReceipt,
    Problem,
)
DESCRIPTION = """Takes payments with Stripe, exactly once.

A request is recorded first and worked on afterwards, so a new payment is REQUESTED; `Prefer: wait=N` lets the answer
wait for the outcome. Send an `Idempotency-Key` with every POST and repeat the request, unchanged, whenever it is not
answered or the problem says `retryable`: it takes effect once. Every answer carries `X-Request-Id`. Paths that do not
exist answer 404 `not_found`, other methods 405 `method_not_allowed`."""


def document() -> dict[str, Any]:
    """The whole page as JSON values."""
    _, components = msgspec.json.schema_components(COMPONENTS, ref_template=REF)
    components["AuthorizePayment"]["allOf"] = _currency_rules()
    paths: dict[str, dict[str, Any]] = {}
    for operation in OPERATIONS:
        paths.setdefault(operation.path, {})[operation.method.lower()] = _operation(operation)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Payments",
            "version": version("payment-processing-system"),
            "summary": "Takes payments with Stripe, exactly once.",
            "description": DESCRIPTION,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {
                "apiKey": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "An API key, from `payments keys create`. Each route names the scopes that open it.",
                }
            },
            "headers": {
                "X-Request-Id": _header("The caller's X-Request-Id, or a fresh one; it stands in our log."),
                "Location": _header("Where the payment or refund is to be read."),
                "ETag": _header("The payment's version."),
                "Idempotency-Replayed": _header("`true`: this was answered before, under the same Idempotency-Key."),
                "Preference-Applied": _header("`wait=N`, when the answer waited."),
                "WWW-Authenticate": _header("What the API key lacks."),
                "Retry-After": _header("Seconds after which to try again."),
            },
        },
    }


def _currency_rules() -> list[dict[str, Any]]:
    """What each currency demands of the amount, in JSON Schema."""
    codes: dict[Currency, list[str]] = {}
    for code, currency in CURRENCIES.items():
        codes.setdefault(currency, []).append(code)
    return [
        {
            "if": {"properties": {"currency": {"enum": codes[rule]}}, "required": ["currency"]},
            "then": {"properties": {"amount": {"minimum": rule.minimum, "multipleOf": rule.step}}},
        }
        for rule in sorted(codes)
    ]


def _header(description: str) -> dict[str, Any]:
    return {"description": description, "schema": {"type": "string"}}


def _operation(operation: Operation) -> dict[str, Any]:
    answers = {str(answer.status): _success(answer) for answer in operation.answers}
    described = {
        "operationId": operation.name,
        "summary": operation.summary,
        "tags": [operation.tag],
        "parameters": list(operation.parameters),
        "security": [{"apiKey": []}] if operation.scopes else [],
        "responses": answers | _problems(operation.problems),
    }
    if operation.scopes:
        described["description"] = f"Needs the scope `{'` or `'.join(operation.scopes)}`."
    if operation.body is not None:
        described["requestBody"] = {
            "required": operation.is_body_required,
            "content": {"application/json": {"schema": {"$ref": REF.format(name=operation.body)}}},
        }
    return described


def _success(answer: Answer) -> dict[str, Any]:
    described: dict[str, Any] = {
        "description": answer.description,
        "headers": _headers("X-Request-Id", *answer.headers),
    }
    if answer.schema is not None:
        described["content"] = {answer.media_type: {"schema": answer.schema}}
    return described


def _problems(codes: tuple[str, ...]) -> dict[str, Any]:
    """One response a status, with the codes that it may carry."""
    by_status: dict[int, list[str]] = {}
    for code in codes:
        by_status.setdefault(PROBLEMS[code].status, []).append(code)
    return {str(status): _problem(status, by_status[status]) for status in sorted(by_status)}


def _problem(status: int, codes: list[str]) -> dict[str, Any]:
    more = {401: ("WWW-Authenticate",), 403: ("WWW-Authenticate",), 429: ("Retry-After",)}.get(status, ())
    more = ("Retry-After",) if "catching_up" in codes else more
    narrowed = {"properties": {"status": {"const": status}, "code": {"enum": codes}}}
    return {
        "description": "; ".join(f"`{code}`: {PROBLEMS[code].title}" for code in codes),
        "headers": _headers("X-Request-Id", *more),
        "content": {MEDIA_TYPE: {"schema": {"allOf": [{"$ref": REF.format(name="Problem")}, narrowed]}}},
    }


def _headers(*names: str) -> dict[str, Any]:
    return {name: {"$ref": f"#/components/headers/{name}"} for name in names}
