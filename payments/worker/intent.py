"""Transaction 1 of a command: under the payment's lock, whether to call at all; if so, an attempt that is committed."""

from typing import assert_never

import msgspec

from payments.database.connections import Connection, Pool, transaction
from payments.domain.attempts import (
    AlreadySettled,
    Attempt,
    CallOutcome,
    Decision,
    Later,
    Park,
    Reconcile,
    Unclaimed,
    VoidWithoutCall,
)
from payments.queues.queue import Leased, Queue
from payments.worker import calls
from payments.worker.calls import KnownCall, StartedAttempt
from payments.worker.create_payment_intent import CREATE_PAYMENT_INTENT
from payments.worker.operation import Command, Operation, Situation

# After a restore: what a command is about may have been done, or paid for, by calls that the backup has lost.
CATCHING_UP = Later(2.0, "restored from a backup: Stripe is still being looked at")
NOBODYS = "names a payment or a refund that does not exist"


class Intent(msgspec.Struct, frozen=True):
    """What was decided and committed; `started` is the attempt to make now, None when there is no call to make."""

    decision: Decision
    started: StartedAttempt | None


async def commit_intent(pool: Pool, operation: Operation, queue: Queue, lease: Leased, command: Command) -> Intent:
    """Decides and commits; a command that needs no call is acknowledged or put away in the same transaction.

    Raises what the database raises, CommitUncertain too: then no call may be made. LockNotAvailable soon, when somebody
    keeps the payment locked.
    """
    async with transaction(pool) as conn:
        if await calls.begin_intent(conn):
            return await _decide(conn, operation, queue, lease, command)
        await queue.postpone(conn, [lease], [CATCHING_UP.after_s])
        return Intent(CATCHING_UP, None)


async def _decide(conn: Connection, operation: Operation, queue: Queue, lease: Leased, command: Command) -> Intent:
    known, situation = await _look(conn, operation, command)
    decision = operation.decide(situation)
    started = None
    match decision:
        case Attempt():
            call_id = await _prepare(conn, operation, situation, known, renews=decision.renews)
            started = await calls.begin_attempt(conn, operation, command, call_id)
        case AlreadySettled():
            if decision.close_call and known is not None:
                await calls.close_call(conn, known.call_id, CallOutcome.SETTLED)
            await queue.ack(conn, [lease])
        case VoidWithoutCall():
            await _withdraw(conn, command)
            await calls.void_payment(conn, command.payment_id, _traceparent(lease))
            await queue.ack(conn, [lease])
        case Later():
            await queue.postpone(conn, [lease], [decision.after_s])
        case Reconcile():
            call_id = known.call_id if known else await calls.intend_call(conn, operation, situation, generation=1)
            await calls.leave_to_reconciler(conn, call_id, None, decision)
            await queue.ack(conn, [lease])
        case Park():
            if known is not None:
                await calls.park_call(conn, known.call_id, None, decision)
            await queue.dead_letter(conn, lease, command.payment_id, decision.why)
        case Unclaimed():
            payment_id = command.payment_id if situation.payment else None
            await queue.dead_letter(conn, lease, payment_id, NOBODYS)
        case _:
            assert_never(decision)
    return Intent(decision, started)


async def _look(conn: Connection, operation: Operation, command: Command) -> tuple[KnownCall | None, Situation]:
    """All that the decision depends on, under the payment's lock, which is taken first."""
    payment = await calls.lock_payment(conn, command.payment_id)
    known = await calls.find_call(conn, operation.name, command.subject_id)
    first = known
    if operation.name != CREATE_PAYMENT_INTENT.name:
        first = await calls.find_call(conn, CREATE_PAYMENT_INTENT.name, command.payment_id)
    situation = Situation(
        command=command,
        payment=payment,
        refund=await calls.find_refund(conn, command) if command.is_refund else None,
        call=known.call if known else None,
        was_asked=first is not None and first.call.may_have_acted,
        now=await calls.database_time(conn),
    )
    return known, situation


async def _prepare(
    conn: Connection, operation: Operation, situation: Situation, known: KnownCall | None, *, renews: bool
) -> int:
    """The call to attempt: the one that is known, or a new generation."""
    if known is None:
        return await calls.intend_call(conn, operation, situation, generation=1)
    if not renews:
        return known.call_id
    await calls.close_call(conn, known.call_id, CallOutcome.SUPERSEDED)
    return await calls.intend_call(conn, operation, situation, known.call.generation + 1)


async def _withdraw(conn: Connection, command: Command) -> None:
    first = await calls.find_call(conn, CREATE_PAYMENT_INTENT.name, command.payment_id)
    if first is not None:
        await calls.close_call(conn, first.call_id, CallOutcome.WITHDRAWN)


def _traceparent(lease: Leased) -> str | None:
    value = lease.headers.get("traceparent") if isinstance(lease.headers, dict) else None
    return value if isinstance(value, str) else None
