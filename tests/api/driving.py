"""Drives the API as its callers do: real processes on real sockets, and a look into the database beside them."""

import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psycopg

from payments.database.api_keys import create_key
from payments.development.free_port import pick_free_port
from tests.conftest import wait_until
from tests.development.databases import Database

START_TIMEOUT_S = 60.0  # of a machine that is busy with other tests
WEBHOOK_SECRET = "whsec_tests_of_the_api"
ALL_READS = ["payments:read"]


class ApiProcess:
    """One `payments api` of its own, with a key that may do everything; its log goes to `log_path`."""

    def __init__(self, database: Database, log_path: Path, **environment: str) -> None:
        self.database = database
        self.port = pick_free_port("127.0.0.1")
        self.url = f"http://127.0.0.1:{self.port}"
        self.log_path = log_path
        self.key = make_key(database, "shop", ["payments:write", "payments:read", "refunds:write"])
        dsn = database.dsn("payments_api")
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("PAYMENTS_", "STRIPE_"))}
        own = {"DATABASE_URL": dsn, "PORT": str(self.port), "STRIPE_WEBHOOK_SECRETS": WEBHOOK_SECRET}
        self._environment = inherited | own | environment
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> "ApiProcess":
        with self.log_path.open("ab") as log:
            command = [sys.executable, "-c", "from payments.commands import main; raise SystemExit(main())", "api"]
            self._process = subprocess.Popen(command, env=self._environment, stderr=log, stdout=log)
        deadline = time.monotonic() + START_TIMEOUT_S
        while True:
            try:
                if httpx.get(f"{self.url}/health/ready").status_code == 200:
                    return self
            except httpx.TransportError:
                pass
            assert self._process.poll() is None, self.log()
            assert time.monotonic() < deadline, self.log()
            time.sleep(0.02)

    def kill(self) -> None:
        """SIGKILL, as a power cut would."""
        assert self._process is not None
        self._process.kill()
        self._process.wait(10)

    def terminate(self) -> None:
        """SIGTERM, without waiting."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)

    def wait(self, timeout_s: float = 20) -> int:
        assert self._process is not None
        return self._process.wait(timeout_s)

    def stop(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self.terminate()
            try:
                self.wait()
            except subprocess.TimeoutExpired:
                self.kill()

    def log(self) -> str:
        return self.log_path.read_text(encoding="utf-8", errors="replace")

    def settled_log(self) -> str:
        """The log with the lines of all requests answered so far: a line is written right after its answer is sent."""
        marker = str(uuid.uuid4())
        httpx.get(f"{self.url}/health/live", headers={"X-Request-Id": marker})
        wait_until(lambda: marker in self.log())
        return self.log()

    def client(self, key: str | None = None, **options: Any) -> httpx.Client:
        return httpx.Client(base_url=self.url, headers=bearer(key or self.key), timeout=40, **options)

    def async_client(self, **options: Any) -> httpx.AsyncClient:
        limits = httpx.Limits(max_connections=None)
        return httpx.AsyncClient(base_url=self.url, headers=bearer(self.key), timeout=40, limits=limits, **options)


@contextmanager
def running_api(database: Database, log_path: Path, **environment: str) -> Iterator[ApiProcess]:
    api = ApiProcess(database, log_path, **environment)
    try:
        yield api.start()
    finally:
        api.stop()


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def make_key(database: Database, client_id: str, scopes: list[str]) -> str:
    with database.connect() as conn:
        return create_key(conn, client_id, scopes)


def wish(**changes: Any) -> dict[str, Any]:
    """A right body for a fresh cart; a change to `...` takes a field away."""
    body = {"cartId": str(uuid.uuid4()), "amount": 1250, "currency": "EUR"} | changes
    return {name: value for name, value in body.items() if value is not ...}


def count_rows(database: Database) -> dict[str, int]:
    """How many rows each table of the accept path holds."""
    with database.connect() as conn:
        return rows_seen_by(conn)


def rows_seen_by(conn: psycopg.Connection[Any]) -> dict[str, int]:
    tables = ("payments", "payment_history", "outbox", "idempotency_keys")
    columns = ", ".join(f"(select count(*) from payments.{table})" for table in tables)
    return dict(zip(tables, conn.execute(f"select {columns}").fetchone() or (), strict=True))


def settle(conn: psycopg.Connection[Any], payment_id: str, status: str) -> None:
    """Moves a payment by hand, as the recorder would."""
    columns = {
        "AUTHORIZED": "amount_authorized = amount, next_action = null, processor_reference = 'ch_test'",
        "CAPTURING": f"capture_id = '{uuid.uuid4()}', amount_to_capture = amount",
        "SUCCEEDED": "amount_authorized = amount, amount_captured = coalesce(amount_to_capture, amount), "
        "processor_reference = 'ch_test'",
        "FAILED": "failure_reason = 'CARD_DECLINED', failure_decline_code = 'do_not_honor', failure_message = 'No.'",
        "ACTION_REQUIRED": """next_action = '{"type": "use_stripe_sdk", "clientSecret": "pi_1_secret_2"}'""",
    }.get(status, "")
    separator = ", " if columns else ""
    conn.execute(
        f"update payments.payments set status = %s{separator}{columns} where payment_id = %s", (status, payment_id)
    )


def announce(conn: psycopg.Connection[Any], *payment_ids: str) -> None:
    conn.execute("select pg_notify('payments_settled', %s)", (",".join(payment_ids),))
