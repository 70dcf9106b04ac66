"""The connection of a command that an operator runs: what goes wrong with the database is said in words."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
from psycopg.errors import (
    DeadlockDetected,
    InsufficientPrivilege,
    InvalidSchemaName,
    LockNotAvailable,
    QueryCanceled,
    ReadOnlySqlTransaction,
    UndefinedFunction,
    UndefinedTable,
)
from psycopg.rows import RowFactory, tuple_row

from payments.database.migrate import CONNECT_TIMEOUT_S, unreachable
from payments.database.queries import load_queries
from payments.database.standbys import Doubts
from payments.errors import DatabaseUnsuitable, SchemaTooOld

_QUERIES = load_queries("connections")


@contextmanager
def operator_connection(dsn: str, row_factory: RowFactory[Any] = tuple_row) -> Iterator[psycopg.Connection[Any]]:
    """A connection, whose transaction commits at the end unless the command has made smaller ones of it.

    Raises as `told_in_words` does, and DatabaseUnsuitable when a failover may undo what was done.
    """
    doubts = Doubts()
    with (
        told_in_words(),
        psycopg.connect(
            dsn, connect_timeout=CONNECT_TIMEOUT_S, row_factory=row_factory, prepare_threshold=None
        ) as conn,
    ):
        conn.add_notice_handler(doubts.note)
        conn.execute(_QUERIES["speak_plainly"])
        conn.commit()
        yield conn
    doubts.tell_operator()


@contextmanager
def told_in_words() -> Iterator[None]:
    """What an operator's work on the database runs into, as one of ours.

    Raises DatabaseUnreachable, SchemaTooOld (there is none) and DatabaseUnsuitable (it is busy, it only reads, the
    role may not do this).
    """
    try:
        yield
    except (LockNotAvailable, QueryCanceled, DeadlockDetected) as error:
        raise DatabaseUnsuitable(
            f"Somebody is at work on the same: {error.diag.message_primary}.",
            advice="This step changed nothing; what was said before it stands. Try again, or end their session.",
        ) from error
    except psycopg.OperationalError as error:
        raise unreachable(error) from error
    except (InvalidSchemaName, UndefinedTable, UndefinedFunction) as error:
        raise SchemaTooOld(
            "The database has no payments schema, or an older one.",
            advice="Run `payments migrate` as an administrator of the database.",
        ) from error
    except ReadOnlySqlTransaction as error:
        raise DatabaseUnsuitable(
            "This database can only be read: it is a standby, or set so.",
            advice="Set DATABASE_URL to the primary.",
        ) from error
    except InsufficientPrivilege as error:
        raise DatabaseUnsuitable(
            f"The role of DATABASE_URL may not do this: {error.diag.message_primary}.",
            advice="Set DATABASE_URL to an administrator's address of the database.",
        ) from error
