"""Connections of a process: a pool that acts as the process's own role, and one connection that listens.

The pool's connections are in autocommit; `transaction` is the one place that begins and commits.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import psycopg
from psycopg import AsyncConnection, IsolationLevel
from psycopg.conninfo import conninfo_to_dict
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from payments.database.migrate import SCHEMA_VERSION, schema_too_new, unreachable
from payments.database.queries import load_queries
from payments.errors import ClusterMoved, DatabaseUnsuitable, OperatingError, SchemaTooOld

CONNECT_TIMEOUT_S = 5
# A host that vanished answers nothing, not even that it is gone: the kernel would wait a quarter of an hour for its
# word, and two hours on a statement under way. So it is noticed within 20 seconds, unless the address says otherwise.
PATIENCE = {"keepalives_idle": "5", "keepalives_interval": "5", "keepalives_count": "3", "tcp_user_timeout": "20000"}
# Nothing the processes do takes longer, waits for locks included; a statement that does is stuck.
STATEMENT_TIMEOUT_MS = 30_000
# A transaction of ours never waits for the network or for Stripe: one that idles belongs to a stopped process.
IDLE_IN_TRANSACTION_TIMEOUT_MS = 15_000
# How long a caller waits for a free connection before it is told that the database is overloaded or gone.
POOL_WAIT_S = 5.0
# The pool doubles the pauses between its attempts to connect, up to this time; then whoever next asks for a connection
# makes it try afresh. Longer, and an outage of an hour would cost an hour more.
RECONNECT_S = 2.0

_QUERIES = load_queries("connections")

Connection = AsyncConnection[tuple[object, ...]]
Pool = AsyncConnectionPool[Connection]


async def connect(dsn: str, role: str) -> Connection:
    """One connection in autocommit, acting as `role` and ready to use; the caller closes it.

    Raises psycopg.OperationalError when no server answers, DatabaseUnsuitable when the login may not act as `role`.
    """
    conn = await AsyncConnection.connect(dsn, autocommit=True, connect_timeout=CONNECT_TIMEOUT_S, **_patience(dsn))
    try:
        await _act_as(conn, role)
    except BaseException:
        await conn.close()
        raise
    return conn


def _patience(dsn: str) -> dict[str, Any]:
    said = conninfo_to_dict(dsn)
    return {option: value for option, value in PATIENCE.items() if option not in said}


async def _act_as(conn: Connection, role: str, statement_timeout_ms: int = STATEMENT_TIMEOUT_MS) -> None:
    # Said in every BEGIN: neither a default of the server or the role, nor a pooler's other session may change it.
    await conn.set_isolation_level(IsolationLevel.READ_COMMITTED)
    try:
        await conn.execute(
            _QUERIES["act_as"],
            {
                "role": role,
                "application": f"payments {role.removeprefix('payments_')}",
                "statement_timeout": str(statement_timeout_ms),
                "idle_timeout": str(IDLE_IN_TRANSACTION_TIMEOUT_MS),
            },
        )
    except (psycopg.errors.InsufficientPrivilege, psycopg.errors.InvalidParameterValue) as error:
        raise DatabaseUnsuitable(
            f"The login of DATABASE_URL may not act as {role}: {str(error).strip()}",
            advice=f"Log in as {role}, or grant it to the login; `payments migrate` creates the role.",
        ) from error


@asynccontextmanager
async def open_pool(
    dsn: str, role: str, connections_max: int, statement_timeout_ms: int = STATEMENT_TIMEOUT_MS
) -> AsyncIterator[Pool]:
    """A pool whose connections act as `role`, after a look at where they lead; closed at the end.

    Raises DatabaseUnreachable, DatabaseUnsuitable, ClusterMoved, SchemaTooOld, SchemaTooNew.
    """
    try:
        async with await connect(dsn, role) as conn:
            await check_database(conn)
    except psycopg.OperationalError as error:
        raise unreachable(error) from error

    async def configure(conn: Connection) -> None:
        await _act_as(conn, role, statement_timeout_ms)
        # At every connection: the address may lead somewhere else since, by failover or restore.
        await _check_cluster(conn)

    pool = AsyncConnectionPool(
        dsn,
        connection_class=AsyncConnection,
        kwargs={"autocommit": True, "connect_timeout": CONNECT_TIMEOUT_S, **_patience(dsn)},
        configure=configure,
        check=AsyncConnectionPool.check_connection,
        min_size=min(2, connections_max),
        max_size=connections_max,
        timeout=POOL_WAIT_S,
        reconnect_timeout=RECONNECT_S,
        open=False,
        name=role,
    )
    async with pool:
        yield pool


async def check_database(conn: Connection) -> None:
    """Refuses a database of another schema version, or one restored into another cluster."""
    exists = await (await conn.execute(_QUERIES["look_for_schema"])).fetchone()
    if exists is None or not exists[0]:
        raise _schema_too_old("has no payments schema")
    row = await (await conn.execute(_QUERIES["schema_version"])).fetchone()
    assert row is not None
    version = int(str(row[0]))
    if version < SCHEMA_VERSION:
        raise _schema_too_old(f"has schema version {version}, this release needs {SCHEMA_VERSION}")
    if version > SCHEMA_VERSION:
        raise schema_too_new(version)
    await _check_cluster(conn)


async def _check_cluster(conn: Connection) -> None:
    """The outbox remembers transaction ids, which mean nothing in another cluster."""
    row = await (await conn.execute(_QUERIES["is_home"])).fetchone()
    if row is None or not row[0]:
        raise ClusterMoved(
            "This database was made in another PostgreSQL cluster; the outbox would be dispatched wrongly here.",
            advice="Point DATABASE_URL at the cluster it was made in, or restore it physically (pg_basebackup).",
        )


def _schema_too_old(what: str) -> OperatingError:
    return SchemaTooOld(f"The database {what}.", advice="Run `payments migrate` as an administrator of the database.")


@asynccontextmanager
async def transaction(pool: Pool) -> AsyncIterator[Connection]:
    """A transaction on a connection of the pool: committed at the end, rolled back on any exception.

    An exception out of the commit itself (the connection broke) leaves it unknown whether it was committed.
    """
    async with pool.connection() as conn, conn.transaction():
        yield conn


# What an operation on the pool raises while the database is away: expected, to be waited out. One that only reads is in
# recovery, or was demoted: it is about to write again, or the address to lead elsewhere.
DATABASE_AWAY = (
    psycopg.OperationalError,
    psycopg.InterfaceError,
    PoolTimeout,
    psycopg.errors.ReadOnlySqlTransaction,
)
