"""API keys: random secrets of which the database keeps only hashes."""

import hashlib
import re
import secrets
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import psycopg

from payments.database.queries import load_queries
from payments.domain.identifiers import new_id

SCOPES = ("payments:write", "payments:read", "refunds:write", "viewer", "operator")
KEY_PREFIX = "pay_"  # lets secret scanners and our own log filter recognise a key
DEVELOPMENT_CLIENT = "development"
CLIENT_ID = re.compile(r"[a-z][a-z0-9_-]{0,62}")

_QUERIES = load_queries("api_keys")


@dataclass(frozen=True)
class ApiKey:
    """What is kept of a key; never the key itself."""

    key_id: UUID
    client_id: str
    scopes: list[str]
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None


def hash_key(key: str) -> bytes:
    """SHA-256: enough for a secret of 256 random bits, and quick enough for every request."""
    return hashlib.sha256(key.encode()).digest()


def create_key(conn: psycopg.Connection, client_id: str, scopes: list[str], expires_at: datetime | None = None) -> str:
    """Makes a key for a client and returns it; it cannot be shown again."""
    key = KEY_PREFIX + secrets.token_urlsafe(32)
    values = {
        "key_id": new_id(),
        "client_id": client_id,
        "key_hash": hash_key(key),
        "scopes": scopes,
        "expires_at": expires_at,
    }
    conn.execute(_QUERIES["create"], values)
    return key


def list_keys(conn: psycopg.Connection) -> list[ApiKey]:
    """All keys, the newest first."""
    return [ApiKey(*row) for row in conn.execute(_QUERIES["list"])]


def revoke_key(conn: psycopg.Connection, key_id: UUID) -> bool:
    """Revokes a key at once; False when there is no such key or it was revoked before."""
    return conn.execute(_QUERIES["revoke"], {"key_id": key_id}).rowcount == 1


def ensure_development_key(admin_dsn: str) -> str:
    """A fresh key with all scopes for the client `development`; the one of the last start ends."""
    with psycopg.connect(admin_dsn) as conn:
        conn.execute(_QUERIES["revoke_client"], {"client_id": DEVELOPMENT_CLIENT})
        return create_key(conn, DEVELOPMENT_CLIENT, list(SCOPES))
