"""A worker's surroundings in a test: a database, the sandbox as a real process, and workers to start and kill."""

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import psycopg
import structlog

from payments.commands.worker import OPERATIONS, ROLE, work
from payments.database.connections import open_pool
from payments.inbox.recorder import Recorder
from payments.settings import Settings
from payments.stripe_gateway.gateway import StripeGateway
from payments.wakeup import Listener, Notifier
from payments.worker.gate import Gate
from payments.worker.worker import Worker
from tests.conftest import wait_until
from tests.database.rows import insert_payment
from tests.development.databases import Database

KEY = "sk_test_workertests0"
QUEUE = "payment_requested"
INTENTS = "/v1/payment_intents"
TIMEOUT_S = 1.0
LEASE_S = 2


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Sandbox:
    """The sandbox as a process of its own; steered over HTTP."""

    def __init__(self, home: Path) -> None:
        self.port = free_port()
        self.base = f"http://127.0.0.1:{self.port}"
        self._state = home / "sandbox.db"
        self._http = httpx.Client(base_url=self.base, timeout=20.0)
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [sys.executable, "-m", "stripe_sandbox", "--port", str(self.port), "--state", str(self._state)]
        self._process = subprocess.Popen([*command, "--api-key", KEY], stdout=subprocess.DEVNULL)
        wait_until(self._is_up)

    def stop(self) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def close(self) -> None:
        self.stop()
        self._http.close()

    def _is_up(self) -> bool:
        try:
            return self._http.get("/_sandbox/health").status_code == 200
        except httpx.TransportError:
            return False

    def steer(self, method: str, path: str, **body: Any) -> dict[str, Any]:
        answer = self._http.request(method, f"/_sandbox/{path}", json=body or None)
        assert answer.status_code < 300, answer.text
        return dict(answer.json())

    def fault(self, fault: str, payment_id: UUID | None = None, **fields: Any) -> None:
        match: dict[str, Any] = {"path": INTENTS, "method": "POST"}
        if payment_id is not None:
            match["metadata"] = {"paymentId": str(payment_id)}
        self.steer("POST", "faults", fault=fault, match=match, **fields)

    def clear_faults(self) -> None:
        self.steer("DELETE", "faults")

    def intents(self, payment_id: UUID | None = None) -> list[dict[str, Any]]:
        query = f"?payment_id={payment_id}" if payment_id else ""
        return list(self.steer("GET", f"ledger{query}")["payment_intents"])

    def requests(self, payment_id: UUID | None = None) -> list[dict[str, Any]]:
        query = f"?payment_id={payment_id}" if payment_id else ""
        lines = self.steer("GET", f"requests{query}")["requests"]
        return [line for line in lines if line["method"] == "POST" and line["path"] == INTENTS]

    def call(self, method: str, path: str, **options: Any) -> httpx.Response:
        return self._http.request(method, path, auth=(KEY, ""), **options)


class WorkerProcess:
    """`payments worker` as a process of its own, to be killed."""

    def __init__(self, environment: dict[str, str], log: Path) -> None:
        self._log = log
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("PAYMENTS_", "STRIPE_"))}
        with log.open("ab") as sink:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "payments", "worker"], env=inherited | environment, stdout=sink, stderr=sink
            )

    def logged(self, event: str) -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in self._log.read_bytes().splitlines() if line.startswith(b"{")]
        return [line for line in lines if line["event"] == event]

    def signal(self, number: signal.Signals) -> None:
        os.kill(self.process.pid, number)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        """SIGTERM, and its orderly end; not before it hears signals: until then SIGTERM simply ends it."""
        wait_until(lambda: self.logged("process.started"))
        self.process.terminate()
        assert self.process.wait(timeout=20) == 0, self._log.read_text()


async def call_only(settings: Settings, stop: asyncio.Event) -> None:
    """The process without its recorder and its reconciler."""
    await call_and_record(settings, stop, records=False)


async def call_and_record(settings: Settings, stop: asyncio.Event, *, records: bool = True) -> None:
    """The process without its reconciler, which may hear of a call before the next attempt is made."""
    dsn = str(settings.database_url)
    async with (
        open_pool(dsn, ROLE, 10) as pool,
        Notifier(dsn, ROLE) as notifier,
        Listener(dsn, ROLE) as listener,
        StripeGateway(settings) as gateway,
        Gate(pool, settings.stripe_calls_per_s) as gate,
    ):
        worker = Worker(pool, gateway, notifier, listener, settings, OPERATIONS, gate)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(worker.run(stop))
            if records:
                recorder = Recorder(pool, gateway.paced(gate), notifier, listener, settings)
                tasks.create_task(recorder.run(stop))


class WorkerThread:
    """The same in a thread of the test, which starts at once; for tests that kill nobody."""

    def __init__(
        self, environment: dict[str, str], log: list[Any], run: Callable[[Settings, asyncio.Event], Awaitable[None]]
    ) -> None:
        self._log = log
        self._work = run
        self._settings = Settings.load(environment)
        self._started = threading.Event()
        self._broke: BaseException | None = None
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        self._started.wait()

    def _run(self) -> None:
        async def main() -> None:
            self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
            self._started.set()
            await self._work(self._settings, self._stop)

        try:
            asyncio.run(main())
        except BaseException as error:  # noqa: BLE001 - shown by `stop`
            self._broke = error

    def logged(self, event: str) -> list[dict[str, Any]]:
        return [line for line in self._log if line["event"] == event]

    def stop(self) -> None:
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(timeout=20)
        assert not self._thread.is_alive()
        if self._broke is not None:
            raise self._broke

    def kill(self) -> None:
        self.stop()


