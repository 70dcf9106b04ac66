"""Headers that any request may carry: Prefer, traceparent, X-Request-Id. What is malformed in them is ignored."""

import re
import secrets
from collections.abc import Iterable

from payments.domain.card_numbers import find_card_number
from payments.domain.identifiers import new_id

WAIT_S_MAX = 30  # longer than a checkout page waits, shorter than proxies hold a silent connection
WAIT_DIGITS_MAX = 9

# A preference of RFC 7240; only whole seconds make sense for `wait`.
_WAIT = re.compile(r'(?:^|,)[ \t]*wait[ \t]*=[ \t]*"?([0-9]+)"?[ \t]*(?=[,;]|$)', re.IGNORECASE)
_TRACEPARENT = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:=@/+-]{1,128}")

Headers = Iterable[tuple[bytes, bytes]]


def find_header(headers: Headers, name: bytes) -> str | None:
    """The first header of a lower-case name."""
    for each, value in headers:
        if each == name:
            return value.decode("latin-1").strip(" \t")
    return None


def parse_wait(headers: Headers) -> int | None:
    """The seconds of `Prefer: wait=N`, at most WAIT_S_MAX; None when there is no such preference."""
    for name, value in headers:
        if name == b"prefer" and (found := _WAIT.search(value.decode("latin-1"))):
            digits = found[1].lstrip("0")  # there may be thousands, which int() would refuse
            return min(int(digits or 0), WAIT_S_MAX) if len(digits) <= WAIT_DIGITS_MAX else WAIT_S_MAX
    return None


def parse_traceparent(headers: Headers) -> str:
    """The trace that the caller is in (W3C Trace Context); a fresh one, not sampled, when there is none that is right.

    So whatever follows from a request, in events and consumers, can be found by one id.
    """
    return _callers_traceparent(headers) or f"00-{secrets.token_hex(16)}-{secrets.token_hex(8)}-00"


def _callers_traceparent(headers: Headers) -> str | None:
    text = find_header(headers, b"traceparent")
    if text is None or not _TRACEPARENT.match(text):
        return None
    known = "00" + text[2:55]
    # A later version may append fields; version 00 may not. It is stored and logged: no card number hides in it.
    if (text[55:] and (text.startswith("00") or text[55] != "-")) or find_card_number(known):
        return None
    return known


def parse_request_id(headers: Headers) -> str:
    """The caller's X-Request-Id if it is sane, else a fresh one."""
    text = find_header(headers, b"x-request-id")
    if text is not None and _REQUEST_ID.fullmatch(text) and not find_card_number(text):
        return text
    return str(new_id())
