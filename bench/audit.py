"""What a run of the audit costs beside 10,000 and 1,000,000 settled payments: `python -m bench.audit`, some minutes.

A run as the worker makes it every minute, with a hundred payments told of since the last one: its buffers and its time,
and the whole view once, for comparison. Nothing is asserted: times vary widely on a busy machine, buffers don't.
"""

import asyncio
import sys
import time
from typing import Any

import psycopg
from rich.console import Console
from rich.table import Table

from bench.relay import fresh_database, server
from payments.database.connections import open_pool
from payments.reconciler.audit import audit
from payments.reconciler.jobs import Surroundings
from payments.settings import Settings

SMALL, LARGE = 10_000, 1_000_000
FRESH = 100
RUNS = 5

Connection = psycopg.Connection[Any]

# One payment's straight way, as it stands in our tables when it is over.
_SETTLED = """
with p as (
  insert into payments.payments (
    payment_id, cart_id, order_id, amount, currency, capture_method, client_id, fingerprint, status,
    amount_authorized, amount_captured, last_sequence
  )
  select id, id, id, 1999, 'EUR', 'automatic', 'bench', sha256('bench'), 'SUCCEEDED', 1999, 1999, 2
  from (
    select ('018f0000-0000-7000-8000-' || lpad(to_hex(n), 12, '0'))::uuid as id
    from generate_series(%(first)s::int, %(last)s::int) n
  ) i
  returning payment_id
), o as (
  insert into payments.outbox (event_id, event_type, aggregate_id, sequence, payload, headers)
  select gen_random_uuid(), t, payment_id, s, jsonb_build_object('paymentId', payment_id),
    payments.event_headers(payment_id, t, payment_id, s, now(), null)
  from p, (values (1, 'payment-requested'), (2, 'payment-succeeded')) e (s, t)
), h as (
  insert into payments.payment_history (payment_id, signal, source, to_status, decision, why)
  select payment_id, 'authorize', 'api', 'REQUESTED', 'applied', 'accepted' from p
  union all
  select payment_id, 'payment_intent.succeeded', 'worker', 'SUCCEEDED', 'applied', 'Stripe has the money' from p
), i as (
  insert into payments.inbox (source, message_id, message_type, payment_id, payload, processed_at, outcome)
  select s, payment_id::text, 'x', payment_id, '{}', now(), 'applied'
  from p, unnest(array['stripe-api', 'stripe-webhook']) s
)
insert into payments.stripe_requests
  (payment_id, subject_id, operation, idempotency_key, parameters, state, outcome, answered_at)
select payment_id, payment_id, 'create_payment_intent', payment_id::text, '{}', 'answered', 'answered', now() from p
"""


def settle(conn: Connection, first: int, last: int) -> None:
    """Writes settled payments, dispatched everywhere and taken from the queues."""
    conn.execute("set session_replication_role = replica")
    for start in range(first, last + 1, 10_000):
        conn.execute(_SETTLED, {"first": start, "last": min(last, start + 9_999)})
    conn.execute("set session_replication_role = origin")
    for (lane,) in conn.execute("select queue_name from payments.lanes").fetchall():
        while conn.execute("select payments.dispatch(%s, 10000)", (lane,)).fetchone() != (0,):
            pass
        conn.execute(f"truncate pgmq.q_{lane}")


def buffers_touched(conn: Connection) -> int:
    """By everybody in this database so far, as its statistics have it."""
    conn.execute("select pg_stat_clear_snapshot()")
    row = conn.execute(
        "select blks_hit + blks_read from pg_stat_database where datname = current_database()"
    ).fetchone()
    assert row is not None
    return int(row[0])


async def run(dsn: str) -> None:
    """One run, on a connection of its own, whose end hands in its statistics."""
    async with open_pool(dsn, "postgres", 1) as pool:
        await audit(Surroundings(pool, None, None, Settings.load({})))  # type: ignore[arg-type]  # asks, wakes nobody


def measure(conn: Connection, dsn: str, so_far: int) -> tuple[float, float, float]:
    """Seconds and buffers of a run in the middle of the books, and the seconds of the whole view; the best of RUNS."""
    conn.execute("vacuum analyze")
    asyncio.run(run(dsn))
    times, buffers = [], []
    for _ in range(RUNS):
        settle(conn, so_far + 1, so_far + FRESH)
        so_far += FRESH
        conn.execute("update payments.audit_progress set lap_at = '018f0000-0000-7000-8000-000000000fff'")
        touched, began = buffers_touched(conn), time.perf_counter()
        asyncio.run(run(dsn))
        times.append(time.perf_counter() - began)
        time.sleep(1)  # the session's statistics arrive when it is gone
        buffers.append(buffers_touched(conn) - touched)
    began = time.perf_counter()
    assert conn.execute("select * from payments.audit_imbalances").fetchall() == []
    return min(times), min(buffers), time.perf_counter() - began


def main() -> None:
    """Runs both and prints one table."""
    large = int(sys.argv[1]) if len(sys.argv) > 1 else LARGE
    table = Table("settled payments", "a run, s", "ratio", "buffers", "ratio", "the whole view, s", box=None)
    for column in table.columns:
        column.justify = "right"
    with server() as dsn, fresh_database(dsn, "audit") as info, psycopg.connect(info, autocommit=True) as conn:
        settle(conn, 1, SMALL)
        small = measure(conn, info, SMALL)
        settle(conn, 2 * SMALL, large)
        for count, (run_s, buffers, view_s) in ((SMALL, small), (large, measure(conn, info, large))):
            ratios = f"{run_s / small[0]:.2f}", f"{buffers / small[1]:.2f}"
            table.add_row(f"{count:,}", f"{run_s:.2f}", ratios[0], f"{buffers:,.0f}", ratios[1], f"{view_s:.1f}")
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
