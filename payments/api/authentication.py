"""Who calls: bearer API keys, looked up by their SHA-256 and remembered for a few seconds."""

import asyncio
import time
from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from payments.api.deadlines import in_time
from payments.api.headers import find_header
from payments.api.problems import Refusal
from payments.database.api_keys import hash_key
from payments.database.connections import DATABASE_AWAY, Pool, statements
from payments.database.queries import load_queries

REMEMBERED_S = 3.0  # a revoked key ends within this time, in every process
# Far more than there are clients; with strangers' guesses among them the oldest go first.
REMEMBERED_MAX = 4_096
KEY_CHARACTERS_MAX = 256

# Any one of them will do; the first is the one to ask for.
WRITE_PAYMENTS = ("payments:write",)
WRITE_REFUNDS = ("refunds:write",)
READ_PAYMENTS = ("payments:read", "viewer", "operator")

_QUERIES = load_queries("api")


class Client(msgspec.Struct, frozen=True):
    """The holder of a key, and what the key may do."""

    client_id: str
    scopes: frozenset[str]


class Authenticator:
    """Knows keys by their hashes alone. A stranger's key costs what a client's costs: one hash, one look-up."""

    def __init__(self, pool: Pool, clock: Callable[[], float] = time.monotonic) -> None:
        self._pool = pool
        self._clock = clock
        self._remembered: dict[bytes, tuple[float, Client | None]] = {}
        self._asking: dict[bytes, asyncio.Task[Client | None]] = {}

    async def authorize(self, headers: Iterable[tuple[bytes, bytes]], scopes: tuple[str, ...]) -> Client:
        """The client, if its key has one of the scopes. Raises Refusal."""
        client = await self._find(_bearer(headers))
        if client is None:
            raise _unauthorized("api_key_invalid", "The API key is unknown, revoked or past its end.", "invalid_token")
        if client.scopes.isdisjoint(scopes):
            raise Refusal(
                "scope_missing",
                f"The API key needs the scope {' or '.join(scopes)}.",
                headers={"WWW-Authenticate": f'Bearer error="insufficient_scope", scope="{scopes[0]}"'},
            )
        return client

    async def _find(self, key: str) -> Client | None:
        key_hash = hash_key(key)
        known = self._remembered.get(key_hash)
        if known is not None and self._clock() < known[0]:
            return known[1]
        asking = self._asking.get(key_hash)
        if asking is None:  # one look-up for all who ask at the same moment
            asking = self._asking[key_hash] = asyncio.create_task(in_time(self._ask(key_hash)))
            asking.add_done_callback(lambda task: self._asked(key_hash, task))
        try:
            return await asyncio.shield(asking)
        except DATABASE_AWAY as error:
            raise Refusal("database_unavailable", "The API key cannot be checked now; try again.") from error

    def _asked(self, key_hash: bytes, task: asyncio.Task[Client | None]) -> None:
        del self._asking[key_hash]
        if not task.cancelled():
            task.exception()  # whoever still waits raises it; nobody may be left to

    async def _ask(self, key_hash: bytes) -> Client | None:
        expires = self._clock() + REMEMBERED_S
        async with statements(self._pool) as conn:
            row: Any = await (await conn.execute(_QUERIES["find_key"], {"key_hash": key_hash})).fetchone()
        client = Client(row[0], frozenset(row[1])) if row else None
        self._remembered.pop(key_hash, None)
        if len(self._remembered) >= REMEMBERED_MAX:
            del self._remembered[next(iter(self._remembered))]
        self._remembered[key_hash] = expires, client
        return client


def _bearer(headers: Iterable[tuple[bytes, bytes]]) -> str:
    text = find_header(headers, b"authorization")
    if not text:
        raise _unauthorized("api_key_missing", "Send the header Authorization: Bearer <API key>.", None)
    scheme, _, key = text.partition(" ")
    key = key.strip()
    if scheme.lower() != "bearer" or not key or len(key) > KEY_CHARACTERS_MAX or not key.isascii():
        raise _unauthorized("api_key_invalid", "The Authorization header is not Bearer <API key>.", "invalid_request")
    return key


def _unauthorized(code: str, detail: str, error: str | None) -> Refusal:
    challenge = 'Bearer realm="payments"' + (f', error="{error}"' if error else "")
    return Refusal(code, detail, headers={"WWW-Authenticate": challenge})
