"""Records a wish to capture, void or refund a payment: decided from its locked row, and written, in one transaction.

READ COMMITTED: each statement sees what committed before it, so what a lock was waited for is seen once it is held.

Locks in this order: the Idempotency-Key (an advisory lock, so that two requests with one key follow each other), then
the payment's row. An answer given before needs no lock on the payment.
"""

import contextlib
import time
from typing import Any, Literal, assert_never
from uuid import UUID

import msgspec
import psycopg
from psycopg_pool import PoolTimeout

from payments.api.accept_outcomes import Failed, KeyReused, Unknown
from payments.api.deadlines import in_time
from payments.api.turns import Turns
from payments.database.connections import Connection, Pool, confirm, may_be_committed, transaction
from payments.database.queries import load_queries
from payments.domain.identifiers import new_id
from payments.domain.states import PaymentStatus
from payments.domain.wishes import (
    AlreadyAsked,
    CaptureWish,
    LockedPayment,
    RefundWish,
    Refused,
    StartCapture,
    StartRefund,
    StartVoid,
    VoidWish,
    Wish,
    decide_capture,
    decide_refund,
    decide_void,
)

# How long a request waits, all in all, for others that hold its key or its payment, before it is told to come again.
LOCK_WAIT_S = 5.0
LOCK_WAIT_MS_MIN = 1  # 0 would mean for ever
# Each further round means a deadlock, or a payment accepted under the same key between two statements.
ROUNDS_MAX = 4
# Something that only one request at a time may hold.
Held = Literal["key", "payment", "database"]

_ONE_PER_KEY = "idempotency_keys_pkey"

_QUERIES = load_queries("api")


class WishRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A checked wish about one payment."""

    payment_id: UUID
    client_id: str
    idempotency_key: str | None
    fingerprint: bytes
    traceparent: str
    wish: Wish

    @property
    def status(self) -> int:
        """The status of its success: a refund is made, all else is under way."""
        return 201 if isinstance(self.wish, RefundWish) else 202


class Recorded(msgspec.Struct, frozen=True):
    """Recorded now, or (not `is_new`) recorded before and asked for again; `publishes`: the relay has work."""

    answer: bytes
    location: str | None = None
    is_new: bool = True
    publishes: bool = True


class Repeated(msgspec.Struct, frozen=True):
    """The same request was answered before: that answer."""

    answer: bytes
    status: int
    location: str | None


class NoPayment(msgspec.Struct, frozen=True):
    """There is no such payment."""


class CatchingUp(msgspec.Struct, frozen=True):
    """What is here cannot be granted, but after a restore Stripe may know better; nothing was recorded."""


class Busy(msgspec.Struct, frozen=True):
    """Others hold the key, the payment or all places at the database for too long; nothing was recorded."""

    what: Held


WishOutcome = Recorded | Repeated | Refused | NoPayment | CatchingUp | KeyReused | Busy | Failed | Unknown


class _Attempt:
    """How far a transaction has come: what breaks before its commit has certainly left nothing behind."""

    is_committing = False


class _Waited(Exception):
    """Something was not to be had in time."""

    def __init__(self, what: Held) -> None:
        super().__init__(what)
        self.what = what


async def record_wish(pool: Pool, turns: Turns, request: WishRequest) -> WishOutcome:
    """Records the wish if it can be, and says what became of it. Commits. Raises nothing that the database raised.

    Waits at most LOCK_WAIT_S for others, and for a connection.
    """
    attempt = _Attempt()
    try:
        return await in_time(_take_turn(pool, turns, request, attempt))
    except _Waited as waited:
        return Busy(waited.what)
    except (psycopg.Error, PoolTimeout) as error:
        return Unknown(error) if attempt.is_committing and may_be_committed(error) else Failed(error)


async def _take_turn(pool: Pool, turns: Turns, request: WishRequest, attempt: _Attempt) -> WishOutcome:
    ends_at = time.monotonic() + LOCK_WAIT_S
    key = (request.client_id, request.idempotency_key)
    async with contextlib.AsyncExitStack() as stack:
        if request.idempotency_key is not None:
            await _enter(stack, turns.turn(key, ends_at), "key")
        await _enter(stack, turns.turn(request.payment_id, ends_at), "payment")
        await _enter(stack, turns.slot(ends_at), "database")
        return await _record(pool, request, attempt, ends_at)


async def _enter(
    stack: contextlib.AsyncExitStack, turn: contextlib.AbstractAsyncContextManager[None], what: Held
) -> None:
    try:
        await stack.enter_async_context(turn)
    except TimeoutError as error:
        raise _Waited(what) from error


async def _record(pool: Pool, request: WishRequest, attempt: _Attempt, ends_at: float) -> WishOutcome:
    for _ in range(ROUNDS_MAX):
        attempt.is_committing = False
        try:
            async with transaction(pool) as conn:
                outcome = await _try(conn, request, ends_at)
                attempt.is_committing = isinstance(outcome, Recorded | Repeated)
        except psycopg.errors.LockNotAvailable:  # behind the payment's row: an authorize with our key, a watch
            return Busy("payment")
        except (psycopg.errors.DeadlockDetected, psycopg.errors.SerializationFailure):
            continue
        except psycopg.errors.UniqueViolation as error:
            if error.diag.constraint_name != _ONE_PER_KEY:
                raise
        else:
            return outcome
    return Busy("payment")


async def _try(conn: Connection, request: WishRequest, ends_at: float) -> WishOutcome:
    if request.idempotency_key is not None and (answered := await _find_answer(conn, request, ends_at)):
        return answered
    found = await _lock_payment(conn, request.payment_id, ends_at)
    if found is None:
        return await _refuse(conn, NoPayment())
    payment, answer = found
    decision = _decide(payment, request.wish)
    if isinstance(decision, AlreadyAsked):
        await _keep(conn, request, answer)
        return Recorded(answer.encode(), is_new=False, publishes=False)
    return await (_refuse(conn, decision) if isinstance(decision, Refused) else _do(conn, request, payment, decision))


async def _refuse(conn: Connection, refusal: Refused | NoPayment) -> Refused | NoPayment | CatchingUp:
    """A refusal is final, so it must not be for want of what a restored backup has lost."""
    row = await (await conn.execute(_QUERIES["is_catching_up"])).fetchone()
    return refusal if row is None else CatchingUp()


async def _do(
    conn: Connection, request: WishRequest, payment: LockedPayment, decision: StartCapture | StartVoid | StartRefund
) -> Recorded:
    asked = f"asked for by {request.client_id}"
    match decision:
        case StartCapture(amount, order_id):
            values = {
                "capture_id": new_id(),
                "amount": amount,
                "order_id": order_id,
                "why": f"{asked}: {amount} of {payment.amount_authorized} {payment.currency}",
            }
            return Recorded(await _write(conn, "capture", request, payment, values))
        case StartVoid(publishes):
            answer = await _write(conn, "void", request, payment, {"publishes": publishes, "why": asked})
            return Recorded(answer, publishes=publishes)
        case StartRefund(amount):
            return await _write_refund(conn, request, payment, amount)
        case _:
            assert_never(decision)


def _decide(payment: LockedPayment, wish: Wish) -> StartCapture | StartVoid | StartRefund | AlreadyAsked | Refused:
    match wish:
        case CaptureWish():
            return decide_capture(payment, wish)
        case VoidWish():
            return decide_void(payment)
        case RefundWish():
            return decide_refund(payment, wish)
        case _:
            assert_never(wish)


async def _find_answer(conn: Connection, request: WishRequest, ends_at: float) -> Repeated | KeyReused | None:
    """What stands under the key, which is this transaction's alone from now on."""
    key = {"client_id": request.client_id, "idempotency_key": request.idempotency_key}
    try:
        await conn.execute(_QUERIES["lock_key"], {**key, "lock_wait": _lock_wait(ends_at)})
    except psycopg.errors.LockNotAvailable as error:
        raise _Waited("key") from error
    row: Any = await (await conn.execute(_QUERIES["find_answer"], key)).fetchone()
    if row is None:
        return None
    await confirm(conn)
    payment_id, fingerprint, status, location, body = row
    if fingerprint != request.fingerprint or payment_id != request.payment_id:
        return KeyReused()
    return Repeated((body or "").encode(), status, location)


