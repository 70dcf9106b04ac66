"""Adding and removing consumers: queue, bindings, lane and a role that may read that queue and nothing else.

Functions join the caller's transaction, as an administrator; the caller commits. They raise ConsumerRefused.
"""

import secrets
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import msgspec
import psycopg
from psycopg import sql

from payments.consumers.subscriptions import (
    SERVICE_QUEUES,
    Found,
    Refusal,
    Start,
    decide_addition,
    decide_new_password,
    decide_removal,
)
from payments.database.queries import load_queries
from payments.errors import ConsumerRefused

# 9 + 47 characters; PostgreSQL takes 63.
ROLE_PREFIX = "consumer_"
# Two copies of a consumer with the pgmq package's default pool of ten; a tenth of what a default server takes.
CONNECTIONS_MAX = 20
# What holds a queue's lock for longer is not at work, but forgotten.
LOCK_TIMEOUT = "5s"
PURPOSE = "A consumer"

_QUERIES = load_queries("consumers")
_MIGRATE = load_queries("migrate")

Connection = psycopg.Connection[Any]


class Access(msgspec.Struct, frozen=True):
    """The login of a consumer; the password is kept nowhere."""

    queue: str
    role: str
    password: str


def add(conn: Connection, name: str, patterns: Sequence[str] | None, start: Start | None) -> Access:
    """Makes what the consumer lacks of queue, bindings, lane and role."""
    found, now = _find(conn, name)
    decision = decide_addition(name, found, patterns, start, now)
    if isinstance(decision, Refusal):
        raise _refused(decision)
    if decision == "queue_and_role":
        assert patterns is not None
        _create_lane(conn, name, patterns, start or "now")
    password = new_password()
    values = _names(name) | {
        "verifier": sql.Literal(_verifier(conn, found.role, password)),
        "connections_max": sql.Literal(CONNECTIONS_MAX),
    }
    try:
        _run(conn, "create_role", values)
    except psycopg.errors.UniqueViolation as error:  # another database of this server, in the same moment
        raise ConsumerRefused(f"The server has a role {found.role} already.", advice="Choose another name.") from error
    conn.execute(_MIGRATE["become_owner"])
    _run(conn, "let_read", values)
    conn.execute(_MIGRATE["become_oneself"])
    _run(conn, "let_connect", values | {"database": sql.Identifier(conn.info.dbname)})
    return Access(queue=name, role=found.role, password=password)


def renew_password(conn: Connection, name: str) -> Access:
    """Gives the consumer's role another password; sessions that are open stay so."""
    found, _ = _find(conn, name)
    refusal = decide_new_password(name, found)
    if refusal is not None:
        raise _refused(refusal)
    password = new_password()
    _run(conn, "set_password", _names(name) | {"verifier": sql.Literal(_verifier(conn, found.role, password))})
    return Access(queue=name, role=found.role, password=password)


def shut_out(conn: Connection, name: str, *, keep_queue: bool) -> None:
    """First step of a removal, in a transaction of its own: the consumer's role can no longer log in."""
    found, _ = _find(conn, name)
    refusal = decide_removal(name, found, keep_queue=keep_queue)
    if refusal is not None:
        raise _refused(refusal)
    if found.role_reads:
        _run(conn, "shut_out", _names(name))


def remove(conn: Connection, name: str, *, keep_queue: bool) -> None:
    """Second step: ends the role's sessions, and drops lane, bindings, queue and role, or the role alone.

    The relay finishes the batch under way and finds no lane then. Raises ConsumerRefused, with nothing dropped, while
    somebody else holds the queue's lock.
    """
    found, _ = _find(conn, name)
    refusal = decide_removal(name, found, keep_queue=keep_queue)
    if refusal is not None:
        raise _refused(refusal)
    names = _names(name)
    if found.role_reads:
        _run(conn, "join_role", names)
        conn.execute(_QUERIES["end_sessions"], {"role": found.role})
    try:
        if not keep_queue:
            conn.execute(_QUERIES["stop_lane"], {"queue": name})
            conn.execute(_MIGRATE["become_owner"])
            _run(conn, "drop_lane", names)
            conn.execute(_MIGRATE["become_oneself"])
        if found.role_reads:
            _run(conn, "drop_role", names)
    except psycopg.errors.LockNotAvailable as error:
        raise ConsumerRefused(
            f"Somebody holds a lock on the queue {name}; its role can no longer log in, but nothing was dropped.",
            advice="pg_locks and pg_stat_activity name that session. Once its transaction has ended, try again.",
        ) from error
    except psycopg.errors.DependentObjectsStillExist as error:
        raise ConsumerRefused(
            f"{found.role} has rights outside this database; it can no longer log in, but nothing was dropped.",
            advice=f"Take them away first: {error.diag.message_detail or error.diag.message_primary}",
        ) from error


