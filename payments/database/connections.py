"""Connections of a process: a pool that acts as the process's own role, and one connection that listens.

The pool's connections are in autocommit; `transaction` and `statements` are the only places that lend them out. Both
raise CommitUncertain when a commit is perhaps not on the synchronous standby: nobody may build a promise on it.

Behind a pooler that lends out a server's session for one transaction at a time, nothing is said to a session: role and
limits are said in each transaction, and no statement is prepared. A pooler shows by the backend's id, which it invents.
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
from payments.database.standbys import Doubts
from payments.errors import ClusterMoved, DatabaseUnsuitable, OperatingError, SchemaTooOld

# For each host of the address: one that vanished must not use up the time in which the next one would be found.
CONNECT_TIMEOUT_S = 3
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


class CommitUncertain(psycopg.OperationalError):
    """Committed here, and perhaps nowhere else: the wait for a synchronous standby was cut short.

    A failover may lose it, so it is as unknown as a commit whose connection broke.
    """


class Pool(AsyncConnectionPool[Connection]):
    """Connections that act as one role; `is_pooled`: a pooler stands between them and the server."""

    def __init__(self, dsn: str, role: str, connections_max: int, statement_timeout_ms: int) -> None:
        self.role = role
        self.statement_timeout_ms = statement_timeout_ms
        self.is_pooled = False
        super().__init__(
            dsn,
            connection_class=AsyncConnection,
            kwargs=_options(dsn, role),
            configure=self._prepare,
            check=AsyncConnectionPool.check_connection,
            min_size=min(2, connections_max),
            max_size=connections_max,
            timeout=POOL_WAIT_S,
            reconnect_timeout=RECONNECT_S,
            open=False,
            name=role,
        )

    async def _prepare(self, conn: Connection) -> None:
        await _set_up(conn, prepares=not self.is_pooled)
        if not self.is_pooled:
            await _act_as(conn, self.role, self.statement_timeout_ms, for_now=False)
            # At every connection: the address may lead somewhere else since, by failover or restore.
            await _check_cluster(conn)

    async def begin(self, conn: Connection) -> None:
        """Says in a transaction what the session does not know, behind a pooler, and looks where it leads this time."""
        if self.is_pooled:
            await _act_as(conn, self.role, self.statement_timeout_ms, for_now=True)
            try:
                await _check_cluster(conn)
            except ClusterMoved as error:  # like a server that is away: the pooler may lead home again
                raise psycopg.OperationalError(error.message) from error


async def connect(dsn: str, role: str) -> Connection:
    """One connection in autocommit, acting as `role` and ready to use; the caller closes it.

    Behind a pooler it is the login's, for the session is not ours. Raises psycopg.OperationalError when no server
    answers, DatabaseUnsuitable when the login may not act as `role`.
    """
    conn = await AsyncConnection.connect(dsn, **_options(dsn, role))
    try:
        is_behind_pooler = await is_pooled(conn)
        await _set_up(conn, prepares=not is_behind_pooler)
        if not is_behind_pooler:
            await _act_as(conn, role, STATEMENT_TIMEOUT_MS, for_now=False)
    except BaseException:
        await conn.close()
        raise
    return conn


def _options(dsn: str, role: str) -> dict[str, Any]:
    said = conninfo_to_dict(dsn)
    return {
        "autocommit": True,
        "connect_timeout": CONNECT_TIMEOUT_S,
        # Part of the greeting, which poolers understand, too.
        "application_name": f"payments {role.removeprefix('payments_')}",
        **{option: value for option, value in PATIENCE.items() if option not in said},
    }


async def is_pooled(conn: Connection) -> bool:
    """Whether something between us and the server speaks PostgreSQL's protocol itself."""
    row = await (await conn.execute(_QUERIES["backend_id"], prepare=False)).fetchone()
    return row is None or row[0] != conn.info.backend_pid


async def _set_up(conn: Connection, *, prepares: bool) -> None:
    # Said in every BEGIN: neither a default of the server or the role, nor a pooler's other session may change it.
    await conn.set_isolation_level(IsolationLevel.READ_COMMITTED)
    if not prepares:
        conn.prepare_threshold = None


async def _act_as(conn: Connection, role: str, statement_timeout_ms: int, *, for_now: bool) -> None:
    """Says whose the session is and what may hang how long, `for_now` only until the transaction ends."""
    limits = {"statement_timeout": str(statement_timeout_ms), "idle_timeout": str(IDLE_IN_TRANSACTION_TIMEOUT_MS)}
    try:
        await conn.execute(_QUERIES["act_as"], {"role": role, "for_now": for_now, **limits})
    except (psycopg.errors.InsufficientPrivilege, psycopg.errors.InvalidParameterValue) as error:
        raise DatabaseUnsuitable(
            f"The login of DATABASE_URL may not act as {role}: {str(error).strip()}",
            advice=f"Log in as {role}, or grant it to the login; `payments migrate` creates the role.",
        ) from error


