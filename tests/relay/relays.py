"""Real `payments relay` processes on a test's database, and what they say."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.development.databases import Database


class Relays:
    """Starts relays on a database, each with a log file of its own."""

    def __init__(self, database: Database, directory: Path) -> None:
        self._database = database
        self._directory = directory
        self.processes: list[subprocess.Popen[bytes]] = []

    def start(self, **environment: str) -> subprocess.Popen[bytes]:
        log = (self._directory / f"relay-{len(self.processes)}.log").open("wb")
        env = {**os.environ, "DATABASE_URL": self._database.dsn("payments_relay"), **environment}
        with log:
            process = subprocess.Popen([sys.executable, "-m", "payments", "relay"], env=env, stderr=log)
        self.processes.append(process)
        return process

    def events(self, number: int = 0) -> list[dict[str, Any]]:
        """The log lines of a relay."""
        lines = (self._directory / f"relay-{number}.log").read_text().splitlines()
        return [json.loads(line) for line in lines if line.startswith("{")]

    def says(self, event: str, number: int = 0, **fields: object) -> bool:
        return any(line["event"] == event and fields.items() <= line.items() for line in self.events(number))


def lag_is_nil(database: Database) -> bool:
    with database.connect("payments_relay") as conn:
        return conn.execute("select from payments.lanes_with_work() where has_work").fetchall() == [] and not any(
            row[0] for row in conn.execute("select waiting from payments.outbox_lag")
        )
