"""Forgets how payments travelled once they have been at rest for months; the payments themselves are kept.

The database decides what may go, under its own locks and in small batches (payments.forget_payments and its like in
sql/schema.sql): nobody who takes or makes payments ever waits for it.
"""

from typing import Any

from payments.database.connections import transaction
from payments.database.queries import load_queries
from payments.reconciler.jobs import Job, Surroundings

# A lap of a million payments takes some seconds of the database's time, mostly to find nothing new.
EVERY_S = 6 * 3600.0
# A batch is a transaction of some tens of milliseconds.
ROWS_MAX = 500
# A part of the job; other jobs are due as well.
BATCHES_MAX = 20

_QUERIES = load_queries("retention")


async def forget(around: Surroundings) -> bool:
    """Some batches of each kind; whether more may be."""
    days = around.settings.retention_days
    has_more = False
    for what, kept_days in (
        ("forget_payments", days),
        ("forget_foreign", days),
        ("forget_batches", days),
        ("forget_keys", around.settings.idempotency_days),
    ):
        has_more |= await _forget(around, what, kept_days)
    return has_more


async def _forget(around: Surroundings, what: str, kept_days: int) -> bool:
    """Whether a last batch was full: then more may be."""
    for _ in range(BATCHES_MAX):
        async with transaction(around.pool) as conn:
            values = {"kept_days": kept_days, "rows_max": ROWS_MAX}
            row: Any = await (await conn.execute(_QUERIES[what], values)).fetchone()
        if row[0] < ROWS_MAX:
            return False
    return True


RETENTION = Job("retention", forget, lambda _: EVERY_S, takes_turns=True)
