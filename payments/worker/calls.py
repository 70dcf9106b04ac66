"""What the database knows of calls to Stripe. Every function joins the caller's transaction."""

from datetime import datetime
from typing import Any, cast
from uuid import UUID

import msgspec

from payments.database.connections import Connection
from payments.database.queries import load_queries
from payments.domain.attempts import Call, CallOutcome, CallState, Park, Reconcile
from payments.domain.following import Record, Retry
from payments.domain.states import PaymentStatus
from payments.inbox.rows import receive
from payments.outbox.events import PaymentVoided
from payments.outbox.rows import append
from payments.queues.queue import Leased
from payments.stripe_gateway.outcomes import Answered, Declined, Outcome, Refused
from payments.worker.operation import Command, Operation, Payment, Refund, Situation

# The API and the recorder keep a payment locked for milliseconds. Whoever keeps it longer must not hold up the others:
# every command that waits for him has a connection of the pool, which the recorder needs, too.
LOCK_WAIT_MS = 250

_QUERIES = load_queries("worker")


class KnownCall(msgspec.Struct, frozen=True):
    """A row of payments.stripe_requests, locked."""

    call_id: int
    call: Call


class StartedAttempt(msgspec.Struct, frozen=True):
    """An attempt that is committed before it is made: what to send, under which key.

    `attempt` is its number, which another may get again when it did nothing; `begun_at` is its own for ever.
    """

    operation: str
    payment_id: UUID
    subject_id: UUID
    call_id: int
    attempt: int
    begun_at: datetime
    idempotency_key: str
    parameters: dict[str, Any]


async def begin_intent(conn: Connection) -> bool:
    """From here on the transaction raises LockNotAvailable rather than wait long.

    Whether our rows may be believed: after a restore not before the reconciler has looked at Stripe.
    """
    row = await (await conn.execute(_QUERIES["begin_intent"], {"lock_wait": f"{LOCK_WAIT_MS}ms"})).fetchone()
    return row is not None and row[1] is False


async def lock_payment(conn: Connection, payment_id: UUID) -> Payment | None:
    """The payment, locked until the transaction ends; None when there is none."""
    row = await (await conn.execute(_QUERIES["lock_payment"], {"payment_id": payment_id})).fetchone()
    if row is None:
        return None
    fields = dict(zip(Payment.__struct_fields__, row, strict=True))
    fields["status"] = PaymentStatus(str(fields["status"]))
    return Payment(**cast("dict[str, Any]", fields))


async def find_refund(conn: Connection, command: Command) -> Refund | None:
    """The refund of a command, if the payment has it; the payment must be locked."""
    values = {"refund_id": command.subject_id, "payment_id": command.payment_id}
    row = await (await conn.execute(_QUERIES["find_refund"], values)).fetchone()
    return None if row is None else Refund(*cast("tuple[UUID, int, str | None, str, datetime]", row))


async def find_call(conn: Connection, operation_name: str, subject_id: UUID) -> KnownCall | None:
    """The newest generation of the call for the subject, locked; None when nobody intended one."""
    values = {"subject_id": subject_id, "operation": operation_name}
    row = await (await conn.execute(_QUERIES["find_call"], values)).fetchone()
    if row is None:
        return None
    call_id, state, attempts, first_attempt_at, outcome, generation, answered_at = cast("tuple[Any, ...]", row)
    call = Call(
        state=CallState(state),
        attempts=attempts,
        first_attempt_at=first_attempt_at,
        outcome=outcome,
        generation=generation,
        answered_at=answered_at,
    )
    return KnownCall(call_id, call)


async def database_time(conn: Connection) -> datetime:
    """The one clock that all hosts share."""
    row = await (await conn.execute(_QUERIES["database_time"])).fetchone()
    assert row is not None
    return cast("datetime", row[0])


async def intend_call(conn: Connection, operation: Operation, situation: Situation, generation: int) -> int:
    """A call under a new key, its parameters stored as they will be sent for ever; returns its id."""
    command = situation.command
    values = {
        "payment_id": command.payment_id,
        "subject_id": command.subject_id,
        "operation": operation.name,
        "generation": generation,
        "idempotency_key": operation.idempotency_key(command, generation),
        "parameters": msgspec.json.encode(operation.build_parameters(situation)).decode(),
    }
    row = await (await conn.execute(_QUERIES["intend_call"], values)).fetchone()
    assert row is not None
    return cast("int", row[0])


async def begin_attempt(conn: Connection, operation: Operation, command: Command, call_id: int) -> StartedAttempt:
    """Counts an attempt; the call may be made once this is committed for sure."""
    row = await (await conn.execute(_QUERIES["begin_attempt"], {"call_id": call_id})).fetchone()
    assert row is not None
    attempt, key, parameters, begun_at = row
    return StartedAttempt(
        operation=operation.name,
        payment_id=command.payment_id,
        subject_id=command.subject_id,
        call_id=call_id,
        attempt=cast("int", attempt),
        begun_at=cast("datetime", begun_at),
        idempotency_key=str(key),
        parameters=msgspec.json.decode(str(parameters)),
    )


