"""The system under fire: `payments up` with two copies of each process, its database, and the requests to it."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO

import aiohttp
import psycopg

from payments.development.dev_env import read_dev_env
from payments.settings import inherited_environment

LEASE_S = 6
STRIPE_TIMEOUT_S = 4
READY_S = 90.0
STOP_S = 40.0
ANSWER_S = 240.0  # a request is repeated for so long before the driver gives up
PAUSE_S = 0.3
SERVER_ERROR = 500
PROCESSES = ("api", "relay", "relay.2", "worker", "worker.2", "sandbox", "postgres")
# Waits that last hours in production: here they pass while somebody watches.
SETTINGS = {
    "PAYMENTS_LEASE_S": str(LEASE_S),
    "STRIPE_TIMEOUT_S": str(STRIPE_TIMEOUT_S),
    "PAYMENTS_RECONCILE_AFTER_S": "3",
    "PAYMENTS_EVENTS_BACKFILL_S": "5",
    "PAYMENTS_LOG_FORMAT": "json",
}

Json = dict[str, Any]


class NeverAnswered(Exception):
    """A request that got no answer below 500 for minutes."""


class System:
    """`payments up` in a directory of its own, and a diary of what was done to it."""

    def __init__(self, home: Path, settings: Mapping[str, str] = SETTINGS) -> None:
        self.home = home
        self.data_dir = home / "data"
        self.count: Counter[str] = Counter()
        self.problems: list[str] = []
        self._began = time.monotonic()
        self._diary: TextIO = (home / "diary.log").open("w", encoding="utf-8")
        with (home / "up.log").open("wb") as sink:
            self._up = subprocess.Popen(
                [sys.executable, "-m", "payments", "up", "--copies", "2"],
                env=self._environment(settings),
                stdout=sink,
                stderr=sink,
            )
        self.env = self._ready()
        self.http = aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(total=40, connect=5),
            connector=aiohttp.TCPConnector(limit=0, force_close=True),
        )

    def _environment(self, settings: Mapping[str, str]) -> dict[str, str]:
        prefixes = ("DATABASE_", "STRIPE_", "PAYMENTS_", "HOST", "PORT")
        inherited = {name: value for name, value in inherited_environment().items() if not name.startswith(prefixes)}
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        return inherited | dict(settings) | {"PAYMENTS_DATA_DIR": str(self.data_dir), "PORT": str(port)}

    def _ready(self) -> dict[str, str]:
        deadline = time.monotonic() + READY_S
        while not (found := read_dev_env(self.data_dir)):
            if self._up.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"`payments up` did not start; see {self.home / 'up.log'}")
            time.sleep(0.1)
        return found

    def tell(self, text: str) -> None:
        """Writes a line into the diary."""
        self._diary.write(f"{time.monotonic() - self._began:8.2f} {text}\n")
        self._diary.flush()

    def problem(self, text: str) -> None:
        """Notes something that must not be."""
        self.problems.append(text)
        self.tell(f"PROBLEM {text}")

    def pid(self, process: str) -> int | None:
        """The process id that `payments up` wrote; None while there is none."""
        try:
            return int((self.data_dir / "run" / f"{process}.pid").read_text())
        except (FileNotFoundError, ValueError):
            return None

    def send(self, process: str, number: signal.Signals) -> int | None:
        """Sends a signal; the process id, None when nobody was there."""
        pid = self.pid(process)
        if pid is None:
            return None
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            return None
        self.count[f"{number.name} {process.split('.', maxsplit=1)[0]}"] += 1
        self.tell(f"{number.name} {process} ({pid})")
        return pid

    def connect(self, **options: Any) -> psycopg.Connection[Any]:
        """A connection of the administrator, who may write also while the rest may only read."""
        return psycopg.connect(
            self.env["DATABASE_URL"], connect_timeout=5, options="-c default_transaction_read_only=off", **options
        )

    def rows(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        """Asks the database once; raises psycopg.Error."""
        with self.connect(autocommit=True) as conn:
            return conn.execute(query, values or None).fetchall()

    async def sandbox(self, method: str, path: str, body: Json | None = None) -> tuple[int, Any]:
        """Steers Stripe's sandbox, or reads it; repeated until it answers."""
        return await self._until_answered(method, f"{self.env['STRIPE_API_BASE']}/_sandbox{path}", body, {})

    async def api(
        self, method: str, path: str, body: Json | None = None, headers: dict[str, str] | None = None
    ) -> tuple[int, Any]:
        """Asks the payment API as a patient client does: the same request until the answer is below 500 and final."""
        return await self._until_answered(
            method,
            self.env["API_URL"] + path,
            body,
            {"Authorization": f"Bearer {self.env['API_KEY']}"} | (headers or {}),
        )

    async def _until_answered(
        self, method: str, url: str, body: Json | None, headers: dict[str, str]
    ) -> tuple[int, Any]:
        deadline = time.monotonic() + ANSWER_S
        while time.monotonic() < deadline:
            try:
                async with self.http.request(method, url, json=body, headers=headers) as response:
                    text = await response.text()
                    answer = json.loads(text) if text else None
                    if response.status == SERVER_ERROR and "/_sandbox" not in url:
                        self.problem(f"500 on {method} {url}")
                    if response.status < SERVER_ERROR and not _is_retryable(answer):
                        return response.status, answer
            except (aiohttp.ClientError, TimeoutError, OSError, ValueError):
                pass
            await asyncio.sleep(PAUSE_S)
        raise NeverAnswered(f"{method} {url}")

    async def close(self) -> None:
        """Stops everything and notes whether it went cleanly."""
        await self.http.close()
        self._up.send_signal(signal.SIGTERM)
        try:
            code = await asyncio.to_thread(self._up.wait, STOP_S)
        except subprocess.TimeoutExpired:
            self._up.kill()
            code = None
        if code != 0:
            self.problem(f"`payments up` ended with {code}")
        self._diary.close()


def _is_retryable(answer: object) -> bool:
    return isinstance(answer, dict) and answer.get("retryable") is True