@asynccontextmanager
async def open_pool(
    dsn: str,
    role: str,
    connections_max: int,
    statement_timeout_ms: int = STATEMENT_TIMEOUT_MS,
    *,
    behind_pooler: bool = False,
) -> AsyncIterator[Pool]:
    """A pool whose connections act as `role`, after a look at where they lead; closed at the end.

    A pooler is also noticed without being told. Raises DatabaseUnreachable, DatabaseUnsuitable, ClusterMoved,
    SchemaTooOld, SchemaTooNew.
    """
    pool = Pool(dsn, role, connections_max, statement_timeout_ms)
    try:
        async with await connect(dsn, role) as conn:
            pool.is_pooled = behind_pooler or await is_pooled(conn)
            async with conn.transaction():
                if pool.is_pooled:
                    await _act_as(conn, role, statement_timeout_ms, for_now=True)
                await check_database(conn)
    except psycopg.OperationalError as error:
        raise unreachable(error) from error
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
            advice="Point DATABASE_URL at the cluster it was made in; or, if it was restored here to stay, run "
            "`payments migrate --rebase` as an administrator (docs/operations.md).",
        )


def _schema_too_old(what: str) -> OperatingError:
    return SchemaTooOld(f"The database {what}.", advice="Run `payments migrate` as an administrator of the database.")


@asynccontextmanager
async def transaction(pool: Pool) -> AsyncIterator[Connection]:
    """A transaction on a connection of the pool: committed at the end, rolled back on any exception.

    An exception out of the commit itself (the connection broke, CommitUncertain) leaves it unknown what will last.
    """
    async with _lent(pool) as conn, conn.transaction():
        await pool.begin(conn)
        yield conn


@asynccontextmanager
async def statements(pool: Pool, timeout_s: float | None = None) -> AsyncIterator[Connection]:
    """A connection of the pool for statements that each commit at once; behind a pooler, all of them at the end.

    For one that writes, or several that read. Raises as `transaction` does; PoolTimeout after `timeout_s`.
    """
    if pool.is_pooled:
        async with _lent(pool, timeout_s) as conn, conn.transaction():
            await pool.begin(conn)
            yield conn
    else:
        async with _lent(pool, timeout_s) as conn:
            yield conn


async def confirm(conn: Connection) -> None:
    """Lets the commit wait for all that this transaction has read, as for its own.

    What was committed uncertainly can be read. Whoever promises somebody what another transaction wrote, calls this.
    """
    await conn.execute(_QUERIES["confirm"])


@asynccontextmanager
async def _lent(pool: Pool, timeout_s: float | None = None) -> AsyncIterator[Connection]:
    """A connection until the end of the block, which raises CommitUncertain when a commit is on no standby yet."""
    doubts = Doubts()
    async with pool.connection(timeout_s) as conn:
        conn.add_notice_handler(doubts.note)
        try:
            yield conn
        except psycopg.errors.ReadOnlySqlTransaction:
            await conn.close()  # a new one finds the host that writes, where the address names several
            raise
        finally:
            conn.remove_notice_handler(doubts.note)
        if doubts.told:
            raise CommitUncertain(f"perhaps lost in a failover: {doubts.told[0]}")


# What an operation on the pool raises while the database is away: expected, to be waited out. One that only reads is in
# recovery, or was demoted: it is about to write again, or the address to lead elsewhere.
DATABASE_AWAY = (
    psycopg.OperationalError,
    psycopg.InterfaceError,
    PoolTimeout,
    psycopg.errors.ReadOnlySqlTransaction,
)
# Raised while, or instead of, telling us how a commit ended: lost connections, sessions and servers that are ended.
_UNKNOWN_SQLSTATE_CLASSES = ("08", "57P")


def in_short(error: BaseException) -> str:
    """What happened, without PostgreSQL's DETAIL: that quotes whole rows, which are not for a log."""
    primary = error.diag.message_primary if isinstance(error, psycopg.Error) else None
    return primary or str(error).strip()


def may_be_committed(error: BaseException) -> bool:
    """Whether what a commit wrote may be there although the commit raised this."""
    sqlstate: str | None = getattr(error, "sqlstate", None)
    return sqlstate is None or sqlstate.startswith(_UNKNOWN_SQLSTATE_CLASSES)
