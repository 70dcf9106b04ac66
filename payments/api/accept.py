"""Records wishes to be paid: payment, history, event and idempotency record in one statement, one transaction.

Takes a list, so that concurrent requests may share a statement; each gets an outcome of its own, as if it were alone.
"""

import asyncio
from collections.abc import Sequence
from typing import Any
from uuid import UUID

import msgspec
import psycopg
from psycopg_pool import PoolTimeout

from payments.api.accept_outcomes import (
    Accepted,
    AcceptRequest,
    Failed,
    InProgress,
    Outcome,
    Rival,
    StoredAnswer,
    Unknown,
    Winners,
    decide_loser,
)
from payments.database.connections import CommitUncertain, Pool, confirm, may_be_committed, statements, transaction
from payments.database.queries import load_queries

# How long a request waits for another that holds its key or its cart, before it is told to come again.
LOCK_WAIT_MS = 5_000
# In company it waits less, and then alone: one contended request must not hold up its neighbours.
LOCK_WAIT_IN_COMPANY_MS = 50
# Each further round means that a winner ended between two statements, or a deadlock.
ROUNDS_MAX = 4

_QUERIES = load_queries("api")


async def accept(pool: Pool, requests: Sequence[AcceptRequest]) -> list[Outcome]:
    """Records what can be recorded, and says of each request, in order, what became of it. Raises nothing.

    Commits. One round trip where nobody lost. Waits at most LOCK_WAIT_MS for other transactions, and for a connection.
    """
    outcomes: dict[UUID, Outcome] = {}
    pending = list(requests)
    for _ in range(ROUNDS_MAX):
        outcomes.update(await _try(pool, pending))
        pending = [request for request in pending if request.payment_id not in outcomes]
        if not pending:
            break
    return [outcomes.get(request.payment_id, InProgress()) for request in requests]


async def _try(pool: Pool, requests: list[AcceptRequest]) -> dict[UUID, Outcome]:
    """One round; whoever is missing in the result tries again."""
    alone = len(requests) == 1
    try:
        outcomes = await _record(pool, requests, LOCK_WAIT_MS if alone else LOCK_WAIT_IN_COMPANY_MS)
    except psycopg.errors.UniqueViolation:
        # The key is in use for another kind of request: ON CONFLICT covers the payment, not the idempotency record.
        outcomes = {}
        if not alone:
            return await _try_each(pool, requests)
    except psycopg.errors.DeadlockDetected:
        return {} if alone else await _try_each(pool, requests)
    except (psycopg.Error, PoolTimeout) as error:
        outcome = _outcome_of(error)
        if alone or isinstance(outcome, Unknown) or isinstance(error, PoolTimeout):
            return {request.payment_id: outcome for request in requests}
        return await _try_each(pool, requests)
    losers = [request for request in requests if request.payment_id not in outcomes]
    if losers:
        outcomes |= await _resolve(pool, losers)
    return outcomes


async def _try_each(pool: Pool, requests: list[AcceptRequest]) -> dict[UUID, Outcome]:
    outcomes: dict[UUID, Outcome] = {}
    for each in await asyncio.gather(*(_try(pool, [request]) for request in requests)):
        outcomes |= each
    return outcomes


def _outcome_of(error: Exception) -> Outcome:
    if isinstance(error, psycopg.errors.LockNotAvailable):
        return InProgress()
    if isinstance(error, PoolTimeout):
        return Failed(error)  # nothing was sent
    return Unknown(error) if may_be_committed(error) else Failed(error)


async def _record(pool: Pool, requests: list[AcceptRequest], lock_wait_ms: int) -> dict[UUID, Outcome]:
    wishes = sorted((_row(request) for request in requests), key=_global_order)
    async with statements(pool) as conn:
        cursor = await conn.execute(
            _QUERIES["accept"], {"wishes": msgspec.json.encode(wishes).decode(), "lock_wait": f"{lock_wait_ms}ms"}
        )
        rows: list[tuple[Any, ...]] = await cursor.fetchall()
    return {payment_id: Accepted(payment_id, answer.encode()) for payment_id, answer in rows}


def _row(request: AcceptRequest) -> dict[str, object]:
    wish = request.wish
    return {
        "payment_id": request.payment_id,
        "event_id": request.event_id,
        "cart_id": wish.cart_id,
        "order_id": wish.order_id,
        "customer_id": wish.customer_id,
        "amount": wish.amount,
        "currency": wish.currency,
        "capture_method": wish.capture_method,
        "payment_method": wish.payment_method,
        "metadata": wish.metadata,
        "client_id": request.client_id,
        "idempotency_key": request.idempotency_key,
        "fingerprint": request.fingerprint.hex(),
        "traceparent": request.traceparent,
    }


def _global_order(row: dict[str, object]) -> tuple[str, str, str]:
    """Carts first: rivals for a cart often carry different keys, rivals for a key nearly always the same cart."""
    return str(row["cart_id"]), str(row["client_id"]), str(row["idempotency_key"] or "")


async def _resolve(pool: Pool, losers: list[AcceptRequest]) -> dict[UUID, Outcome]:
    """Tells the losers apart; its snapshot is later than that of the statement in which they lost."""
    lost = [
        {
            "payment_id": request.payment_id,
            "client_id": request.client_id,
            "idempotency_key": request.idempotency_key,
            "cart_id": request.wish.cart_id,
        }
        for request in losers
    ]
    try:
        async with transaction(pool) as conn:
            # Planned anew each time: rare, and a plan made while the tables were empty must not outlive that.
            cursor = await conn.execute(
                _QUERIES["find_winners"], {"losers": msgspec.json.encode(lost).decode()}, prepare=False
            )
            rows: list[tuple[Any, ...]] = await cursor.fetchall()
            await confirm(conn)
    except CommitUncertain as error:
        return {request.payment_id: Unknown(error) for request in losers}
    except (psycopg.Error, PoolTimeout) as error:
        return {request.payment_id: Failed(error) for request in losers}
    winners = {row[0]: _winners(row) for row in rows}
    decided = ((request.payment_id, decide_loser(request, winners[request.payment_id])) for request in losers)
    return {payment_id: outcome for payment_id, outcome in decided if outcome is not None}


def _winners(row: tuple[Any, ...]) -> Winners:
    stored, under_key, of_cart = row[1:6], row[6:9], row[9:12]
    return Winners(
        StoredAnswer(*stored) if stored[1] is not None else None,
        Rival(*under_key) if under_key[0] is not None else None,
        Rival(*of_cart) if of_cart[0] is not None else None,
    )