async def record_answer(conn: Connection, started: StartedAttempt, outcome: Outcome, record: Record) -> None:
    """Keeps Stripe's word, and puts it into the inbox for the recorder."""
    assert isinstance(outcome, Answered | Declined | Refused)
    values = {
        "call_id": started.call_id,
        "outcome": record.outcome,
        "http_status": outcome.http_status,
        "request_id": outcome.request_id,
    }
    await conn.execute(_QUERIES["record_answer"], values)
    payload = {
        "operation": started.operation,
        "subjectId": started.subject_id,
        "outcome": record.outcome,
        "httpStatus": outcome.http_status,
        "requestId": outcome.request_id,
        "attempt": started.attempt,
        "object": outcome.object if isinstance(outcome, Answered) else None,
        "error": None if isinstance(outcome, Answered) else outcome.error,
    }
    await _put_into_inbox(conn, started, outcome.request_id, msgspec.json.encode(payload))


async def _put_into_inbox(conn: Connection, started: StartedAttempt, request_id: str | None, payload: bytes) -> None:
    key, attempt = started.idempotency_key, started.attempt
    # Without an id of Stripe's, the key takes its place. Some other server than Stripe gives the same id to different
    # requests: no answer may be lost for that. The same answer comes twice after a commit in doubt.
    for message_id in (f"{request_id or key}/{attempt}", f"{request_id}/{key}/{attempt}"):
        if await receive(conn, "stripe-api", message_id, f"api.{started.operation}", started.payment_id, payload):
            return
        kept = {"message_id": message_id, "payload": payload.decode()}
        if await (await conn.execute(_QUERIES["kept_answer"], kept)).fetchone() is not None:
            return


async def record_doubt(conn: Connection, started: StartedAttempt, outcome: Outcome, retry: Retry) -> None:
    """Notes that nothing is known yet, and whether the attempt counts; may be repeated when its commit was in doubt."""
    values = {
        "call_id": started.call_id,
        "begun_at": started.begun_at,
        "burns": retry.burns,
        "attempts_min": retry.attempts_min,
        "error": retry.why,
        **_seen(outcome),
    }
    await conn.execute(_QUERIES["record_doubt"], values)


async def park_call(conn: Connection, call_id: int, outcome: Outcome | None, park: Park) -> bool:
    """Leaves the call to an operator; False when it was answered meanwhile."""
    values = {"call_id": call_id, "error": park.why, **_seen(outcome)}
    return (await conn.execute(_QUERIES["park_call"], values)).rowcount > 0


async def leave_to_reconciler(conn: Connection, call_id: int, outcome: Outcome | None, why: Reconcile) -> None:
    """The key is of no use any more: the reconciler looks at Stripe.

    It then closes the call: as `settled` when what the call did was found, and went into the inbox; as `absent` when
    nothing exists at Stripe. After `absent` a command is due, which goes out under the next generation's key; but not
    for a refund that an operator has given up.
    """
    await conn.execute(_QUERIES["leave_to_reconciler"], {"call_id": call_id, "error": why.why, **_seen(outcome)})


async def unpark_call(conn: Connection, operation_name: str, subject_id: UUID) -> CallState | None:
    """Lets a parked call go on, for an operator who puts its dead letter back into the queue, in one transaction.

    The subject is the payment's id for create_payment_intent (queue payment_requested) and cancel_payment_intent
    (void_requested), `captureId` for capture_payment_intent (capture_requested), `refundId` for create_refund
    (refund_requested). Returns the call's new state: `to_reconcile` means that the reconciler will send a command of
    its own, and that the one put back is only acknowledged. None: no such call is parked; the command alone decides.
    """
    values = {"subject_id": subject_id, "operation": operation_name}
    row = await (await conn.execute(_QUERIES["unpark_call"], values)).fetchone()
    return None if row is None else CallState(str(row[0]))


async def leave_dead_letter(conn: Connection, queue_name: str, lease: Leased, payment_id: UUID, error: str) -> None:
    """A dead letter of a command whose lease was lost; the command itself is left to whoever has it now."""
    values = {
        "origin": f"queue:{queue_name}",
        "msg_id": lease.msg_id,
        "payment_id": payment_id,
        "message": msgspec.json.encode(lease.message).decode(),
        "headers": None if lease.headers is None else msgspec.json.encode(lease.headers).decode(),
        "read_ct": lease.read_ct,
        "error": error,
    }
    await conn.execute(_QUERIES["leave_dead_letter"], values)


async def close_call(conn: Connection, call_id: int, outcome: CallOutcome, error: str | None = None) -> None:
    """Nothing more will be asked under this key."""
    await conn.execute(_QUERIES["close_call"], {"call_id": call_id, "outcome": outcome, "error": error})


async def void_payment(conn: Connection, payment_id: UUID, traceparent: str | None) -> None:
    """VOIDING becomes VOIDED, with its history and its event. The payment must be locked."""
    row = await (await conn.execute(_QUERIES["void_payment"], {"payment_id": payment_id})).fetchone()
    assert row is not None, "decided under the lock that still holds"
    order_id, amount, currency, sequence, changed_at = cast("tuple[UUID, int, str, int, datetime]", row)
    history = {
        "payment_id": payment_id,
        "signal": "nothing was asked of Stripe",
        "from_status": PaymentStatus.VOIDING.value,
        "to_status": PaymentStatus.VOIDED.value,
        "why": "voided before the first call",
    }
    await conn.execute(_QUERIES["add_history"], history)
    event = PaymentVoided(
        payment_id=payment_id, order_id=order_id, amount=amount, currency=currency, voided_at=changed_at
    )
    await append(conn, payment_id, sequence, event, changed_at, traceparent)


def _seen(outcome: Outcome | None) -> dict[str, object]:
    return {
        "http_status": getattr(outcome, "http_status", None),
        "request_id": getattr(outcome, "request_id", None),
    }
