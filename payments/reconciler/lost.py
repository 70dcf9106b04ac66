"""Wishes that stand, but that nobody works on: no event to dispatch, no message, no call, no inbox row, no dead letter.

This should never be. A queue that was emptied by hand, or restored from a backup, is how it comes about. But for what
an operator has given up by discarding its dead letter: the void of a payment whose charge was parked; and a refund,
which ends as FAILED once it is certain that Stripe has not made it, so that its amount can be refunded again.
"""

from typing import Any
from uuid import UUID

import msgspec
import structlog

from payments.database.connections import in_short, statements, transaction
from payments.database.queries import load_queries
from payments.domain.refunds import DISCARDED, DOES_NOT_FIT
from payments.inbox.rows import receive
from payments.reconciler.commands import send_command
from payments.reconciler.jobs import LOCKED, Job, Surroundings, guard_plans
from payments.reconciler.verdicts import Operation
from payments.wakeup import INBOX, QUEUE

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
# In the words of an answer, so that a recorder of an older release understands it, too.
_DISCARDED = {"code": DISCARDED, "message": "given up by an operator; Stripe has not made it"}
log = structlog.get_logger()


async def send_lost_commands(around: Surroundings) -> bool:
    """Sends again what was lost; whether there may be more."""
    is_full = False
    for operation in Operation:
        is_full |= await _send(around, operation)
    await _look_for_given_up(around)
    await _end_given_up_refunds(around)
    async with statements(around.pool) as conn:
        values = {"after_s": LOST_AFTER_S, "rows_max": LOOKED_AT_MAX}
        await conn.execute(_QUERIES["watch_unwatched"], values)
    return is_full


async def _look_for_given_up(around: Surroundings) -> None:
    """No command would help, for the call may have made something."""
    values, rows = {"after_s": LOST_AFTER_S, "rows_max": LOOKED_AT_MAX}, list[Any]()
    for query in ("unpark_voids", "unpark_refunds"):
        async with transaction(around.pool) as conn:
            await guard_plans(conn)
            rows += await (await conn.execute(_QUERIES[query], values)).fetchall()
    if rows:
        around.found["parked calls to look for"] += len(rows)
        log.info("calls.unparked", payment_ids=[str(payment_id) for (payment_id,) in rows])


async def _end_given_up_refunds(around: Surroundings) -> None:
    async with transaction(around.pool) as conn:
        await guard_plans(conn)
        values = {"after_s": LOST_AFTER_S, "rows_max": ROWS_MAX, "waits": f"%{DOES_NOT_FIT}%"}
        rows: list[Any] = await (await conn.execute(_QUERIES["given_up_refunds"], values)).fetchall()
        for payment_id, refund_id, dead_letter_id in rows:
            word = {"operation": Operation.REFUND, "subjectId": refund_id, "outcome": "refused", "error": _DISCARDED}
            row = (f"discarded/{dead_letter_id}", f"api.{Operation.REFUND}", payment_id, msgspec.json.encode(word))
            await receive(conn, "reconciler", *row)
    if rows:
        around.found["refunds given up"] += len(rows)
        around.notifier.notify(INBOX)
        log.warning("refunds.given_up", refund_ids=[str(refund_id) for _, refund_id, _ in rows])


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
