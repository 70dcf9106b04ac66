"""Sending what must be refused, and reading the refusal."""

import json
from typing import Any

import httpx

from payments.api.problems import PROBLEMS
from tests.api.driving import wish

CART = "0197f2c4-0000-7000-8000-000000000001"


def post(shop: httpx.Client, body: bytes | str, **headers: str) -> httpx.Response:
    content = body.encode() if isinstance(body, str) else body
    return shop.post("/payments/authorize", content=content, headers={"Content-Type": "application/json"} | headers)


def problem(answer: httpx.Response, status: int, code: str) -> dict[str, Any]:
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["x-request-id"]
    found: dict[str, Any] = answer.json()
    assert (answer.status_code, found["code"]) == (status, code), found
    kind = PROBLEMS[code]
    assert found["type"] == "urn:payments:problem:" + code.replace("_", "-")
    assert (found["title"], found["status"], found["retryable"]) == (kind.title, status, kind.retryable)
    assert found["detail"]
    return found


def raw(**changes: Any) -> str:
    """A body in which a value may be any JSON text: {'amount': Json('1.0')}."""
    parts = [
        f"{json.dumps(name)}: {value if isinstance(value, Json) else json.dumps(value)}"
        for name, value in wish(**{"cartId": CART, **changes}).items()
    ]
    return "{" + ", ".join(parts) + "}"


class Json(str):
    """JSON text as it stands."""

    __slots__ = ()
