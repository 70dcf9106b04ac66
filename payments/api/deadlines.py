"""An answer in time, also from a database that neither answers nor refuses: one whose host or disk stands still."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

import psycopg

# Above the longest wait that an answer may need: 5 s for a connection, and 5 s for a rival's transaction.
DATABASE_ANSWERS_S = 12.0

T = TypeVar("T")


class DatabaseSilent(psycopg.OperationalError):
    """The database has not answered in time; whether it did what it was asked is unknown."""


async def in_time(work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`, or DatabaseSilent; the caller never waits for what the work still waits for."""
    task = asyncio.create_task(work)
    task.add_done_callback(_forget)
    try:
        await asyncio.wait({task}, timeout=DATABASE_ANSWERS_S)
        if not task.done():
            raise DatabaseSilent(f"no answer within {DATABASE_ANSWERS_S:g} s")
        return task.result()
    finally:
        task.cancel()


def _forget(task: asyncio.Task[Any]) -> None:
    """An error that comes after the deadline has nobody left to hear it."""
    if not task.cancelled():
        task.exception()
