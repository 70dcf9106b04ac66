"""The ways on which waiting work is found, and what that costs: counted in blocks of their tables, not in seconds."""

import json
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, ClassVar, Protocol

from payments.database.connections import Pool, open_pool, transaction
from payments.inbox.recorder import ROWS_MAX, Recorder
from payments.queues.queue import Queue
from payments.settings import Settings
from payments.stripe_gateway.api_version import STRIPE_API_VERSION
from payments.wakeup import Listener
from tests.development.databases import Database
from tests.inbox.conftest import Notices, Truth
from tests.relay.outbox_rows import Connection, insert_many

BATCH = ROWS_MAX
PLANS_SETTLE = 12  # the client prepares a statement after five times, PostgreSQL keeps its plan after five more
LANE = "refund_requested"
QUEUE = "payment_requested"

BLOCKS = """
select sum(heap_blks_hit + heap_blks_read + idx_blks_hit + idx_blks_read) from pg_statio_all_tables
where relid = any(%s::regclass[]::oid[])
"""
# What a session did is counted for others at most once a second, unless it says so.
FLUSH = "select pg_stat_force_next_flush()"
FILL_QUEUE = """
insert into pgmq.q_payment_requested (vt, message, headers)
select clock_timestamp() + make_interval(secs => %s), '{}', '{}' from generate_series(1, %s)
"""
# About a PaymentIntent of somebody else's: weighed without touching a payment.
FILL_INBOX = """
insert into payments.inbox (source, message_id, message_type, payload, next_attempt_at)
select 'stripe-webhook', id, 'payment_intent.succeeded', jsonb_set(%(event)s::jsonb, '{id}', to_jsonb(id)),
  clock_timestamp() + make_interval(secs => %(due_s)s::float8)
from generate_series(1, %(rows)s) n, lateral (select 'evt_' || gen_random_uuid() as id where n > 0) e
"""
FOREIGN = {
    "object": "event",
    "type": "payment_intent.succeeded",
    "livemode": False,
    "created": 1_700_000_000,
    "api_version": STRIPE_API_VERSION,
    "data": {"object": {"id": "pi_of_others", "object": "payment_intent", "metadata": {}}},
}


class Clock:
    """Time that passes when the test says so."""

    def __init__(self) -> None:
        self.now_s = 1_000.0

    def __call__(self) -> float:
        return self.now_s


class Way(Protocol):
    """One of the ways."""

    role: ClassVar[str]
    tables: ClassVar[tuple[str, ...]]

    def __init__(self, admin: Connection, dsn: str, clock: Clock) -> None:
        """At a database, as an administrator and by the role's own address."""

    def fill(self, rows: int, due_s: float | None = None) -> None:
        """Makes work; with `due_s` in the future, work that must wait."""

    async def work(self, pool: Pool) -> int:
        """Finds a batch, and is done with it; how many rows it was."""


class OnLane:
    """From the outbox into a queue."""

    role = "payments_relay"
    tables = ("payments.outbox", "payments.relay_batches")

    def __init__(self, admin: Connection, dsn: str, clock: Clock) -> None:
        self.admin = admin

    def fill(self, rows: int, due_s: float | None = None) -> None:
        insert_many(self.admin, rows, "refund-requested")

    async def work(self, pool: Pool) -> int:
        async with transaction(pool) as conn:
            await conn.execute("select * from payments.lanes_with_work()")
            row: Any = await (await conn.execute("select payments.dispatch(%s, %s)", (LANE, BATCH))).fetchone()
        return int(row[0])


class OnQueue:
    """From a queue to the worker, and acknowledged."""

    role = "payments_worker"
    tables = (f"pgmq.q_{QUEUE}",)

    def __init__(self, admin: Connection, dsn: str, clock: Clock) -> None:
        self.admin = admin
        self.queue = Queue(QUEUE, 30.0, clock)

    def fill(self, rows: int, due_s: float | None = None) -> None:
        self.admin.execute(FILL_QUEUE, (due_s or 0.0, rows))

    async def work(self, pool: Pool) -> int:
        async with transaction(pool) as conn:
            await self.queue.count_due(conn, BATCH)
        async with transaction(pool) as conn:
            leases = await self.queue.lease(conn, BATCH)
        async with transaction(pool) as conn:
            return len(await self.queue.ack(conn, leases))


class OnInbox:
    """From the inbox to the recorder, and finished: new rows."""

    role = "payments_worker"
    tables = ("payments.inbox",)

    def __init__(self, admin: Connection, dsn: str, clock: Clock) -> None:
        self.admin = admin
        settings = Settings.load({"STRIPE_API_KEY": "sk_test_x", "STRIPE_WEBHOOK_SECRETS": "whsec_tests"})
        self._make: Callable[[Pool], Recorder] = lambda pool: Recorder(
            pool, Truth(), Notices(), Listener(dsn, self.role), settings, clock
        )
        self._recorder: Recorder | None = None

    def fill(self, rows: int, due_s: float | None = None) -> None:
        """None: new rows."""
        self.admin.execute(FILL_INBOX, {"event": json.dumps(FOREIGN), "rows": rows, "due_s": due_s})

    async def work(self, pool: Pool) -> int:
        if self._recorder is None:
            self._recorder = self._make(pool)
        return await self._recorder.run_once()


class OnPutOff(OnInbox):
    """The same: rows that were put off, and have come due."""

    def fill(self, rows: int, due_s: float | None = None) -> None:
        super().fill(rows, due_s or 0.0)
        super().fill(1)  # what is put off was new once: the floor for new rows is above it


Kind = type[Way]
WAYS: tuple[Kind, ...] = (OnLane, OnQueue, OnInbox, OnPutOff)


class Meter:
    """Counts the blocks that a way's work touches in its tables."""

    def __init__(self, admin: Connection, way: Way, pool: Pool) -> None:
        self._admin = admin
        self.way = way
        self.pool = pool

    async def blocks(self) -> int:
        async with self.pool.connection() as conn:  # the only one there is
            await conn.execute(FLUSH)
        self._admin.execute(FLUSH)  # or what a fill cost is told a second later, in the middle of a batch
        (row,) = self._admin.execute(BLOCKS, (list(self.way.tables),)).fetchall()
        return int(row[0])

    async def batch(self) -> float:
        """Blocks a row of one full batch."""
        before = await self.blocks()
        rows = await self.way.work(self.pool)
        assert rows >= BATCH
        return (await self.blocks() - before) / rows

    async def settle_plans(self) -> None:
        """Every plan is made and kept while next to nothing waits, as in a process that started early."""
        for _ in range(PLANS_SETTLE):
            self.way.fill(1)
            await self.drain()

    async def drain(self) -> None:
        while await self.way.work(self.pool):
            pass


@asynccontextmanager
async def measuring(database: Database, kind: Kind, clock: Clock) -> AsyncIterator[Meter]:
    with database.connect() as admin:
        dsn = database.dsn(kind.role)
        async with open_pool(dsn, kind.role, 1) as pool:
            yield Meter(admin, kind(admin, dsn, clock), pool)


@contextmanager
def pinned(database: Database) -> Iterator[None]:
    """A transaction that stays open: no dead tuple may go, and its own id stays in every snapshot."""
    with database.connect(autocommit=False) as old:
        old.execute("set transaction isolation level repeatable read")
        old.execute("select pg_current_xact_id()")
        yield
