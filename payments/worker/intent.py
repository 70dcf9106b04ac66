"""Transaction 1 of a command: under the payment's lock, whether to call at all; if so, an attempt that is committed."""

from types import TracebackType
from typing import Self, assert_never

import msgspec
from psycopg.errors import Diagnostic

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

NOBODYS = "names a payment or a refund that does not exist"


class CommitUncertain(Exception):
    """The commit came back with a warning: it may be lost in a failover, so no call is made."""


class Intent(msgspec.Struct, frozen=True):
    """What was decided and committed; `started` is the attempt to make now, None when there is no call to make."""

    decision: Decision
    started: StartedAttempt | None


class _Warnings:
    """Whether a warning came with a commit.

    'canceling wait for synchronous replication', for one: it is committed here, and perhaps nowhere else.
    """

    def __init__(self) -> None:
        self.came = False
        self._conn: Connection | None = None

    def watch(self, conn: Connection) -> None:
        self._conn = conn
        conn.add_notice_handler(self._note)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._conn is not None:
            self._conn.remove_notice_handler(self._note)

    def _note(self, diagnostic: Diagnostic) -> None:
        self.came |= diagnostic.severity_nonlocalized == "WARNING"


async def commit_intent(pool: Pool, operation: Operation, queue: Queue, lease: Leased, command: Command) -> Intent:
    """Decides and commits; a command that needs no call is acknowledged or put away in the same transaction.

    Raises CommitUncertain, and whatever the database raises: then no call may be made. LockNotAvailable soon, when
    somebody keeps the payment locked.
    """
    with _Warnings() as warnings:
        async with transaction(pool) as conn:
            warnings.watch(conn)
            await calls.bound_lock_waits(conn)
            intent = await _decide(conn, operation, queue, lease, command)
    if warnings.came and intent.started is not None:
        raise CommitUncertain
    return intent


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
