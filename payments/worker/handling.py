"""One command, from its lease to its ack: intend, commit, call, record. At any instruction the process may die.

    transaction 1   lock the payment, decide, store key and parameters, count the attempt (intent.py)
    the lease       must outlast the call, else it is extended, or the command handed back
    the call        no transaction open, no lock held
    transaction 2   Stripe's word into stripe_requests and the inbox, and the fenced ack; or the retry

Died before 1 is committed: nothing happened. Died after it: the same key and parameters go out again, by whoever gets
the command next. The age of the key is checked in 1, by the database's clock; until the call, the lease must hold.
"""

import asyncio
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import assert_never

import msgspec
import psycopg
import structlog
from psycopg_pool import PoolTimeout

from payments.database.connections import DATABASE_AWAY, Connection, Pool, transaction
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
from payments.domain.following import Next, Record, Renew, Retry, decide_next
from payments.queues.queue import Leased, Queue
from payments.stripe_gateway.gateway import StripeGateway
from payments.stripe_gateway.outcomes import Outcome
from payments.wakeup import INBOX, OUTBOX, SETTLED, Notifier
from payments.worker import calls
from payments.worker.calls import StartedAttempt
from payments.worker.intent import CATCHING_UP, NOBODYS, commit_intent
from payments.worker.operation import Command, Operation

# An answer that cannot be stored because the database is away is offered again for so long; after that, the next
# attempt hears it again from Stripe, under the same key.
STORE_ANSWER_S_MAX = 60.0
STORE_RETRY_S = 0.5
# What broke once may work again, e.g. after a failover; what broke so often is broken.
FAULTS_MAX = 5
FAULT_RETRY_S = 1.0

DATABASE_TROUBLE = (psycopg.Error, PoolTimeout)
# SQLSTATE classes that say something about the server, its grants or its schema, never about one command: connection,
# read-only, authorization, no such database, conflicts, missing objects, resources, intervention, system, internal.
_SYSTEMIC_CLASSES = frozenset({"08", "25", "28", "3D", "40", "42", "53", "55", "57", "58", "XX"})

log = structlog.get_logger()


@dataclass(frozen=True)
class Surroundings:
    """What the handlers of one worker share.

    `on_outcome` hears of every call that ended, `on_catching_up` of every command that came too soon after a restore.
    """

    pool: Pool
    gateway: StripeGateway
    notifier: Notifier
    call_timeout_s: float
    on_outcome: Callable[[Outcome], None]
    on_catching_up: Callable[[], None] = lambda: None


class Called(msgspec.Struct, frozen=True):
    """A call that has ended: what was sent, what came of it, and what follows."""

    started: StartedAttempt
    outcome: Outcome
    following: Next
    took_s: float