def list_consumers(conn: psycopg.Connection[dict[str, Any]]) -> list[dict[str, Any]]:
    """Every queue that is not the service's own, the oldest first; for the columns see the query."""
    values = {"role_prefix": ROLE_PREFIX, "service_queues": sorted(SERVICE_QUEUES)}
    return conn.execute(_QUERIES["list"], values).fetchall()


def has_forgotten(conn: psycopg.Connection[Any]) -> bool:
    """Whether some events of the past are no longer there for a new consumer to hear."""
    return conn.execute(_QUERIES["has_forgotten"]).fetchone() is not None


def new_password() -> str:
    """192 random bits, in characters that no address has to quote."""
    return secrets.token_urlsafe(24)


def _find(conn: Connection, name: str) -> tuple[Found, datetime]:
    """What there is; one command at a time from here on, and none beside a migration."""
    conn.execute(_QUERIES["be_patient"], {"lock_timeout": LOCK_TIMEOUT})
    try:
        conn.execute(_MIGRATE["lock"])
    except psycopg.errors.LockNotAvailable as error:
        raise ConsumerRefused(
            "A migration, or another command about consumers, is under way.", advice="Try again when it is done."
        ) from error
    role = ROLE_PREFIX + name
    values = {"queue": name, "role": role, "relations": _relations(name)}
    row = conn.execute(_QUERIES["find"], values).fetchone()
    assert row is not None
    has_lane, patterns, role_exists, role_reads, taken, now = row
    return Found(has_lane, tuple(patterns), role, role_exists, role_reads, tuple(taken)), now


def _create_lane(conn: Connection, name: str, patterns: Sequence[str], start: Start) -> None:
    from_beginning = start == "beginning"
    conn.execute(_MIGRATE["become_owner"])
    conn.execute(
        _QUERIES["create_lane"],
        {"queue": name, "purpose": PURPOSE, "patterns": list(patterns), "from_beginning": from_beginning},
    )
    if isinstance(start, datetime):
        conn.execute(_QUERIES["start_at"], {"queue": name, "start": start})
    conn.execute(_MIGRATE["become_oneself"])


def _relations(name: str) -> list[str]:
    """What pgmq.create makes for a queue, in one namespace: the index of one queue may be the table of another."""
    queue, archive = f"q_{name}", f"a_{name}"
    indexes = [f"{queue}_pkey", f"{queue}_vt_idx", f"{archive}_pkey", f"archived_at_idx_{name}"]
    return [queue, archive, f"{queue}_msg_id_seq", *indexes]


def _names(name: str) -> dict[str, sql.Composable]:
    queue = sql.Identifier("pgmq", f"q_{name}")
    return {
        "name": sql.Literal(name),
        "role": sql.Identifier(ROLE_PREFIX + name),
        "role_name": sql.Literal(ROLE_PREFIX + name),
        "queue": queue,
        "archive": sql.Identifier("pgmq", f"a_{name}"),
        "sequence": sql.Identifier("pgmq", f"q_{name}_msg_id_seq"),
    }


def _verifier(conn: Connection, role: str, password: str) -> str:
    """What the server keeps; the password itself travels and is logged nowhere."""
    return conn.pgconn.encrypt_password(password.encode(), role.encode(), b"scram-sha-256").decode()


def _run(conn: Connection, query: str, values: Mapping[str, sql.Composable]) -> None:
    # A query of ours, not a stranger's text; its names are quoted by psycopg.
    text: Any = _QUERIES[query].decode()
    conn.execute(sql.SQL(text).format(**values))


def _refused(refusal: Refusal) -> ConsumerRefused:
    return ConsumerRefused(refusal.why, advice=refusal.advice)