class World:
    """What a test of the worker plays with."""

    def __init__(self, database: Database, sandbox: Sandbox, home: Path) -> None:
        self.database = database
        self.sandbox = sandbox
        self._home = home
        self._workers: list[WorkerProcess | WorkerThread] = []
        self._log: list[Any] = []
        self._stack = contextlib.ExitStack()

    def start_worker(self, *, records: bool = True, **settings: str) -> WorkerThread:
        """A worker in this process; one at a time. Unless it `records`, what Stripe said stays in the inbox.

        Its reconciler runs only where the settings say when.
        """
        if not self._log:
            self._log = self._stack.enter_context(structlog.testing.capture_logs())
        run = work if "PAYMENTS_RECONCILE_AFTER_S" in settings else call_and_record
        worker = WorkerThread(self._environment(settings), self._log, run if records else call_only)
        self._workers.append(worker)
        return worker

    def start_worker_process(self, **settings: str) -> WorkerProcess:
        """A worker that may be killed; its reconciler gets a turn only where the settings say when."""
        if "PAYMENTS_RECONCILE_AFTER_S" not in settings:
            for job in ("calls", "sweep", "events", "lost commands"):
                self.execute(
                    "insert into payments.reconciler_progress (job, position) values (%s, now() + interval '1 day')"
                    " on conflict do nothing",
                    f"turn/{job}",
                )
        worker = WorkerProcess(self._environment(settings), self._home / f"worker{len(self._workers)}.log")
        self._workers.append(worker)
        return worker

    def _environment(self, settings: dict[str, str]) -> dict[str, str]:
        return {
            "DATABASE_URL": self.database.dsn("payments_worker"),
            "STRIPE_API_KEY": KEY,
            "STRIPE_API_BASE": self.sandbox.base,
            "STRIPE_TIMEOUT_S": str(TIMEOUT_S),
            "PAYMENTS_LEASE_S": str(LEASE_S),
            "PAYMENTS_POLL_INTERVAL_MS": "50",
            **settings,
        }

    def close(self) -> None:
        with self._stack:
            for worker in self._workers:
                worker.kill()

    def request(self, **columns: Any) -> UUID:
        """A payment and its command in the queue, as the relay would have sent it."""
        with self.database.connect() as conn:
            payment_id = insert_payment(conn)
            if columns:  # also what the guards would refuse
                conn.execute("alter table payments.payments disable trigger user")
                changes = ", ".join(f"{column} = %({column})s" for column in columns)
                conn.execute(
                    f"update payments.payments set {changes} where payment_id = %(id)s", {"id": payment_id, **columns}
                )
                conn.execute("alter table payments.payments enable trigger user")
            self.send({"paymentId": str(payment_id)})
        return payment_id

    def payment(self, capture_method: str = "automatic") -> UUID:
        """A payment as it was accepted."""
        with self.database.connect() as conn:
            return insert_payment(conn, capture_method=capture_method)

    def send(self, message: Any, headers: dict[str, Any] | None = None, queue: str = QUEUE) -> None:
        self.execute(
            "select pgmq.send(%s, %s::jsonb, %s::jsonb)", queue, json.dumps(message), json.dumps(headers or {})
        )

    def rows(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        return self.database.kept.ask(lambda conn: conn.execute(query, values).fetchall())

    def row(self, query: str, *values: Any) -> tuple[Any, ...]:
        (row,) = self.rows(query, *values)
        return row

    def execute(self, query: str, *values: Any) -> None:
        with self.database.connect() as conn:
            conn.execute(query, values)

    def call(self, payment_id: UUID) -> dict[str, Any] | None:
        query = "select * from payments.stripe_requests where payment_id = %s"
        dicts = psycopg.rows.dict_row
        return self.database.kept.ask(
            lambda conn: conn.cursor(row_factory=dicts).execute(query, (payment_id,)).fetchone()
        )

    def answers(self, payment_id: UUID) -> list[tuple[str, dict[str, Any]]]:
        query = (
            "select message_id, payload from payments.inbox where source = 'stripe-api' and payment_id = %s order by 1"
        )
        return self.rows(query, payment_id)

    def status(self, payment_id: UUID) -> str:
        return str(self.row("select status from payments.payments where payment_id = %s", payment_id)[0])

    def has_status(self, payment_id: UUID, status: str) -> bool:
        return self.status(payment_id) == status

    def queued(self, queue: str = QUEUE) -> int:
        return int(self.row(f"select count(*) from pgmq.q_{queue}")[0])

    def dead(self) -> list[tuple[Any, ...]]:
        """The dead commands; what the recorder buries is not the worker's."""
        return self.rows(
            "select payment_id, error, payload from payments.dead_letters where origin like 'queue:%%' "
            "order by dead_letter_id"
        )

    def settled(self, payment_id: UUID, status: str = "SUCCEEDED") -> Callable[[], bool]:
        """A condition: the payment is there, its command acknowledged."""
        return lambda: self.status(payment_id) == status and self.queued() == 0


@contextlib.contextmanager
def sandbox_process() -> Iterator[Sandbox]:
    with tempfile.TemporaryDirectory(prefix="payments-sandbox-") as home:
        sandbox = Sandbox(Path(home))
        sandbox.start()
        try:
            yield sandbox
        finally:
            sandbox.close()
