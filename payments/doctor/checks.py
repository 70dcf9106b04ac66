"""Running the checks against the database, as an administrator or as payments_readonly."""

import time
from collections.abc import Iterator, Mapping
from typing import Any

import psycopg

from payments.database.migrate import CONNECT_TIMEOUT_S, SCHEMA_VERSION
from payments.database.operator_connection import told_in_words
from payments.database.queries import load_queries
from payments.doctor.findings import (
    Finding,
    Level,
    judge_audit,
    judge_clock,
    judge_inbox,
    judge_lanes,
    judge_oldest_transaction,
    judge_payments,
    judge_reconciliation,
    judge_restore,
    judge_roles,
    judge_server,
    judge_standbys,
    judge_way,
)
from payments.errors import OperatingError
from payments.settings import Settings

# Long enough to compare some hundred thousand payments; somebody waits.
AUDIT_WAIT_MS = 20_000

_QUERIES = load_queries("doctor")
_CONNECTIONS = load_queries("connections")


def examine(dsn: str, settings: Settings) -> list[Finding]:
    """All findings, faults included; a database that cannot be reached, or read, is the last of them.

    `settings`: the workers', which say how long they let something wait before they look at it.
    """
    return list(_look(dsn, settings))


def _look(dsn: str, settings: Settings) -> Iterator[Finding]:
    try:
        with (
            told_in_words(),
            psycopg.connect(dsn, autocommit=True, connect_timeout=CONNECT_TIMEOUT_S, prepare_threshold=None) as conn,
        ):
            yield from _examine(conn, settings)
    except OperatingError as error:
        yield Finding(Level.FAULT, "database", error.message, error.advice)


def _examine(conn: psycopg.Connection[Any], settings: Settings) -> Iterator[Finding]:
    yield from _server(conn)
    yield from judge_way(pooled=_one(conn, _CONNECTIONS["backend_id"])[0] != conn.info.backend_pid)
    yield from judge_clock(time.time() - _one(conn, _QUERIES["clock"])[0])
    named, waited_for, there = _one(conn, _QUERIES["standbys"])
    yield from judge_standbys(named=named, waited_for=waited_for, there=there)
    yield from judge_roles(_all(conn, _QUERIES["roles"]))
    found = _schema(conn)
    yield found
    if found.level is not Level.OK:
        return
    yield judge_restore(*_one(conn, _QUERIES["restore"]))
    yield from judge_lanes(_all(conn, _QUERIES["behind"]))
    yield from judge_inbox(*_one(conn, _QUERIES["inbox"]))
    waits = {"reconcile_after_s": settings.reconcile_after_s, "events_backfill_s": settings.events_backfill_s}
    yield from judge_reconciliation(*_one(conn, _QUERIES["reconciliation"], waits))
    yield from judge_payments(
        _all(conn, _QUERIES["stuck"]),
        _one(conn, _QUERIES["parked"])[0],
        _one(conn, _QUERIES["dead_letters"])[0],
        _imbalances(conn),
    )
    yield from judge_audit(_one(conn, _QUERIES["audit"])[0])
    yield from judge_oldest_transaction(_one(conn, _QUERIES["oldest_transaction"])[0])


def _imbalances(conn: psycopg.Connection[Any]) -> list[tuple[Any, ...]]:
    """As the books are now; where reading all of them takes too long, as the audit found them last."""
    try:
        with conn.transaction():
            conn.execute(_QUERIES["limit_time"], {"timeout": f"{AUDIT_WAIT_MS}ms"})
            return _all(conn, _QUERIES["imbalances"])
    except psycopg.errors.QueryCanceled:
        return _all(conn, _QUERIES["known_imbalances"])


def _server(conn: psycopg.Connection[Any]) -> list[Finding]:
    version, durable, synchronous_commit, standby = _one(conn, _QUERIES["server"])
    return judge_server(version, synchronous_commit, durable=durable, standby=standby)


def _schema(conn: psycopg.Connection[Any]) -> Finding:
    if not _one(conn, _CONNECTIONS["look_for_schema"])[0]:
        return Finding(Level.FAULT, "schema", "there is none", "Run `payments migrate`.")
    version = _one(conn, _CONNECTIONS["schema_version"])[0]
    if version < SCHEMA_VERSION:
        return Finding(
            Level.FAULT, "schema", f"version {version}, this release needs {SCHEMA_VERSION}", "Run `payments migrate`."
        )
    if version > SCHEMA_VERSION:
        return Finding(Level.FAULT, "schema", f"version {version}, later than this release's", "Use the later release.")
    if not _one(conn, _CONNECTIONS["is_home"])[0]:
        return Finding(
            Level.FAULT,
            "cluster",
            "the database was restored from another cluster, and no process works on it",
            "Stop what still works on the old one, then run `payments migrate --rebase`.",
        )
    return Finding(Level.OK, "schema", f"version {version}")


def _one(conn: psycopg.Connection[Any], query: bytes, values: Mapping[str, Any] | None = None) -> tuple[Any, ...]:
    row = conn.execute(query, values).fetchone()
    assert row is not None
    return tuple(row)


def _all(conn: psycopg.Connection[Any], query: bytes) -> list[tuple[Any, ...]]:
    return conn.execute(query).fetchall()
