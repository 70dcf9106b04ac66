"""Cursors of lists: opaque to callers, bound to the filters with which the list was begun."""

import hashlib
from base64 import urlsafe_b64decode, urlsafe_b64encode
from uuid import UUID

VERSION = b"\x01"
_FILTER_BYTES = 8


def encode(below: UUID, filters: object) -> str:
    """The cursor to the payments after this one."""
    return urlsafe_b64encode(VERSION + _mark(filters) + below.bytes).decode().rstrip("=")


def decode(cursor: str, filters: object) -> UUID:
    """The payment after which to go on. Raises ValueError for no cursor of ours, or one with other filters."""
    try:
        raw = urlsafe_b64decode(cursor.encode("ascii") + b"=" * (-len(cursor) % 4))
        version, mark, below = raw[:1], raw[1 : 1 + _FILTER_BYTES], UUID(bytes=raw[1 + _FILTER_BYTES :])
    except ValueError:
        raise ValueError("is not a cursor of this API") from None
    if version != VERSION:
        raise ValueError("is not a cursor of this API")
    if mark != _mark(filters):
        raise ValueError("belongs to a list with other filters")
    if encode(below, filters) != cursor:  # base64 forgives stray characters, we don't
        raise ValueError("is not a cursor of this API")
    return below


def _mark(filters: object) -> bytes:
    return hashlib.sha256(repr(filters).encode()).digest()[:_FILTER_BYTES]
