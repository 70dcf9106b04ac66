"""How fast the relay's SQL is, as ratios within one run, on a PostgreSQL of its own: `python -m bench.relay`, a minute.

Compares payments.dispatch with sending row by row and with a bare INSERT … SELECT, then watches for growth: the first
100,000 rows against the last, without and with a transaction that stays open (a pinned xmin). Nothing is asserted: on a
busy machine times vary widely, the buffers that a batch touches don't.
"""

import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psycopg
from rich.console import Console
from rich.table import Table

from payments.database.migrate import migrate
from payments.development.embedded_postgres import EmbeddedPostgres

LANE = "refund_requested"
ROWS = 100_000
SMALL_ROWS = 20_000  # enough for the slow ones
GROWTH_ROUNDS = 3

Connection = psycopg.Connection[Any]

_PAYLOAD = """jsonb_build_object('paymentId', gen_random_uuid(), 'orderId', gen_random_uuid(), 'amount', 1999,
  'currency', 'EUR', 'requestedAt', payments.rfc3339(now()))"""
# Many events of one payment: what is measured is the relay, not the writing.
_FILL = f"""
with p as (
  insert into payments.payments
    (payment_id, cart_id, order_id, amount, currency, capture_method, client_id, fingerprint)
  select id, id, id, 1999, 'EUR', 'automatic', 'bench', sha256('bench') from gen_random_uuid() id
  returning payment_id
)
insert into payments.outbox (event_id, event_type, aggregate_id, sequence, payload, headers)
select event_id, 'refund-requested', payment_id, n, {_PAYLOAD},
  payments.event_headers(event_id, 'refund-requested', payment_id, n, now(), null)
from p, generate_series(1, %(rows)s) n, lateral (select gen_random_uuid() as event_id where n > 0) e
"""


def fill(conn: Connection, rows: int) -> None:
    """Writes events, 1,000 a transaction."""
    for _ in range(rows // 1_000):
        conn.execute(_FILL, {"rows": 1_000})


def dispatch_all(conn: Connection, rows_max: int) -> None:
    """Dispatches everything, a transaction a batch."""
    while conn.execute("select payments.dispatch(%s, %s)", (LANE, rows_max)).fetchone() != (0,):
        pass


def send_one_by_one(conn: Connection, rows: int) -> None:
    """What a relay does that reads rows and sends each."""
    events = conn.execute(
        "select payload::text, headers::text from payments.outbox order by outbox_id limit %s", (rows,)
    )
    for payload, headers in events.fetchall():
        conn.execute("select pgmq.send(%s, %s::jsonb, %s::jsonb)", (LANE, payload, headers))


def insert_select(conn: Connection, rows: int, batch: int) -> None:
    """The least that moving rows into the queue's table could cost."""
    for low in range(0, rows, batch):
        conn.execute(
            f"""insert into pgmq.q_{LANE} (vt, message, headers)
            select clock_timestamp(), payload, headers from payments.outbox
            where outbox_id > %s and outbox_id <= %s order by outbox_id""",
            (low, low + batch),
        )


def rate(rows: int, work: Callable[[], None]) -> float:
    """Rows a second."""
    began = time.perf_counter()
    work()
    return rows / (time.perf_counter() - began)


@contextmanager
def server() -> Iterator[str]:
    """A durable PostgreSQL of its own, as `payments up` would start it; yields its administrator's address."""
    with tempfile.TemporaryDirectory(prefix="payments-bench-") as home:
        postgres = EmbeddedPostgres(Path(home))
        postgres.start()
        try:
            yield postgres.admin_dsn()
        finally:
            postgres.kill()


@contextmanager
def fresh_database(dsn: str, name: str) -> Iterator[str]:
    """A migrated database; yields its address."""
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute(f"create database {name}")
    info = psycopg.conninfo.make_conninfo(dsn, dbname=name)
    migrate(info)
    yield info


def compare(dsn: str, table: Table) -> None:
    """The same rows by every way."""
    with fresh_database(dsn, "compare") as info, psycopg.connect(info, autocommit=True) as conn:
        fill(conn, SMALL_ROWS)
        base = rate(SMALL_ROWS // 4, lambda: send_one_by_one(conn, SMALL_ROWS // 4))
        table.add_row("pgmq.send, a row a transaction", f"{base:,.0f}", "1.0")
        for batch in (10, 100, 1_000):
            direct = rate(SMALL_ROWS, lambda batch=batch: insert_select(conn, SMALL_ROWS, batch))  # type: ignore[misc]
            table.add_row(f"bare INSERT … SELECT, batch {batch:,}", f"{direct:,.0f}", f"{direct / base:.1f}")
        dispatch_all(conn, 1_000)
        for batch in (10, 100, 1_000):
            fill(conn, SMALL_ROWS)
            ours = rate(SMALL_ROWS, lambda batch=batch: dispatch_all(conn, batch))  # type: ignore[misc]
            table.add_row(f"payments.dispatch, batch {batch:,}", f"{ours:,.0f}", f"{ours / base:.1f}")


def grow(dsn: str, table: Table, *, pinned: bool) -> None:
    """Rounds of fill and dispatch; a consumer takes the messages away, as consumers do."""
    name = "pinned" if pinned else "free"
    with ExitStack() as stack:
        info = stack.enter_context(fresh_database(dsn, f"grow_{name}"))
        conn = stack.enter_context(psycopg.connect(info, autocommit=True))
        if pinned:
            old = stack.enter_context(psycopg.connect(info))
            old.execute("set transaction isolation level repeatable read")
            old.execute("select pg_current_xact_id()")
        measured = []
        for _ in range(GROWTH_ROUNDS):
            fill(conn, ROWS)
            measured.append(dispatch_counting(conn))
            conn.execute(f"delete from pgmq.q_{LANE}")
        label = "xmin pinned" if pinned else "nothing pinned"
        for which, (rows_s, buffers) in (("first", measured[0]), (f"last of {GROWTH_ROUNDS}", measured[-1])):
            ratio = f"{rows_s / measured[0][0]:.2f}"
            table.add_row(f"{which}, {ROWS:,} rows, {label}", f"{rows_s:,.0f}", ratio, f"{buffers:,}")


def dispatch_counting(conn: Connection) -> tuple[float, int]:
    """Dispatches ROWS rows in batches of 1,000: rows a second, and the buffers that a batch touched."""
    buffers = 0
    began = time.perf_counter()
    for _ in range(ROWS // 1_000):
        row = conn.execute(
            "explain (analyze, buffers, timing off, format json) select payments.dispatch(%s, 1000)", (LANE,)
        ).fetchone()
        assert row is not None
        plan = row[0][0]["Plan"]
        buffers += plan["Shared Hit Blocks"] + plan["Shared Read Blocks"]
    return ROWS / (time.perf_counter() - began), buffers * 1_000 // ROWS


def main() -> None:
    """Runs all of it and prints one table."""
    table = Table(
        "what", "rows/s", "ratio", "buffers a batch", title="relay, one connection, durable commits", box=None
    )
    for column in table.columns[1:]:
        column.justify = "right"
    with server() as dsn:
        compare(dsn, table)
        grow(dsn, table, pinned=False)
        grow(dsn, table, pinned=True)
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
