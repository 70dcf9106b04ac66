"""The idempotency layer (https://docs.stripe.com/api/idempotent_requests, https://docs.stripe.com/error-low-level#idempotency).

A record is written in the transaction of the request's effects, so a crash leaves both or neither. Only requests whose
execution began are recorded, 500s included; validation errors, 401, 409 and 429 are not.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from stripe_sandbox.errors import StripeError, invalid

if TYPE_CHECKING:
    from stripe_sandbox.errors import Json
    from stripe_sandbox.store import Store

KEY_LENGTH_MAX = 255
# "You can remove keys from the system automatically after they're at least 24 hours old."
KEPT_S = 24 * 3600


@dataclass(frozen=True)
class Saved:
    """The first answer under a key."""

    status: int
    body: bytes
    request_id: str


@dataclass(frozen=True)
class Use:
    """A key with the request it came with."""

    key: str
    endpoint: str
    fingerprint: bytes


def fingerprint(given: Json) -> bytes:
    """The parameters, whatever order they came in."""
    return hashlib.sha256(msgspec.json.encode(given, order="deterministic")).digest()


def check_key(key: str) -> None:
    """Raise StripeError for a key longer than documented."""
    if len(key) > KEY_LENGTH_MAX:
        raise invalid(f"Idempotency keys can be up to {KEY_LENGTH_MAX} characters long.")


def find(store: Store, use: Use, now: float) -> Saved | None:
    """The answer saved under the key; raises StripeError (400 ``idempotency_error``) for another request's key."""
    row = store.db.execute(
        "SELECT endpoint, fingerprint, status, body, request_id FROM idempotency WHERE key = ? AND created > ?",
        (use.key, now - KEPT_S),
    ).fetchone()
    if row is None:
        return None
    first_endpoint, first_print, status, body, request_id = row
    if first_endpoint != use.endpoint:
        first, second = (name.split(" ", 1)[1] for name in (first_endpoint, use.endpoint))
        raise _misused(f"for the same endpoint they were first used for ('{second}' vs '{first}')", use.key)
    if first_print != use.fingerprint:
        raise _misused("with the same parameters they were first used with", use.key)
    return Saved(status, body, request_id)


def _misused(what: str, key: str) -> StripeError:
    text = (
        f"Keys for idempotent requests can only be used {what}. Try using a key other than '{key}' if you meant to "
        "execute a different request."
    )
    return StripeError(400, text, kind="idempotency_error")


def save(store: Store, use: Use, saved: Saved, now: float) -> None:
    """Keep the answer, in the transaction of its effects."""
    store.db.execute(
        "INSERT OR REPLACE INTO idempotency (key, endpoint, fingerprint, status, body, request_id, created) "
        "VALUES (?, ?, ?, ?, ?, ?, ?)",
        (use.key, use.endpoint, use.fingerprint, saved.status, saved.body, saved.request_id, now),
    )


def prune(store: Store, now: float) -> int:
    """Forget keys older than 24 hours by the sandbox's clock."""
    return store.db.execute("DELETE FROM idempotency WHERE created <= ?", (now - KEPT_S,)).rowcount
