"""A whole system as `payments up` starts it: real processes, killed for real."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psycopg

from payments.development.dev_env import read_dev_env
from tests.conftest import wait_until
from tests.development.databases import KeptConnection

READY_S = 90.0  # starts in seconds; the rest is for a busy machine
STOP_S = 30.0
OUTPUT_SHOWN = 20_000
PROCESSES = ("api", "relay", "worker", "sandbox", "postgres")


class System:
    """A running `payments up`: its addresses, its processes, its database."""

    def __init__(self, data_dir: Path, up: subprocess.Popen[bytes], output: Path) -> None:
        self.data_dir = data_dir
        self.up = up
        self.output = output
        self.env = wait_until(lambda: self.up.poll() is None and read_dev_env(data_dir), READY_S)
        self.http = httpx.Client(
            base_url=self.env["API_URL"], headers={"Authorization": f"Bearer {self.env['API_KEY']}"}, timeout=40.0
        )
        self.kept = KeptConnection(self.connect)

    def connect(self) -> psycopg.Connection[Any]:
        """Connect as the administrator that dev.env names, once the database lets us in after a kill."""

        def connected() -> psycopg.Connection[Any] | None:
            try:
                return psycopg.connect(self.env["DATABASE_URL"], autocommit=True)
            except psycopg.OperationalError:
                return None

        connection = wait_until(connected, READY_S)
        assert connection is not None
        return connection

    def rows(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        """Ask the database once."""
        return self.kept.ask(lambda conn: conn.execute(query, values).fetchall())

    def close(self) -> None:
        """Close what is kept for this view of the system; the system itself goes on."""
        self.http.close()
        self.kept.close()

    def ledger(self) -> dict[str, Any]:
        """What Stripe's sandbox really did."""
        return httpx.get(f"{self.env['STRIPE_API_BASE']}/_sandbox/ledger", timeout=20.0).raise_for_status().json()

    def intents_of(self, payment_id: str) -> list[dict[str, Any]]:
        """The PaymentIntents at Stripe that belong to a payment of ours."""
        return [one for one in self.ledger()["payment_intents"] if one["metadata"].get("paymentId") == payment_id]

    def pid(self, process: str) -> int | None:
        """The process id that `payments up` wrote for a process; None while there is none."""
        try:
            return int((self.data_dir / "run" / f"{process}.pid").read_text())
        except FileNotFoundError:
            return None

    def outwait_first_looks(self) -> None:
        """Wait until the workers have listed Stripe's events once: it cannot tell what happens from now on."""
        listed = "select from payments.reconciler_progress where job = 'events'"
        wait_until(lambda: len(self.rows(listed)) == 1, READY_S)

    def kill(self, process: str) -> None:
        """SIGKILL a process and wait until the supervisor has put another in its place."""
        old = wait_until(lambda: self.pid(process), READY_S)
        assert old is not None
        os.kill(old, signal.SIGKILL)
        wait_until(lambda: self.pid(process) not in {None, old}, READY_S)


@contextlib.contextmanager
def payments_up(*arguments: str, **environment: str) -> Iterator[System]:
    """Run `payments up` on a data directory of its own until the block ends; its output stands in any failure."""
    # Not pytest's tmp_path: its parents are closed to others, and as root PostgreSQL runs as another user.
    with tempfile.TemporaryDirectory(prefix="payments-up-") as home:
        data_dir, output = Path(home) / "data", Path(home) / "output"
        with output.open("wb") as sink:
            up = subprocess.Popen(
                [sys.executable, "-m", "payments", "up", *arguments],
                env=surroundings() | {"PAYMENTS_DATA_DIR": str(data_dir), "PORT": str(free_port())} | environment,
                stdout=sink,
                stderr=subprocess.STDOUT,
            )
        try:
            system = System(data_dir, up, output)
            with contextlib.closing(system):
                yield system
        finally:
            up.terminate()
            try:
                up.wait(STOP_S)
            except subprocess.TimeoutExpired:
                up.kill()
                up.wait()


def surroundings() -> dict[str, str]:
    """This process's environment without any setting of the service."""
    names = ("DATABASE_", "STRIPE_", "PAYMENTS_", "HOST", "PORT")
    return {name: value for name, value in os.environ.items() if not name.startswith(names)}


def free_port() -> int:
    """A port that nobody listens on right now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
