"""Reads JSON without forgiving anything: what comes out is what the sender wrote, or `JsonFault` says what is wrong.

Refused: duplicate keys, NaN and Infinity, anything but one document of UTF-8. Numbers with fraction or exponent, and
those of more digits than any amount has, come out as `Inexact`, unconverted: one of 100,000 digits costs nothing.
"""

import json
from collections.abc import Iterator
from typing import Any, NamedTuple, NoReturn

INTEGER_CHARACTERS_MAX = 20  # a sign and the digits of an int64


class Inexact(NamedTuple):
    """A number that is no integer of ours, as it was written."""

    text: str


class JsonFault(ValueError):
    """Not acceptable as JSON; the message says why and where, in fixed words."""


def decode(body: bytes) -> Any:
    """The document as dict, list, str, int, bool, None and Inexact. Raises JsonFault."""
    if not body.strip(b" \t\r\n"):
        raise JsonFault("the body is empty")
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError as error:
        raise JsonFault(f"byte {error.start}: not UTF-8") from None
    try:
        return _DECODER.decode(text)
    except json.JSONDecodeError as error:
        raise JsonFault(f"line {error.lineno}, column {error.colno}: {error.msg.removesuffix(' at')}") from None
    except RecursionError:
        raise JsonFault("nested too deep") from None


def strings_of(document: Any) -> Iterator[str]:
    """Every piece of text in a document: keys, strings, and numbers as they were written."""
    stack = [document]
    while stack:
        match stack.pop():
            case dict() as fields:
                yield from fields
                stack.extend(fields.values())
            case list() as items:
                stack.extend(items)
            case str() as text:
                yield text
            case Inexact(text):
                yield text
            case bool() | None:
                pass
            case int() as number:
                yield str(number)


def _integer(text: str) -> int | Inexact:
    return int(text) if len(text) <= INTEGER_CHARACTERS_MAX else Inexact(text)


def _no_constant(_name: str) -> NoReturn:
    raise JsonFault("NaN and Infinity are not JSON")


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise JsonFault("an object has the same key twice")
    return fields


_DECODER = json.JSONDecoder(
    object_pairs_hook=_without_duplicates,
    parse_int=_integer,
    parse_float=Inexact,
    parse_constant=_no_constant,
)
