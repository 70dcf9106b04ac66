"""Reads request bodies, never more than allowed, whatever Content-Length says or leaves unsaid."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress

from litestar.types import Receive, Scope

from payments.api.headers import find_header
from payments.api.problems import Refusal

BODY_TIMEOUT_S = 10.0  # a body of 64 kB that takes longer is a slow-loris
# A refused sender is listened to a little longer: cut off while it still sends, it would see no answer at all.
DRAINED_BYTES_MAX = 1_048_576
DRAIN_TIMEOUT_S = 1.0


class Disconnected(Exception):
    """The caller went away before its request was complete; nobody is left to answer."""


def refuse_other_media(scope: Scope) -> None:
    """Raises Refusal unless the request says that its body is plain JSON."""
    content_type = find_header(scope["headers"], b"content-type") or ""
    media_type, _, parameters = content_type.partition(";")
    charset = parameters.strip().lower().replace('"', "")
    if media_type.strip().lower() != "application/json" or charset not in {"", "charset=utf-8"}:
        raise Refusal("unsupported_media_type", "Send the body as Content-Type: application/json, in UTF-8.")
    encoding = find_header(scope["headers"], b"content-encoding")
    if encoding and encoding.lower() != "identity":
        raise Refusal(
            "unsupported_media_type", "Send the body without Content-Encoding.", headers={"Accept-Encoding": "identity"}
        )


async def read_body(scope: Scope, receive: Receive, bytes_max: int) -> bytes:
    """The whole body. Raises Refusal (body_too_large, request_timeout) and Disconnected."""
    announced = find_header(scope["headers"], b"content-length")
    if announced is not None and (not announced.isdigit() or int(announced[:20]) > bytes_max):
        if find_header(scope["headers"], b"expect") is None:  # else it has not begun to send, and need not
            await _drain(receive)
        raise _too_large(bytes_max)
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_TIMEOUT_S):
            async for chunk in _chunks(receive):
                body += chunk
                if len(body) > bytes_max:
                    break
    except TimeoutError:
        raise Refusal(
            "request_timeout", f"The body did not arrive within {BODY_TIMEOUT_S:g} s.", headers={"Connection": "close"}
        ) from None
    if len(body) > bytes_max:
        await _drain(receive)
        raise _too_large(bytes_max)
    return bytes(body)


async def _chunks(receive: Receive) -> AsyncIterator[bytes]:
    while True:
        message = await receive()
        if message["type"] != "http.request":
            raise Disconnected
        yield message["body"]
        if not message["more_body"]:
            return


async def _drain(receive: Receive) -> None:
    drained = 0
    with suppress(TimeoutError, Disconnected):
        async with asyncio.timeout(DRAIN_TIMEOUT_S):
            async for chunk in _chunks(receive):
                drained += len(chunk)
                if drained > DRAINED_BYTES_MAX:
                    break


def _too_large(bytes_max: int) -> Refusal:
    return Refusal("body_too_large", f"The body may have at most {bytes_max} bytes.", headers={"Connection": "close"})
