"""What is noted about one request while it is answered, for its log line and for metrics."""

from typing import cast

import msgspec
from litestar.types import Scope

_KEY = "payments.record"


class RequestRecord(msgspec.Struct):
    """One request: who sent it and what it was about, as far as that has become known."""

    request_id: str
    traceparent: str
    client_id: str | None = None
    payment_id: str | None = None
    code: str | None = None
    is_disconnected: bool = False


def attach(scope: Scope, record: RequestRecord) -> None:
    """Puts the record where handlers find it."""
    cast("dict[str, object]", scope)[_KEY] = record


def record_of(scope: Scope) -> RequestRecord:
    """The record of the request being answered."""
    return cast("RequestRecord", cast("dict[str, object]", scope)[_KEY])
