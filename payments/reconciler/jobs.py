"""What the reconciler's jobs share: their surroundings, their turns, and what they tell of their work."""

from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol

from payments.database.connections import Connection, Pool
from payments.database.queries import load_queries
from payments.reconciler.asking import Gateway
from payments.settings import Settings

# Whoever keeps a payment locked longer is not waited for: there is another time.
LOCK_WAIT_MS = 250

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
    `every_s` is the pause between two parts when nothing waits. With `lease_s` one process of all is at it at a time,
    and for so long when it dies; without, the job shares out its rows itself. `has_work` is asked before: it is cheap.
    """

    name: str
    run: Callable[[Surroundings], Awaitable[bool]]
    every_s: Callable[[Settings], float]
    lease_s: float | None
    has_work: Callable[[Surroundings], Awaitable[bool]] | None = None


async def take_turn(around: Surroundings, job: Job) -> datetime | None:
    """The end of the turn that is ours now; None when there is none."""
    values = {"job": f"turn/{job.name}", "lease_s": job.lease_s, "at_once": around.at_once}
    async with around.pool.connection() as conn:
        row: Any = await (await conn.execute(_QUERIES["take_turn"], values)).fetchone()
    return row[0] if row else None


async def end_turn(around: Surroundings, job: Job, taken: datetime, pause_s: float) -> None:
    """Lets the next turn begin after a pause."""
    values = {"job": f"turn/{job.name}", "taken": taken, "pause_s": pause_s}
    async with around.pool.connection() as conn:
        await conn.execute(_QUERIES["end_turn"], values)


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
    """From here on the transaction goes by indexes, and raises LockNotAvailable rather than wait long."""
    await conn.execute(_QUERIES["guard_plans"], {"lock_wait": f"{LOCK_WAIT_MS}ms"})
