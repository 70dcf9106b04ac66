"""Transaction 1 of a command: under the payment's lock, whether to call at all; if so, an attempt that is committed."""

from types import TracebackType
from typing import Self, assert_never

import msgspec
from psycopg.errors import Diagnostic

from payments.database.connections import Connection, Pool, transaction
from payments.domain.attempts import (
    AlreadySettled,
    Attempt,
    Decision,
    Park,
    Unclaimed,
    VoidWithoutCall,
)
from payments.queues.queue import Leased, Queue
from payments.worker import calls
from payments.worker.calls import StartedAttempt
from payments.worker.operation import Command, Operation


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
    payment = await calls.lock_payment(conn, command.payment_id)
    known, now = await calls.find_call(conn, operation, command)
    decision = operation.decide(payment.status if payment else None, known.call if known else None, now)
    started = None
    match decision:
        case Attempt():
            assert payment is not None
            call_id = known.call_id if known else await calls.intend_call(conn, operation, command, payment)
            started = await calls.begin_attempt(conn, operation, command, call_id)
        case AlreadySettled():
            if decision.close_call and known is not None:
                await calls.close_call(conn, known.call_id, "settled")
            await queue.ack(conn, [lease])
        case VoidWithoutCall():
            if known is not None:
                await calls.close_call(conn, known.call_id, "withdrawn")
            await calls.void_payment(conn, command.payment_id, _traceparent(lease))
            await queue.ack(conn, [lease])
        case Park():
            assert known is not None
            await calls.park_call(conn, known.call_id, None, decision)
            await put_away(conn, queue, lease, command, decision)
        case Unclaimed():
            await queue.dead_letter(conn, lease, None, "names a payment that does not exist")
        case _:
            assert_never(decision)
    return Intent(decision, started)


async def put_away(conn: Connection, queue: Queue, lease: Leased, command: Command, park: Park) -> bool:
    """Takes the command of a parked call out of its queue; False when the lease was lost."""
    if park.dead_letter:
        return await queue.dead_letter(conn, lease, command.payment_id, park.why)
    return bool(await queue.ack(conn, [lease]))


def _traceparent(lease: Leased) -> str | None:
    value = lease.headers.get("traceparent") if isinstance(lease.headers, dict) else None
    return value if isinstance(value, str) else None
