"""Reads the body of a signed webhook: an event, strictly where we lean on it, and fit for jsonb everywhere."""

import json
import re
from typing import Any, NoReturn
from uuid import UUID

import msgspec

from payments.domain.facts import payment_id_of

DEPTH_MAX = 64  # Stripe's deepest objects nest about twelve
TYPE_CHARACTERS_MAX = 255

_ID = re.compile(r"evt_[A-Za-z0-9_]{1,251}")  # 255 at most, Stripe's limit on ids
# PostgreSQL's text holds neither NUL nor half a surrogate pair.
_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")


class MalformedEvent(ValueError):
    """A signed body is no event that we could keep."""


class ReceivedEvent(msgspec.Struct, frozen=True):
    """A webhook's event: its id and type, the payment that its object's metadata names, and the JSON to keep."""

    event_id: str
    event_type: str
    payment_id: UUID | None
    payload: bytes


def read_received(body: bytes) -> ReceivedEvent:
    """Parses a body; raises MalformedEvent, and nothing else.

    NUL and lone surrogates become U+FFFD: they are legal JSON, and what carries them may well be genuine.
    """
    event = _clean(_parse(body), 0)
    if not isinstance(event, dict):
        raise MalformedEvent("the body is no JSON object")
    event_id, event_type, data = event.get("id"), event.get("type"), event.get("data")
    if not isinstance(event_id, str) or not _ID.fullmatch(event_id):
        raise MalformedEvent("the event has no id that Stripe could have given")
    if not isinstance(event_type, str) or not 0 < len(event_type) <= TYPE_CHARACTERS_MAX:
        raise MalformedEvent("the event has no type")
    if not isinstance(data, dict) or not isinstance(data.get("object"), dict):
        raise MalformedEvent("the event has no object")
    return ReceivedEvent(event_id, event_type, payment_id_of(data["object"]), json.dumps(event).encode())


def _parse(body: bytes) -> object:
    # json, not msgspec: that refuses lone surrogates. Decoded first, for json would also guess UTF-16.
    try:
        return json.loads(body.decode("utf-8"), parse_constant=_refuse, parse_float=_number)
    except RecursionError:
        raise MalformedEvent("the body is nested too deeply") from None
    except ValueError as error:  # UnicodeDecodeError, JSONDecodeError and integers of thousands of digits among them
        raise MalformedEvent(f"the body is no JSON: {type(error).__name__}") from None


def _refuse(constant: str) -> NoReturn:
    raise ValueError(constant)


def _number(text: str) -> float:
    number = float(text)
    if number in (float("inf"), float("-inf")):
        raise ValueError("too large")
    return number


def _clean(value: Any, depth: int) -> Any:
    if depth > DEPTH_MAX:
        raise MalformedEvent("the body is nested too deeply")
    match value:
        case str():
            return _UNSTORABLE.sub("\ufffd", value)
        case dict():
            return {_clean(name, depth + 1): _clean(each, depth + 1) for name, each in value.items()}
        case list():
            return [_clean(each, depth + 1) for each in value]
        case _:
            return value
