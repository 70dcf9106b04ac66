"""What an operator has given up by discarding its dead letter ends as Stripe has it (docs/operations.md, parked calls).

The void of a payment whose charge was parked; and a refund, which ends as FAILED once it is certain that Stripe has not
made it, so that its amount can be refunded again. All else stays as it is.
"""

from typing import Any

import msgspec
import structlog

from payments.database.connections import transaction
from payments.database.queries import load_queries
from payments.domain.refunds import DISCARDED, DOES_NOT_FIT
from payments.inbox.rows import receive
from payments.reconciler.jobs import Surroundings, guard_plans
from payments.reconciler.verdicts import Operation
from payments.wakeup import INBOX

# In one go: few enough that what is newer comes soon.
ROWS_MAX = 50

_QUERIES = load_queries("reconciler")
# In the words of an answer, so that a recorder of an older release understands it, too.
_DISCARDED = {"code": DISCARDED, "message": "given up by an operator; Stripe has not made it"}
log = structlog.get_logger()


async def end_given_up(around: Surroundings, after_s: float) -> None:
    """Ends what was given up at least `after_s` seconds ago; locks payments before their calls, and waits for none."""
    await _look_at_stripe(around, after_s)
    await _end_refunds(around, after_s)


async def _look_at_stripe(around: Surroundings, after_s: float) -> None:
    """No command would help, for the call may have made something."""
    values, rows = {"after_s": after_s, "rows_max": ROWS_MAX}, list[Any]()
    for query in ("unpark_voids", "unpark_refunds"):
        async with transaction(around.pool) as conn:
            await guard_plans(conn)
            rows += await (await conn.execute(_QUERIES[query], values)).fetchall()
    if rows:
        around.found["parked calls to look for"] += len(rows)
        log.info("calls.unparked", payment_ids=[str(payment_id) for (payment_id,) in rows])


async def _end_refunds(around: Surroundings, after_s: float) -> None:
    async with transaction(around.pool) as conn:
        await guard_plans(conn)
        values = {"after_s": after_s, "rows_max": ROWS_MAX, "waits": f"%{DOES_NOT_FIT}%"}
        rows: list[Any] = await (await conn.execute(_QUERIES["given_up_refunds"], values)).fetchall()
        for payment_id, refund_id, dead_letter_id in rows:
            word = {"operation": Operation.REFUND, "subjectId": refund_id, "outcome": "refused", "error": _DISCARDED}
            row = (f"discarded/{dead_letter_id}", f"api.{Operation.REFUND}", payment_id, msgspec.json.encode(word))
            await receive(conn, "reconciler", *row)
    if rows:
        around.found["refunds given up"] += len(rows)
        around.notifier.notify(INBOX)
        log.warning("refunds.given_up", refund_ids=[str(refund_id) for _, refund_id, _ in rows])
