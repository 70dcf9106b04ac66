"""Brings a database to the schema that this version of the service works with.

A new database gets sql/schema.sql; an older one the files of sql/migrations above its version, each in one transaction.
Runs as an administrator (superuser, or a role that may create roles and owns the database).
"""

import re
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import psycopg
from psycopg import sql

from payments.database.queries import SQL_DIRECTORY, load_queries
from payments.database.standbys import Doubts
from payments.errors import DatabaseUnreachable, DatabaseUnsuitable, SchemaTooNew

SERVER_VERSION_MIN = 150000  # PostgreSQL 15: unique constraints, MERGE and column grants as the schema uses them

CONNECT_TIMEOUT_S = 5  # of whoever sits and waits: operators' commands

_QUERIES = load_queries("migrate")
_CONNECTIONS = load_queries("connections")
_FILE = re.compile(r"(?P<version>\d{4})_(?P<name>[a-z0-9_]+)\.sql")


@dataclass(frozen=True)
class Migration:
    """One file of sql/migrations: its number, its name and its SQL."""

    version: int
    name: str
    script: bytes


def migrations(directory: Path = SQL_DIRECTORY / "migrations") -> list[Migration]:
    """All migrations in order; their numbers run from 1 without gap."""
    found = []
    for path in sorted(directory.glob("*.sql")):
        match = _FILE.fullmatch(path.name)
        if match is None:
            raise ValueError(f"{path.name} is not named like 0001_what_it_does.sql")
        found.append(Migration(int(match["version"]), match["name"], path.read_bytes()))
    if [one.version for one in found] != list(range(1, len(found) + 1)):
        raise ValueError("the migrations do not run from 0001 without gap")
    return found


SCHEMA_VERSION = len(migrations())


def schema_too_new(found: int) -> SchemaTooNew:
    """The error for a database that a later release has migrated."""
    return SchemaTooNew(
        f"The database has schema version {found}; this release knows versions up to {SCHEMA_VERSION}.",
        advice="Start the release that migrated it, or a later one.",
    )


def unreachable(error: psycopg.Error) -> DatabaseUnreachable:
    """The error for a server that does not answer or refuses the login."""
    return DatabaseUnreachable(
        f"PostgreSQL cannot be reached: {str(error).strip()}",
        advice="Check DATABASE_URL and that the server runs; without DATABASE_URL, `payments up` brings its own.",
    )


def migrate(admin_dsn: str) -> list[str]:
    """Brings the database to SCHEMA_VERSION; returns the names of what was applied, empty when it was there already.

    Idempotent, and safe to run from several places at once (an advisory lock lets one go first).
    Raises DatabaseUnreachable, SchemaTooNew, DatabaseUnsuitable (too old a PostgreSQL, pgmq without topics, a
    failover may undo it), and what PostgreSQL raises.
    """
    try:
        connection = psycopg.connect(admin_dsn, autocommit=True, connect_timeout=CONNECT_TIMEOUT_S)
    except psycopg.OperationalError as error:
        raise unreachable(error) from error
    doubts = Doubts()
    with connection as conn:
        conn.add_notice_handler(doubts.note)
        conn.execute(_CONNECTIONS["speak_plainly"])
        if conn.info.server_version < SERVER_VERSION_MIN:
            raise DatabaseUnsuitable(
                f"PostgreSQL {conn.info.server_version // 10000} is too old for this service.",
                advice="Use PostgreSQL 15 or later.",
            )
        conn.execute((SQL_DIRECTORY / "roles.sql").read_bytes())
        with conn.transaction():
            conn.execute(_QUERIES["lock"])
            _let_owner_create(conn)
            _ensure_pgmq(conn)
            conn.execute(_QUERIES["become_owner"])
            applied = _apply(conn)
            conn.execute(_QUERIES["become_oneself"])
            conn.execute(_QUERIES["record_cluster"])
    doubts.tell_operator()
    return applied


def _let_owner_create(conn: psycopg.Connection) -> None:
    """The owner role creates the schemas; an administrator that is no superuser must be a member to act as it."""
    conn.execute(_QUERIES["join_owner"])
    database = sql.Identifier(conn.info.dbname)
    conn.execute(sql.SQL("grant create on database {} to payments_owner").format(database))


def _ensure_pgmq(conn: psycopg.Connection) -> None:
    """Takes the extension where the server has it, else the SQL that the pgmq package ships."""
    row = conn.execute(_QUERIES["look_for_pgmq"]).fetchone()
    assert row is not None
    is_installed, is_available = row
    if not is_installed:
        if is_available:
            conn.execute(_QUERIES["create_pgmq_extension"])
        else:
            conn.execute(_QUERIES["become_owner"])
            conn.execute(files("pgmq").joinpath("sql", "pgmq.sql").read_bytes())
            conn.execute(_QUERIES["become_oneself"])
    topics = conn.execute(_QUERIES["look_for_topics"]).fetchone()
    if topics is None or not topics[0]:
        raise DatabaseUnsuitable(
            "The pgmq of this database has no topics.",
            advice="Update the extension to 1.11 or later: ALTER EXTENSION pgmq UPDATE.",
        )
    conn.execute(_QUERIES["let_owner_use_pgmq"])


def _apply(conn: psycopg.Connection) -> list[str]:
    known = migrations()
    exists = conn.execute(_CONNECTIONS["look_for_schema"]).fetchone()
    assert exists is not None
    if not exists[0]:
        conn.execute((SQL_DIRECTORY / "schema.sql").read_bytes())
        _record(conn, known)
        return ["schema"]
    row = conn.execute(_CONNECTIONS["schema_version"]).fetchone()
    assert row is not None
    current: int = row[0]
    if current > SCHEMA_VERSION:
        raise schema_too_new(current)
    pending = known[current:]
    for migration in pending:
        conn.execute(migration.script)
    _record(conn, pending)
    return [migration.name for migration in pending]


def _record(conn: psycopg.Connection, applied: list[Migration]) -> None:
    for migration in applied:
        conn.execute(_QUERIES["record_migration"], {"version": migration.version, "name": migration.name})


def set_role_passwords(admin_dsn: str, passwords: dict[str, str]) -> None:
    """Gives the service's login roles their passwords; they travel and are stored as SCRAM verifiers only."""
    with psycopg.connect(admin_dsn, autocommit=True) as conn:
        for role, password in passwords.items():
            verifier = conn.pgconn.encrypt_password(password.encode(), role.encode(), b"scram-sha-256").decode()
            conn.execute(
                sql.SQL("alter role {} with login password {}").format(sql.Identifier(role), sql.Literal(verifier))
            )