async def _lock_payment(conn: Connection, payment_id: UUID, ends_at: float) -> tuple[LockedPayment, str] | None:
    values = {"payment_id": payment_id, "lock_wait": _lock_wait(ends_at)}
    try:
        row: Any = await (await conn.execute(_QUERIES["lock_payment"], values)).fetchone()
    except psycopg.errors.LockNotAvailable as error:
        raise _Waited("payment") from error
    if row is None:
        return None
    status, method, order_id, currency, amount, authorized, captured, reserved, to_capture, answer = row
    payment = LockedPayment(
        status=PaymentStatus(status),
        capture_method=method,
        order_id=order_id,
        currency=currency,
        amount=amount,
        amount_authorized=authorized,
        amount_captured=captured,
        amount_reserved=reserved,
        amount_to_capture=to_capture,
    )
    return payment, answer


def _lock_wait(ends_at: float) -> str:
    left_ms = int((ends_at - time.monotonic()) * 1_000)
    return f"{max(left_ms, LOCK_WAIT_MS_MIN)}ms"


async def _write_refund(conn: Connection, request: WishRequest, payment: LockedPayment, amount: int) -> Recorded:
    assert isinstance(request.wish, RefundWish)
    refund_id = new_id()
    location = f"/refunds/{refund_id}"
    values = {
        "refund_id": refund_id,
        "amount": amount,
        "reason": request.wish.reason,
        "location": location,
        "why": f"asked for by {request.client_id}: refund {refund_id} of {amount} {payment.currency}",
    }
    return Recorded(await _write(conn, "refund", request, payment, values), location)


async def _write(
    conn: Connection, query: str, request: WishRequest, payment: LockedPayment, values: dict[str, object]
) -> bytes:
    """Carries out one of the three statements; the answer that it rendered."""
    common = {
        "payment_id": request.payment_id,
        "event_id": new_id(),
        "traceparent": request.traceparent,
        "from_status": payment.status.value,
        "client_id": request.client_id,
        "idempotency_key": request.idempotency_key,
        "fingerprint": request.fingerprint,
        "status": request.status,
    }
    row: Any = await (await conn.execute(_QUERIES[query], common | values)).fetchone()
    answer: str = row[0]
    return answer.encode()


async def _keep(conn: Connection, request: WishRequest, answer: str) -> None:
    if request.idempotency_key is None:
        return
    values = {
        "client_id": request.client_id,
        "idempotency_key": request.idempotency_key,
        "fingerprint": request.fingerprint,
        "payment_id": request.payment_id,
        "status": request.status,
        "location": None,
        "answer": answer,
    }
    await conn.execute(_QUERIES["keep_answer"], values)
