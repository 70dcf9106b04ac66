"""Wishes that stand, but that nobody works on: no event to dispatch, no message, no call, no inbox row, no dead letter.

This should never be. A queue that was emptied by hand, or restored from a backup, is how it comes about.
"""

from typing import Any
from uuid import UUID

import structlog

from payments.database.connections import in_short, statements, transaction
from payments.database.queries import load_queries
from payments.reconciler.commands import send_command
from payments.reconciler.given_up import end_given_up
from payments.reconciler.jobs import LOCKED, Job, Surroundings, guard_plans
from payments.reconciler.verdicts import Operation
from payments.wakeup import QUEUE

# Longer than any wish is between two of those places, shorter than anybody's patience.
LOST_AFTER_S = 300.0
# Looked at in one go, from the oldest on: those behind them come when these are done.
LOOKED_AT_MAX = 500
# Sent in one go: few enough that what is newer comes soon.
ROWS_MAX = 50
EVERY_S = 60.0

_QUERIES = load_queries("reconciler")
_FINDERS = {
    Operation.CREATE: "lost_creates",
    Operation.CAPTURE: "lost_captures",
    Operation.CANCEL: "lost_cancels",
    Operation.REFUND: "lost_refunds",
}
log = structlog.get_logger()


async def send_lost_commands(around: Surroundings) -> bool:
    """Sends again what was lost, and ends what was given up; whether there may be more to send."""
    is_full = False
    for operation in Operation:
        is_full |= await _send(around, operation)
    await end_given_up(around, LOST_AFTER_S)
    async with statements(around.pool) as conn:
        values = {"after_s": LOST_AFTER_S, "rows_max": LOOKED_AT_MAX}
        await conn.execute(_QUERIES["watch_unwatched"], values)
    return is_full


async def _send(around: Surroundings, operation: Operation) -> bool:
    """Whether there may be more. What belongs to a locked payment waits for the next time: others have their turn."""
    values = {"after_s": LOST_AFTER_S, "looked_at_max": LOOKED_AT_MAX, "rows_max": ROWS_MAX}
    async with transaction(around.pool) as conn:
        await guard_plans(conn)
        rows: list[Any] = await (await conn.execute(_QUERIES[_FINDERS[operation]], values)).fetchall()
    sent: list[UUID] = []
    for payment_id, subject_id in rows:
        try:
            async with transaction(around.pool) as conn:
                await guard_plans(conn)
                queue = await send_command(conn, operation, payment_id, subject_id)
        except LOCKED as error:
            around.found["commands of locked payments"] += 1
            log.warning("command.unsent", payment_id=str(payment_id), error=in_short(error))
            continue
        sent.append(payment_id)
        if queue is not None:
            around.notifier.notify(QUEUE, queue)
    if sent:
        around.found["lost commands sent again"] += len(sent)
        log.warning("commands.sent_again", operation=operation.value, payment_ids=[str(one) for one in sent])
    return bool(sent) and len(rows) == ROWS_MAX


LOST = Job("lost commands", send_lost_commands, lambda _: EVERY_S, takes_turns=True)