class Handler:
    """Carries out the commands of one operation."""

    def __init__(self, operation: Operation, queue: Queue, surroundings: Surroundings) -> None:
        self.queue = queue
        self._operation = operation
        self._around = surroundings

    async def handle(self, lease: Leased, on_call: Callable[[], None]) -> None:
        """Works on one command to its end; raises nothing but cancellation. From `on_call` on, let it finish."""
        try:
            await self._work(lease, on_call)
        except DATABASE_TROUBLE as error:
            if _is_systemic(error):
                await self._interrupt(lease, error)
            else:
                await self._count_fault(lease, error)
        except Exception as error:  # noqa: BLE001 - one command must never stop the others
            await self._count_fault(lease, error)

    async def _work(self, lease: Leased, on_call: Callable[[], None]) -> None:
        try:
            command = self._operation.read_command(lease.message)
        except ValueError as error:
            await self._dead_letter(lease, f"not a command: {type(error).__name__}")
            return
        intent = await commit_intent(self._around.pool, self._operation, self.queue, lease, command)
        if intent.started is None:
            if intent.decision is CATCHING_UP:
                self._around.on_catching_up()
            self._tell_decision(lease, command, intent.decision)
            return
        held = await self._hold(lease)
        if held is None:
            return
        on_call()
        called = await self._call(held, intent.started)
        is_held = await self._store(held, command, called)
        self._tell_outcome(held, called, is_held=is_held)

    async def _hold(self, lease: Leased) -> Leased | None:
        """A lease that outlasts the call; None when it was lost, or is too short even when new: then nobody calls."""
        left_s = lease.ends_at - time.monotonic()
        if left_s >= self._around.call_timeout_s:
            return lease
        if left_s <= 0:
            # Who knows how long ago: the key's age was checked while it held.
            log.warning("lease.lost", queue=self.queue.name, msg_id=lease.msg_id)
            return None
        async with transaction(self._around.pool) as conn:
            extended = await self.queue.extend(conn, [lease])
        if not extended:
            log.warning("lease.lost", queue=self.queue.name, msg_id=lease.msg_id)
            return None
        if extended[0].ends_at - time.monotonic() >= self._around.call_timeout_s:
            return extended[0]
        log.warning("lease.too_short", queue=self.queue.name, msg_id=lease.msg_id)
        await self._hand_back(lease)
        return None

    async def _call(self, lease: Leased, started: StartedAttempt) -> Called:
        began = time.monotonic()
        outcome = await self._operation.call(self._around.gateway, started.parameters, started.idempotency_key)
        took_s = time.monotonic() - began
        self._around.on_outcome(outcome)
        jitter = random.random()  # noqa: S311 - no secret
        following = decide_next(outcome, started.attempt, lease.read_ct, jitter, self._operation.rules)
        return Called(started, outcome, following, took_s)

    async def _store(self, lease: Leased, command: Command, called: Called) -> bool:
        """Transaction 2, until it is committed; False when the lease was lost: what Stripe said is kept even so."""
        give_up_at = time.monotonic() + STORE_ANSWER_S_MAX
        while True:
            try:
                async with transaction(self._around.pool) as conn:
                    return await self._record(conn, lease, command, called)
            except DATABASE_TROUBLE as error:
                if not _is_systemic(error) or time.monotonic() > give_up_at:
                    raise
                log.warning("answer.waiting", call_id=called.started.call_id, error=_where(error))
                await asyncio.sleep(STORE_RETRY_S)

    async def _record(self, conn: Connection, lease: Leased, command: Command, called: Called) -> bool:
        following = called.following
        match following:
            case Record():
                await calls.record_answer(conn, called.started, called.outcome, following)
                return bool(await self.queue.ack(conn, [lease]))
            case Retry():
                await calls.record_doubt(conn, called.started, called.outcome, following)
                return bool(await self.queue.postpone(conn, [lease], [following.after_s]))
            case Renew():
                await calls.close_call(conn, called.started.call_id, CallOutcome.SUPERSEDED, following.why)
                return bool(await self.queue.postpone(conn, [lease], [following.after_s]))
            case Reconcile():
                await calls.leave_to_reconciler(conn, called.started.call_id, called.outcome, following)
                return bool(await self.queue.ack(conn, [lease]))
            case Park():
                is_parked = await calls.park_call(conn, called.started.call_id, called.outcome, following)
                is_held = await self.queue.dead_letter(conn, lease, command.payment_id, following.why)
                if is_parked and not is_held:
                    # Whoever has the command now finds the call parked, and only acknowledges.
                    await calls.leave_dead_letter(conn, self.queue.name, lease, command.payment_id, following.why)
                return is_held
            case _:
                assert_never(following)

    async def _interrupt(self, lease: Leased, error: Exception) -> None:
        log.warning("command.interrupted", queue=self.queue.name, msg_id=lease.msg_id, error=_where(error))
        await self._hand_back(lease)

    async def _count_fault(self, lease: Leased, error: Exception) -> None:
        where = _where(error)
        log.error("command.broken", queue=self.queue.name, msg_id=lease.msg_id, faults=lease.faults + 1, error=where)
        if lease.faults + 1 >= FAULTS_MAX:
            await self._dead_letter(lease, f"broke {FAULTS_MAX} times: {where}")
            return
        try:
            async with transaction(self._around.pool) as conn:
                await self.queue.postpone_faulty(conn, lease, FAULT_RETRY_S * 2.0**lease.faults)
        except DATABASE_TROUBLE as trouble:
            self._leave(lease, trouble)

    async def _dead_letter(self, lease: Leased, error: str) -> None:
        try:
            payment_id = self._operation.read_command(lease.message).payment_id
        except ValueError:
            payment_id = None
        try:
            async with transaction(self._around.pool) as conn:
                await self.queue.dead_letter(conn, lease, payment_id, error)
        except DATABASE_TROUBLE as trouble:
            self._leave(lease, trouble)
        else:
            log.error("command.died", queue=self.queue.name, msg_id=lease.msg_id, error=error)

    async def _hand_back(self, lease: Leased) -> None:
        try:
            async with transaction(self._around.pool) as conn:
                await self.queue.postpone(conn, [lease], [FAULT_RETRY_S])
        except DATABASE_TROUBLE as trouble:
            self._leave(lease, trouble)

    def _leave(self, lease: Leased, trouble: Exception) -> None:
        """The database takes no word: the lease runs out by itself."""
        log.warning("command.left", queue=self.queue.name, msg_id=lease.msg_id, error=_where(trouble))

    def _tell_decision(self, lease: Leased, command: Command, decision: Decision) -> None:
        fields = {"queue": self.queue.name, "msg_id": lease.msg_id, "payment_id": str(command.payment_id)}
        match decision:
            case VoidWithoutCall():
                self._around.notifier.notify(OUTBOX)
                self._around.notifier.notify(SETTLED, str(command.payment_id))
                log.info("payment.voided_uncalled", **fields)
            case AlreadySettled():
                log.info("command.settled_before", why=decision.why, **fields)
            case Later():
                log.info("command.postponed", why=decision.why, after_s=round(decision.after_s, 1), **fields)
            case Reconcile():
                log.warning("call.left_to_reconciler", why=decision.why, **fields)
            case Park():
                log.error("call.parked", why=decision.why, **fields)
            case Unclaimed():
                log.error("command.died", error=NOBODYS, **fields)
            case Attempt():
                raise AssertionError("an attempt is told of when its outcome is known")
            case _:
                assert_never(decision)

    def _tell_outcome(self, lease: Leased, called: Called, *, is_held: bool) -> None:
        fields = {
            "operation": called.started.operation,
            "payment_id": str(called.started.payment_id),
            "msg_id": lease.msg_id,
            "attempt": called.started.attempt,
            "outcome": type(called.outcome).__name__,
            "http_status": getattr(called.outcome, "http_status", None),
            "stripe_request_id": called.outcome.request_id,
            "took_ms": round(called.took_s * 1000),
        }
        match called.following:
            case Record():
                self._around.notifier.notify(INBOX)
                log.info("call.answered", **fields)
            case Retry(after_s=after_s, why=why) | Renew(after_s=after_s, why=why):
                log.warning("call.postponed", why=why, after_s=round(after_s, 1), **fields)
            case Reconcile(why=why):
                log.warning("call.left_to_reconciler", why=why, **fields)
            case Park(why=why):
                log.error("call.parked", why=why, **fields)
            case _:
                assert_never(called.following)
        if not is_held:
            log.warning("lease.lost", queue=self.queue.name, msg_id=lease.msg_id, payment_id=fields["payment_id"])


def _is_systemic(error: Exception) -> bool:
    """Whether the database is away or not as it should be, rather than the command at fault."""
    if isinstance(error, psycopg.Error) and error.sqlstate is not None:
        return error.sqlstate[:2] in _SYSTEMIC_CLASSES
    return isinstance(error, DATABASE_AWAY)


def _where(error: Exception) -> str:
    """The kind of an error and where it was raised; never its text, which may quote what was being worked on."""
    frame = error.__traceback__
    while frame is not None and frame.tb_next is not None:
        frame = frame.tb_next
    place = f" at {frame.tb_frame.f_code.co_name}:{frame.tb_lineno}" if frame is not None else ""
    return f"{type(error).__name__}{place}"
