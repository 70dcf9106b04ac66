"""The audit on a database of its own, without a worker around it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

from payments.database.connections import open_pool
from payments.reconciler.jobs import Surroundings
from payments.settings import Settings
from tests.audit.sound_books import Connection, keep_sound_books
from tests.development.databases import Database

ROLE = "payments_worker"


class Auditor:
    """Both sides: `around` for the job, as the worker's role; `conn` for whoever spoils the books, as a superuser."""

    def __init__(self, conn: Connection, around: Surroundings) -> None:
        self.conn = conn
        self.around = around

    @classmethod
    @asynccontextmanager
    async def on_sound_books(cls, database: Database) -> AsyncIterator["Auditor"]:
        """With payments in every state."""
        with database.connect() as conn:
            keep_sound_books(conn)
            async with cls.on(database) as auditor:
                yield auditor

    @classmethod
    @asynccontextmanager
    async def on(cls, database: Database) -> AsyncIterator["Auditor"]:
        """With the books as they are."""
        with database.connect() as conn:
            async with open_pool(database.dsn(ROLE), ROLE, 2) as pool:
                around = Surroundings(pool, None, None, Settings.load({}))  # type: ignore[arg-type]  # asks, wakes nobody
                yield cls(conn, around)

    def view(self) -> list[tuple[UUID, str]]:
        """What the view says now."""
        return self._rows("select payment_id, kind from payments.audit_imbalances order by payment_id")

    def findings(self) -> list[tuple[UUID, str]]:
        """What the audit has found."""
        return self._rows("select payment_id, kind from payments.audit_findings order by payment_id")

    def _rows(self, query: str) -> list[Any]:
        return list(self.conn.execute(query).fetchall())
