"""What the database says about the state of the work, as gauges: read when Prometheus scrapes, no oftener than useful.

Each reading is a statement of its own with a time limit, so that one that is slow takes nothing else with it, and a
scrape succeeds while the database is away. What could not be read is NaN or absent, never yesterday's number.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, cast

import psycopg
import structlog
from prometheus_client import CollectorRegistry, Gauge

from payments.api.deadlines import in_time
from payments.database.connections import DATABASE_AWAY, Pool, transaction
from payments.database.queries import load_queries

SCRAPE_WAIT_S = 2.0  # how long a scrape waits for fresh readings, far below Prometheus's own 10 s
STATEMENT_TIMEOUT_MS = 1_000
FRESH_S = 1.0  # several scrapers, or an impatient one, cost one reading a second

NAN = float("nan")
_QUERIES = load_queries("api")
log = structlog.get_logger()


class Reading(NamedTuple):
    """One statement and its gauges, a column each; labelled ones have their label in a first column."""

    query: str
    gauges: Sequence[Gauge]
    is_labelled: bool = False
    fresh_s: float = FRESH_S
    timeout_ms: int = STATEMENT_TIMEOUT_MS


class Gauges:
    """The gauges of the whole system; any API process shows the same."""

    def __init__(self, pool: Pool, registry: CollectorRegistry, clock: Callable[[], float] = time.monotonic) -> None:
        self._pool = pool
        self._clock = clock
        self._readings = _readings(registry)
        self._up = Gauge("payments_database_up", "Whether the last scrape reached the database.", registry=registry)
        self._read_at: dict[str, float] = {}
        self._heard = 0
        self._task: asyncio.Task[None] | None = None
        for reading in self._readings:
            _forget(reading)

    async def refresh(self) -> None:
        """Reads what is no longer fresh, for SCRAPE_WAIT_S at most; what takes longer is there at the next scrape.

        A database that says nothing all that time stands still, or has no connection left for us.
        """
        heard = self._heard
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._read_all(), name="gauges")
        await asyncio.wait({self._task}, timeout=SCRAPE_WAIT_S)
        if not self._task.done() and self._heard == heard:
            self._lose("it said nothing in time")

    async def close(self) -> None:
        """Stops a reading that is under way."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _read_all(self) -> None:
        for reading in self._readings:
            if self._clock() < self._read_at.get(reading.query, float("-inf")) + reading.fresh_s:
                continue
            try:
                rows = await in_time(self._read(reading))
            except psycopg.errors.QueryCanceled:
                log.warning("gauge.timed_out", reading=reading.query)
                _forget(reading)
            except DATABASE_AWAY as error:
                self._lose(type(error).__name__)
                return
            else:
                self._up.set(1)
                _publish(reading, rows)
            self._heard += 1
            self._read_at[reading.query] = self._clock()

    def _lose(self, why: str) -> None:
        log.warning("gauges.lost_database", error=why)
        self._up.set(0)
        for each in self._readings:
            _forget(each)
        self._read_at.clear()

    async def _read(self, reading: Reading) -> list[tuple[Any, ...]]:
        async with transaction(self._pool) as conn:
            await conn.execute(_QUERIES["limit_time"], {"timeout": f"{reading.timeout_ms}ms"})
            return cast("list[tuple[Any, ...]]", await (await conn.execute(_QUERIES[reading.query])).fetchall())


def _readings(registry: CollectorRegistry) -> tuple[Reading, ...]:
    def gauge(name: str, text: str, *labels: str) -> Gauge:
        return Gauge(f"payments_{name}", text, labels, registry=registry)

    return (
        Reading(
            "gauge_outbox",
            (
                gauge("outbox_waiting", "Events that a queue is owed.", "queue"),
                gauge("outbox_lag_seconds", "Age of the oldest event that a queue is owed.", "queue"),
            ),
            is_labelled=True,
        ),
        Reading(
            "gauge_queues",
            (
                gauge("queue_length", "Messages in a queue, counted up to 100,000.", "queue"),
                gauge("queue_oldest_age_seconds", "Age of the oldest message in a queue.", "queue"),
            ),
            is_labelled=True,
        ),
        Reading(
            "gauge_inbox",
            (
                gauge("inbox_pending", "News from Stripe that nobody has weighed yet."),
                gauge("inbox_oldest_age_seconds", "Age of the oldest of them."),
            ),
        ),
        Reading("gauge_stuck", (gauge("stuck_payments", "Payments in a passing state for five minutes or more."),)),
        Reading(
            "gauge_audit",
            (gauge("audit_imbalances", "What the audit has found, by kind: anything but 0 is an alarm.", "kind"),),
            is_labelled=True,
        ),
        Reading(
            "gauge_audit_run",
            (
                gauge("audit_last_run_timestamp_seconds", "When the audit last ran; NaN when never."),
                gauge("audit_lap_timestamp_seconds", "Every payment was looked at after this; NaN when not yet."),
            ),
        ),
    )


def _publish(reading: Reading, rows: list[tuple[Any, ...]]) -> None:
    _forget(reading)  # a queue that is gone must not keep its last number
    for row in rows:
        labels, values = (row[:1], row[1:]) if reading.is_labelled else ((), row)
        for gauge, value in zip(reading.gauges, values, strict=True):
            (gauge.labels(*labels) if labels else gauge).set(float(value))


def _forget(reading: Reading) -> None:
    for gauge in reading.gauges:
        if reading.is_labelled:
            gauge.clear()
        else:
            gauge.set(NAN)
