"""Clusters with low and with high transaction ids, and databases dumped out of one and restored into another."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.development.databases import Database, TestServer

PROJECT = Path(__file__).resolve().parents[2]
NEXT_EPOCH = 1  # every transaction id of the cluster is above 2^32


class HighServer(TestServer):
    """A server whose transaction ids are all above those of any other test's server."""

    __test__ = False

    def _prepare(self) -> None:
        self.postgres.prepare()
        user = self.postgres._user  # as root pg_resetwal refuses to run
        command = [str(self.postgres.bin_dir / "pg_resetwal"), f"--epoch={NEXT_EPOCH}", str(self.postgres.data)]
        subprocess.run(
            command, check=True, capture_output=True, cwd="/", user=user and user.uid, group=user and user.gid
        )


def run(server: TestServer, *command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """A program of the server's own release, or `payments`; what it said stands in a failure."""
    if command[0] == "payments":
        command = (sys.executable, "-m", *command)
    path = f"{server.postgres.bin_dir}{os.pathsep}{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        command, env=os.environ | {"PATH": path} | environment, cwd=PROJECT, capture_output=True, text=True, check=False
    )


def payments(database: Database, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A command of an operator's on a database."""
    return run(database.server, "payments", *arguments, DATABASE_URL=database.admin_dsn())


def dump(database: Database, directory: Path) -> Path:
    """A backup, as an operator makes it."""
    file = directory / f"{database.name}.dump"
    done = run(database.server, "pg_dump", "--format=custom", f"--file={file}", database.admin_dsn())
    assert done.returncode == 0, done.stderr
    return file


@contextmanager
def restored(file: Path, server: TestServer) -> Iterator[Database]:
    """A database of another cluster, restored from a backup and not yet brought back to work."""
    run(server, "psql", "--file=sql/roles.sql", server.admin_dsn())
    with server.fresh_database(migrated=False) as database:
        done = run(server, "pg_restore", "--exit-on-error", f"--dbname={database.admin_dsn()}", str(file))
        assert done.returncode == 0, done.stderr
        yield database
