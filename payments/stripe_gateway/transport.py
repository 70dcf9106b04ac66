"""The official client's aiohttp transport, made strict: it hands over a 2xx with a whole object, or raises `NotOk`.

The client's own one follows redirects (a POST comes out as a GET elsewhere) and lets errors in mid-body through as they
are; its parser drops the code of most errors, and stumbles over bodies that are no JSON or of a shape it does not know.
"""

import asyncio
import re
import ssl
import time
from collections.abc import Mapping
from datetime import datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any

import aiohttp
import msgspec
import stripe

from payments.stripe_gateway.outcomes import StripeObject

# Stripe's objects stay below 100 kB, a list of 100 below 2 MB; more is not Stripe.
BODY_BYTES_MAX = 8 * 1024 * 1024
# PostgreSQL's jsonb holds no NUL character; Stripe never sends one, but an answer must not get stuck for it.
_NUL = re.compile(rb"(?<!\\)((?:\\\\)*)\\u0000")


class NotOk(stripe.StripeError):
    """Anything but a 2xx with a JSON object: no `status` when nothing came, no `content` when nothing readable did."""

    def __init__(
        self,
        why: str,
        status: int | None = None,
        content: StripeObject | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(why, http_status=status)
        self.why = why
        self.status = status
        self.content = content
        self.answer_headers = headers or {}


class StrictTransport(stripe.AIOHTTPClient):
    """One session for the life of the gateway; every request ends within `timeout_s`, its body included."""

    def __init__(self, timeout_s: float) -> None:
        # The session lives with the event loop, so it is made at the first request.
        super().__init__(timeout=None)
        self._timeout_s = timeout_s
        self._strict_session: aiohttp.ClientSession | None = None
        self._dated: tuple[str, float] | None = None

    def server_time(self) -> datetime | None:
        """The clock of whoever answered last, to the second; None before the first answer, or when it gave no date."""
        if self._dated is None:
            return None
        date, at = self._dated
        try:
            return parsedate_to_datetime(date) + timedelta(seconds=time.monotonic() - at)
        except (ValueError, OverflowError):
            return None

    def _open_session(self) -> aiohttp.ClientSession:
        if self._strict_session is None:
            context = ssl.create_default_context(cafile=stripe.ca_bundle_path)
            self._strict_session = aiohttp.ClientSession(
                # As many connections as calls: who may call at all is decided by the worker, not by a queue in here.
                connector=aiohttp.TCPConnector(ssl=context, limit=0),
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=aiohttp.ClientTimeout(total=None),
                auto_decompress=True,
            )
        return self._strict_session

    async def request_async(
        self, method: str, url: str, headers: Mapping[str, str], post_data: Any = None
    ) -> tuple[bytes, int, Mapping[str, str]]:
        """Called by the client for each request; raises NotOk."""
        try:
            async with (
                asyncio.timeout(self._timeout_s),
                self._open_session().request(
                    method, url, headers=headers, data=post_data, allow_redirects=False
                ) as response,
            ):
                status, got = response.status, response.headers
                self._dated = (got["Date"], time.monotonic()) if "Date" in got else None
                body = await _read(response)
        except TimeoutError:
            raise NotOk("timeout") from None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            # ValueError: what aiohttp makes of headers beyond all rules. Only the name: the text may quote a body.
            raise NotOk(type(error).__name__) from None
        body = _NUL.sub(rb"\1\\ufffd", body)
        content = _read_object(body)
        if content is None or not 200 <= status < 300:
            why = f"HTTP {status}" + ("" if content is not None else ", unreadable body")
            raise NotOk(why, status, content, got)
        return body, status, got

    async def close_async(self) -> None:
        """Closes every connection."""
        if self._strict_session is not None:
            await self._strict_session.close()
            self._strict_session = None


async def _read(response: aiohttp.ClientResponse) -> bytes:
    body = bytearray()
    async for chunk in response.content.iter_any():
        body += chunk
        if len(body) > BODY_BYTES_MAX:
            raise NotOk("body too large", response.status, None, response.headers)
    return bytes(body)


def _read_object(body: bytes) -> StripeObject | None:
    try:
        content = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return content if isinstance(content, dict) else None
