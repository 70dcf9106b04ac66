"""What the reconciler's jobs share: their surroundings, their turns, and what they tell of their work."""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol

import psycopg
from psycopg.errors import DeadlockDetected, LockNotAvailable
from psycopg_pool import PoolTimeout

from payments.database.connections import Connection, Pool, statements
from payments.database.queries import load_queries
from payments.reconciler.asking import Gateway
from payments.settings import Settings

# Whoever keeps a payment locked longer is not waited for: there is another time.
LOCK_WAIT_MS = 250
LOCKED = (LockNotAvailable, DeadlockDetected)
# A turn is free again so long after its process died; while that lives, it renews the turn.
TURN_S = 15.0
RENEW_S = 5.0

_QUERIES = load_queries("reconciler")


class Announcer(Protocol):
    """What the reconciler needs of a Notifier."""

    def notify(self, channel: str, payload: str = "") -> None:
        """Wakes the listeners of a channel; never blocks nor raises."""


@dataclass(frozen=True)
class Surroundings:
    """Where a pass works. `at_once`: an operator asks for everything now, not for what is due."""

    pool: Pool
    gateway: Gateway
    notifier: Announcer
    settings: Settings
    at_once: bool = False
    found: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True)
class Job:
    """One thing to do again and again.

    `run` does a bounded part of it and says whether more waits; it raises StripeAway, and what the database raises.
    `every_s` is the pause between two parts when nothing waits. With `takes_turns` one process of all is at it at a
    time; else the job shares out its rows itself. `has_work` is asked before: it is cheap.
    """

    name: str
    run: Callable[[Surroundings], Coroutine[Any, Any, bool]]
    every_s: Callable[[Settings], float]
    takes_turns: bool
    has_work: Callable[[Surroundings], Coroutine[Any, Any, bool]] | None = None


@dataclass
class Turn:
    """A job's turn that is ours until `end`, by the database's clock."""

    job: str
    end: datetime


async def take_turn(around: Surroundings, job: Job) -> Turn | None:
    """A turn of TURN_S; None when its time has not come, or another process has it."""
    name = f"turn/{job.name}"
    end = await _ask_for_end(around, "take_turn", {"job": name, "turn_s": TURN_S, "at_once": around.at_once})
    return Turn(name, end) if end is not None else None


async def keep_turn(around: Surroundings, turn: Turn) -> None:
    """Renews a turn, and returns once it is lost: to another process, or to a database that was away for too long."""
    ours_until = time.monotonic() + TURN_S
    while time.monotonic() < ours_until:
        await asyncio.sleep(RENEW_S)
        asked = time.monotonic()
        try:
            end = await _ask_for_end(around, "renew_turn", {"job": turn.job, "end": turn.end, "turn_s": TURN_S})
        except (psycopg.Error, PoolTimeout):
            continue
        if end is None:
            return
        turn.end, ours_until = end, asked + TURN_S


async def end_turn(around: Surroundings, turn: Turn, pause_s: float) -> None:
    """Lets the next turn begin after a pause; nothing when the turn was lost."""
    await _ask_for_end(around, "renew_turn", {"job": turn.job, "end": turn.end, "turn_s": pause_s})


async def _ask_for_end(around: Surroundings, query: str, values: dict[str, Any]) -> datetime | None:
    async with statements(around.pool) as conn:
        row: Any = await (await conn.execute(_QUERIES[query], values)).fetchone()
    return row[0] if row else None


async def read_progress(conn: Connection, *jobs: str) -> tuple[dict[str, datetime], datetime]:
    """How far jobs have come, and the database's time."""
    row: Any = await (await conn.execute(_QUERIES["read_progress"], {"jobs": list(jobs)})).fetchone()
    return {job: datetime.fromisoformat(text) for job, text in row[0].items()}, row[1]


async def move_progress(conn: Connection, job: str, before: datetime | None, position: datetime) -> bool:
    """One step of a job; False when another process was quicker. Joins the caller's transaction."""
    values = {"job": job, "before": before, "position": position}
    query = "begin_progress" if before is None else "move_progress"
    return (await conn.execute(_QUERIES[query], values)).rowcount == 1


async def guard_plans(conn: Connection) -> None:
    """From here on the transaction goes by indexes, and raises one of LOCKED rather than wait long."""
    await conn.execute(_QUERIES["guard_plans"], {"lock_wait": f"{LOCK_WAIT_MS}ms"})
