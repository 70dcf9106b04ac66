"""Rows of the inbox between their arrival and their end: claimed, put off, finished, buried.

All functions join the caller's transaction. A claimed row is locked until that ends, and skipped by other recorders.
"""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

import msgspec
import structlog

from payments.database.connections import Connection
from payments.database.queries import load_queries
from payments.inbox.low_water import TRAIL_S
from payments.inbox.reading import InboxRow

# The API and the workers keep a payment locked for milliseconds; whoever keeps it longer must not hold up all others.
LOCK_WAIT_MS = 250
ERROR_CHARACTERS_MAX = 1_000  # of an error kept with a row: a message, not a traceback

_QUERIES = load_queries("inbox")
log = structlog.get_logger()


async def claim_new(conn: Connection, floor_id: int, rows_max: int) -> list[InboxRow]:
    """Claims rows above `floor_id` that were never put off, the oldest first."""
    return await _claim(conn, "claim_new", {"floor_id": floor_id, "rows_max": rows_max})


async def claim_one(conn: Connection, inbox_id: int) -> InboxRow | None:
    """Claims one row; None when another recorder has it, or it is done or put off."""
    return next(iter(await _claim(conn, "claim_one", {"inbox_id": inbox_id})), None)


async def claim_leased(conn: Connection, inbox_ids: Sequence[int]) -> list[InboxRow]:
    """Claims rows that this process put off for itself; those that are done are left out."""
    return await _claim(conn, "claim_leased", {"inbox_ids": list(inbox_ids)})


async def _claim(conn: Connection, query: str, values: dict[str, object]) -> list[InboxRow]:
    await _guard(conn)
    rows: list[Any] = await (await conn.execute(_QUERIES[query], values)).fetchall()
    return [InboxRow(*row) for row in rows]


async def _guard(conn: Connection) -> None:
    await conn.execute(_QUERIES["guard_transaction"], {"lock_wait": f"{LOCK_WAIT_MS}ms"})


async def list_due(conn: Connection, floor: str, rows_max: int) -> tuple[list[int], str]:
    """The ids of rows whose time has come again since `floor`, not claimed; and the floor of the next look."""
    await _guard(conn)
    values = {"floor": floor, "rows_max": rows_max, "trail_s": TRAIL_S}
    row: Any = await (await conn.execute(_QUERIES["list_due"], values)).fetchone()
    return row[0], row[1]


class Finished(msgspec.Struct, frozen=True):
    """A row that is done: what came of it, and its error if it is dead."""

    inbox_id: int
    outcome: str
    payment_id: UUID | None = None
    why: str | None = None


async def finish(conn: Connection, rows: Sequence[Finished]) -> None:
    """Marks rows as done."""
    values = {
        "ids": [row.inbox_id for row in rows],
        "outcomes": [row.outcome for row in rows],
        "payment_ids": [row.payment_id for row in rows],
        "whys": [row.why for row in rows],
    }
    await conn.execute(_QUERIES["finish"], values)


async def supersede(conn: Connection, inbox_ids: Sequence[int], payment_id: UUID | None) -> int:
    """Marks rows as answered by a fetched object; returns how many still waited."""
    values = {"inbox_ids": list(inbox_ids), "payment_id": payment_id}
    return (await conn.execute(_QUERIES["supersede"], values)).rowcount


async def reconsider(conn: Connection, inbox_ids: Sequence[int], payment_id: UUID | None, pause_s: float) -> int:
    """Lets rows be weighed again as that payment's, which counts towards their end; returns how many still waited."""
    values = {"inbox_ids": list(inbox_ids), "payment_id": payment_id, "pause_s": pause_s}
    return (await conn.execute(_QUERIES["reconsider"], values)).rowcount


async def disown(conn: Connection, inbox_ids: Sequence[int]) -> None:
    """Marks rows as somebody else's."""
    await conn.execute(_QUERIES["disown"], {"inbox_ids": list(inbox_ids)})


async def put_off(conn: Connection, inbox_id: int, pause_s: float, why: str, *, burnt: int) -> None:
    """Lets a row wait; `burnt` attempts count towards its end."""
    values = {"inbox_id": inbox_id, "pause_s": pause_s, "why": why[:ERROR_CHARACTERS_MAX], "burnt": burnt}
    await conn.execute(_QUERIES["put_off"], values)


async def put_off_by_age(conn: Connection, inbox_id: int, pause_s_min: float, pause_s_max: float, why: str) -> None:
    """Lets a row wait as long as it is old, within bounds, so that its pauses double; its attempts stay as they are."""
    pauses = {"pause_s_min": pause_s_min, "pause_s_max": pause_s_max}
    await conn.execute(_QUERIES["put_off_by_age"], {"inbox_id": inbox_id, "why": why[:ERROR_CHARACTERS_MAX], **pauses})


async def bury(conn: Connection, row: InboxRow, payment_id: UUID | None, why: str) -> None:
    """Makes a dead letter of a row: an operator must look, and may let it be tried again."""
    log.error("inbox.buried", inbox_id=row.inbox_id, message_id=row.message_id, why=why)
    error = why[:ERROR_CHARACTERS_MAX]
    values = {"inbox_id": row.inbox_id, "payment_id": payment_id, "why": error}
    await conn.execute(_QUERIES["bury"], values)
    await finish(conn, [Finished(row.inbox_id, "dead", payment_id, error)])
