"""The audit that runs all the time: payments.audit_imbalances, at a cost that depends on what is going on now.

A run looks at the payments that have something open, at those that were off before, and at all that were told of since
the run before; nothing that the service itself could do wrong goes past these. Beyond that it looks at the next slice
of all payments, so that what somebody changed behind the triggers' backs is found within a day as well.
"""

from typing import Any
from uuid import UUID

import structlog

from payments.database.connections import transaction
from payments.database.queries import load_queries
from payments.reconciler.jobs import Job, Surroundings, guard_plans

EVERY_S = 60.0
# Some tenths of a second a run, and a lap of ten thousand payments is a handful of runs.
SLICE_MIN = 2_000
# However many there are, a lap ends within a day: so many runs of a minute.
LAP_RUNS_MAX = 1_440
# Of each open state, and of what was off before, the oldest first: a backlog of a million is looked at as it comes
# and goes, and in laps.
OPEN_MAX = 2_000
# Events told of since the last run: more than a minute can bring. What a longer pause brought is left to the laps.
TOLD_MAX = 100_000
# Few enough for one short transaction, many enough that reading the queues once for each does not matter.
CHUNK = 1_000
# An alert a finding; a thousand of them are one catastrophe, and `payments doctor` has them all.
ALERTS_MAX = 100

_QUERIES = load_queries("audit")
log = structlog.get_logger()


async def audit(around: Surroundings) -> bool:
    """One run; never has more to do at once. Writes audit_findings and audit_progress."""
    values = {
        "slice_min": SLICE_MIN,
        "lap_runs_max": LAP_RUNS_MAX,
        "open_max": OPEN_MAX,
        "told_max": TOLD_MAX,
        "balance_every_s": around.settings.events_backfill_s,
    }
    async with transaction(around.pool) as conn:
        await guard_plans(conn)
        row: Any = await (await conn.execute(_QUERIES["list_due"], values)).fetchone()
    payment_ids, lap_at, begins_lap, seen, began_at = row
    alerts = 0
    for start in range(0, len(payment_ids), CHUNK):
        alerts = await _look(around, payment_ids[start : start + CHUNK], alerts)
    progress = {"seen": seen, "lap_at": lap_at, "begins_lap": begins_lap, "began_at": began_at}
    async with transaction(around.pool) as conn:
        await conn.execute(_QUERIES["move_on"], progress)
    return False


async def _look(around: Surroundings, payment_ids: list[UUID], alerts: int) -> int:
    """Compares some payments; returns how many alerts this run has raised by now."""
    async with transaction(around.pool) as conn:
        rows: list[Any] = await (await conn.execute(_QUERIES["look"], {"payment_ids": payment_ids})).fetchall()
    for what, payment_id, kind, finding in rows:
        if what == "gone":
            log.info("audit.imbalance_gone", payment_id=str(payment_id), kind=kind)
            continue
        around.found["imbalances"] += 1
        if what == "new":
            alerts += 1
            if alerts <= ALERTS_MAX:
                log.error("audit.imbalance_found", payment_id=str(payment_id), kind=kind, imbalance=finding)
    return alerts


AUDIT = Job("audit", audit, lambda _: EVERY_S, takes_turns=True)
