"""One command, its lease, and a handler whose call to Stripe is a function of the test."""

import asyncio
import dataclasses
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, cast
from uuid import UUID

from payments.database.connections import Pool, open_pool, transaction
from payments.queues.queue import Leased, Queue
from payments.stripe_gateway.gateway import StripeGateway
from payments.stripe_gateway.outcomes import Answered, Outcome
from payments.wakeup import Notifier
from payments.worker.create_payment_intent import CREATE_PAYMENT_INTENT
from payments.worker.handling import Handler, Surroundings
from tests.database.rows import insert_payment
from tests.development.databases import Database

LEASE_S = 20.0

TIMEOUT_S = 5.0

ANSWER = Answered({"id": "pi_1", "object": "payment_intent"}, 200, "req_1")


class Bench:
    """A queue with one command, and a handler whose call to Stripe is a function of the test."""

    def __init__(self, database: Database, pool: Pool, lease_s: float = LEASE_S) -> None:
        self.database = database
        self.pool = pool
        self.queue = Queue("payment_requested", lease_s)
        self.sent: list[tuple[Mapping[str, Any], str]] = []
        self.notified: list[str] = []
        self.during_call: Callable[[], Awaitable[None]] | None = None
        self.outcome: Outcome | Exception = ANSWER
        operation = dataclasses.replace(CREATE_PAYMENT_INTENT, call=self._call)
        around = Surroundings(pool, cast("StripeGateway", None), cast("Notifier", self), TIMEOUT_S, lambda _: None)
        self.handler = Handler(operation, self.queue, around)
        with database.connect() as conn:
            self.payment_id: UUID = insert_payment(conn)
            conn.execute(
                "select pgmq.send('payment_requested', jsonb_build_object('paymentId', %s::uuid))", (self.payment_id,)
            )

    def notify(self, channel: str, payload: str = "") -> None:
        self.notified.append(f"{channel} {payload}".strip())

    async def _call(self, _: StripeGateway, parameters: Mapping[str, Any], key: str) -> Outcome:
        self.sent.append((parameters, key))
        if self.during_call is not None:
            await self.during_call()
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return self.outcome

    async def lease(self) -> Leased:
        async with transaction(self.pool) as conn:
            (lease,) = await self.queue.lease(conn, 1)
        return lease

    async def steal(self) -> None:
        """Another worker leases the command."""
        self.rows("update pgmq.q_payment_requested set read_ct = read_ct + 1 returning msg_id")

    async def handle(self, lease: Leased) -> None:
        await self.handler.handle(lease, lambda: None)

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        with self.database.connect() as conn:
            return conn.execute(query).fetchall()


def on_bench(database: Database, test: Callable[[Bench], Awaitable[None]], lease_s: float = LEASE_S) -> None:
    async def main() -> None:
        async with open_pool(database.dsn("payments_worker"), "payments_worker", 3) as pool:
            await test(Bench(database, pool, lease_s))

    asyncio.run(main())


DEAD = "select payment_id, message_id, payload ->> 'paymentId', attempts, error from payments.dead_letters"
