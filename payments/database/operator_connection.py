"""The connection of a command that an operator runs: what goes wrong with the database is said in words."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
from psycopg.errors import (
    Diagnostic,
    InsufficientPrivilege,
    InvalidSchemaName,
    ReadOnlySqlTransaction,
    UndefinedFunction,
    UndefinedTable,
)
from psycopg.rows import RowFactory, tuple_row

from payments.database.connections import tells_of_doubt
from payments.database.migrate import unreachable
from payments.database.queries import load_queries
from payments.errors import DatabaseUnsuitable, SchemaTooOld

CONNECT_TIMEOUT_S = 5

_QUERIES = load_queries("connections")


@contextmanager
def operator_connection(dsn: str, row_factory: RowFactory[Any] = tuple_row) -> Iterator[psycopg.Connection[Any]]:
    """A connection, whose transaction commits at the end unless the command has made smaller ones of it.

    Raises DatabaseUnreachable, SchemaTooOld (there is none) and DatabaseUnsuitable (the role may not do this, or a
    failover may undo it).
    """
    warnings: list[str] = []

    def note(diagnostic: Diagnostic) -> None:
        if tells_of_doubt(diagnostic):
            warnings.append(str(diagnostic.message_primary))

    try:
        with psycopg.connect(
            dsn, connect_timeout=CONNECT_TIMEOUT_S, row_factory=row_factory, prepare_threshold=None
        ) as conn:
            conn.add_notice_handler(note)
            conn.execute(_QUERIES["speak_plainly"])
            conn.commit()
            yield conn
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
    if warnings:
        raise DatabaseUnsuitable(
            f"It is done on this server, and perhaps on no standby: {warnings[0]}.",
            advice="A failover may undo it. Look again when the standby is back.",
        )
