"""The Idempotency-Key header (draft-ietf-httpapi-idempotency-key-header) and the fingerprint that goes with it."""

import hashlib
import re
from collections.abc import Iterable

import msgspec

from payments.api.problems import Fault, Refusal
from payments.domain.card_numbers import find_card_number

KEY_CHARACTERS_MAX = 255  # what the database keeps
HEADER = "Idempotency-Key"

_BARE = re.compile(r"[\x21\x23-\x7e][\x21-\x7e]*")
_QUOTED = re.compile(r'"((?:[\x21\x23-\x5b\x5d-\x7e]|\\["\\])*)"')  # sf-string of RFC 8941, without blanks
_ENCODER = msgspec.json.Encoder(order="sorted")


def parse_key(headers: Iterable[tuple[bytes, bytes]]) -> str | None:
    """The key of a request, None without one; `"abc"` and `abc` are the same key. Raises Refusal."""
    values = [value for name, value in headers if name == b"idempotency-key"]
    if not values:
        return None
    if len(values) > 1:
        raise _invalid("is there more than once")
    text = values[0].decode("latin-1").strip(" \t")
    if not text:
        raise _invalid("is blank")
    if quoted := _QUOTED.fullmatch(text):
        key = re.sub(r"\\(.)", r"\1", quoted[1])
    elif _BARE.fullmatch(text):
        key = text
    else:
        raise _invalid("must be visible ASCII characters, bare or as a quoted string")
    if not 1 <= len(key) <= KEY_CHARACTERS_MAX:
        raise _invalid(f"must have 1 to {KEY_CHARACTERS_MAX} characters")
    if find_card_number(key):
        raise Refusal(
            "card_number_not_allowed",
            "The Idempotency-Key holds what looks like a card number; a random UUID makes a good key.",
            errors=(Fault(f"header:{HEADER}", "holds what looks like a card number"),),
        )
    return key


def fingerprint(method: str, path: str, body: object) -> bytes:
    """SHA-256 of what was asked for, with defaults filled in: equal for a repetition, different for another wish."""
    return hashlib.sha256(f"{method} {path}\n".encode() + _ENCODER.encode(body)).digest()


def _invalid(fault: str) -> Refusal:
    return Refusal("invalid_idempotency_key", f"The {HEADER} {fault}.", errors=(Fault(f"header:{HEADER}", fault),))
