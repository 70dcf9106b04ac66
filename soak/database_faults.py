"""What is done to PostgreSQL while payments live, by an administrator; everything passes within seconds."""

import asyncio
import contextlib
import random
import time

import psycopg

from soak.faults import Faults
from soak.system import System

OURS = "usename ~ '^payments_'"
LOCKED = (
    "pgmq.q_ordering",
    "pgmq.q_payment_requested",
    "pgmq.q_refund_requested",
    "payments.payments",
    "payments.refunds",
    "payments.inbox",
    "payments.outbox",
    "payments.stripe_requests",
    "payments.relay_batches",
    "payments.rate_limits",
)
CONNECTIONS_TAKEN = 230  # more than any server here gives


class DatabaseFaults:
    """One family of faults; `act` does the next."""

    def __init__(self, system: System, faults: Faults) -> None:
        self._system = system
        self._faults = faults

    async def act(self, rng: random.Random) -> None:
        """Begins one of them; it goes on beside the others."""
        kinds = (
            (self.terminate, 5),
            (self.cancel, 2),
            (self.lock_table, 4),
            (self.lock_rows, 3),
            (self.read_only, 2),
            (self.take_connections, 1),
            (self.pin_xmin, 2),
        )
        (kind,) = rng.choices([one for one, _ in kinds], [weight for _, weight in kinds])

        async def one() -> None:
            try:
                await asyncio.to_thread(kind, rng)
            except psycopg.Error as error:
                self._system.tell(f"{kind.__name__} itself met {type(error).__name__}")

        self._system.count[kind.__name__] += 1
        self._faults.beside(one())

    def terminate(self, rng: random.Random) -> None:
        count = rng.randint(1, 12)
        self._system.rows(
            f"select pg_terminate_backend(pid) from (select pid from pg_stat_activity where {OURS} "
            "order by random() limit %s) some",
            count,
        )
        self._system.tell(f"terminated up to {count} backends")

    def cancel(self, _rng: random.Random) -> None:
        self._system.rows(f"select pg_cancel_backend(pid) from pg_stat_activity where {OURS} and state = 'active'")
        self._system.tell("cancelled what ran")

    def lock_table(self, rng: random.Random) -> None:
        table, seconds = rng.choice(LOCKED), rng.choice([0.5, 2, 4])
        self._system.tell(f"lock {table} for {seconds} s")
        with self._system.connect() as conn:
            conn.execute("set lock_timeout = '5s'")
            conn.execute(f"lock {table} in exclusive mode")
            time.sleep(seconds)
            conn.rollback()

    def lock_rows(self, rng: random.Random) -> None:
        seconds = rng.choice([1, 5])
        with self._system.connect() as conn:
            found = conn.execute(
                "select from payments.payments order by updated_at desc limit 5 for update skip locked"
            ).fetchall()
            self._system.tell(f"lock {len(found)} payments for {seconds} s")
            time.sleep(seconds)
            conn.rollback()

    def read_only(self, rng: random.Random) -> None:
        seconds = rng.choice([1, 4])
        self._system.tell(f"read only for {seconds} s")
        with self._system.connect(autocommit=True) as conn:
            conn.execute("alter system set default_transaction_read_only = on")
            conn.execute("select pg_reload_conf()")
        time.sleep(seconds)
        self.make_writable()

    def make_writable(self) -> None:
        """Ends `read_only`, whatever else befalls the server meanwhile."""
        for _ in range(200):
            try:
                with self._system.connect(autocommit=True) as conn:
                    conn.execute("alter system reset default_transaction_read_only")
                    conn.execute("select pg_reload_conf()")
            except psycopg.Error:
                time.sleep(0.3)
            else:
                return

    def take_connections(self, rng: random.Random) -> None:
        """All of them, and those in use as well; given back after seconds."""
        with contextlib.ExitStack() as taken:
            held: list[psycopg.Connection[object]] = []

            def take() -> None:
                with contextlib.suppress(psycopg.Error):
                    while len(held) < CONNECTIONS_TAKEN:
                        held.append(taken.enter_context(contextlib.closing(self._system.connect(autocommit=True))))

            take()
            if held:
                with contextlib.suppress(psycopg.Error):
                    held[0].execute(f"select pg_terminate_backend(pid) from pg_stat_activity where {OURS}")
                take()
            self._system.tell(f"took {len(held)} connections")
            time.sleep(rng.choice([2, 5]))

    def pin_xmin(self, rng: random.Random) -> None:
        """A transaction that stays open: nothing may be vacuumed meanwhile, and its id is in progress."""
        end = time.monotonic() + rng.choice([10, 40])
        with self._system.connect() as conn:
            conn.execute("set transaction isolation level repeatable read")
            conn.execute("select pg_current_xact_id(), count(*) from payments.outbox")
            while time.monotonic() < end and self._faults.is_on:
                time.sleep(0.2)
            conn.rollback()
