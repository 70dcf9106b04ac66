"""Query strings, read strictly: an unknown, repeated or malformed parameter is a fault, never ignored."""

from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qsl
from uuid import UUID

from payments.api.body_fields import CANONICAL_UUID, shown
from payments.api.problems import Fault, Refusal
from payments.domain.states import PaymentStatus

PARAMETERS_MAX = 16

Parse = Callable[[str], Any]


def parse_query(query_string: bytes, known: dict[str, Parse]) -> dict[str, Any]:
    """The values of the known parameters that are there. Raises Refusal invalid_parameter."""
    if not query_string:
        return {}
    try:
        pairs = parse_qsl(
            query_string.decode("ascii"),
            keep_blank_values=True,
            strict_parsing=True,
            errors="strict",
            max_num_fields=PARAMETERS_MAX,
        )
    except (ValueError, UnicodeError):
        raise _invalid([Fault("query:", "cannot be read as name=value&name=value")]) from None
    values: dict[str, Any] = {}
    faults = []
    for name, text in pairs:
        where = f"query:{shown(name)}"
        if name not in known:
            faults.append(Fault(where, "is not a known parameter"))
        elif name in values:
            faults.append(Fault(where, "is there more than once"))
        else:
            values[name] = None
            try:
                values[name] = known[name](text)
            except ValueError as error:
                faults.append(Fault(where, str(error)))
    if faults:
        raise _invalid(faults)
    return values


def whole_number(low: int, high: int) -> Parse:
    """A parser of whole numbers in a range."""

    def parse(text: str) -> int:
        if not (text.isascii() and text.isdigit() and len(text) <= len(str(high)) and low <= int(text) <= high):
            raise ValueError(f"must be a whole number from {low} to {high}")
        return int(text)

    return parse


def uuid(text: str) -> UUID:
    """Parses a UUID in its hyphenated form."""
    if not CANONICAL_UUID.fullmatch(text):
        raise ValueError("must be a UUID")
    return UUID(text)


def payment_status(text: str) -> PaymentStatus:
    """Parses a status."""
    if text not in PaymentStatus.__members__:
        raise ValueError(f"must be one of {', '.join(PaymentStatus)}")
    return PaymentStatus(text)


def _invalid(faults: list[Fault]) -> Refusal:
    return Refusal("invalid_parameter", "The query string breaks a rule.", errors=tuple(faults))
