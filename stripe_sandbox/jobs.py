"""What time does by itself, kept in the state file so that a restart goes on."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from stripe_sandbox.call import Call
    from stripe_sandbox.store import Store

# A batch is one transaction; enough for any test, small enough not to stall requests.
BATCH = 200


def add(call: Call, kind: str, target: str, due: float) -> None:
    """Do ``kind`` to ``target`` when the sandbox's clock reaches ``due``; in the caller's transaction."""
    call.store.db.execute("INSERT INTO jobs (due, kind, target) VALUES (?, ?, ?)", (due, kind, target))


def next_due(store: Store) -> float | None:
    """When the earliest job is due."""
    row = store.db.execute("SELECT min(due) FROM jobs").fetchone()
    return None if row[0] is None else float(row[0])


def run_due(call: Call, handlers: dict[str, Callable[[Call, str], None]]) -> int:
    """Run what is due, one transaction for the batch; returns how many ran.

    Each job sees its own due time as now, so that moving the clock by a week dates things as a week would have.
    """
    rows = call.store.db.execute(
        "SELECT id, due, kind, target FROM jobs WHERE due <= ? ORDER BY due, id LIMIT ?", (call.now, BATCH)
    ).fetchall()
    if not rows:
        return 0
    with call.store.transaction():
        for identifier, due, kind, target in rows:
            handlers[kind](replace(call, now=max(due, 0.0)), target)
            call.store.db.execute("DELETE FROM jobs WHERE id = ?", (identifier,))
    return len(rows)
