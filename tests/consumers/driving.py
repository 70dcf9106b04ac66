"""`payments consumers` as an operator calls it, and the login it prints, used by pgmq's own package."""

import contextlib
import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import psycopg
from pgmq import PGMQueue

from payments import commands
from tests.development.databases import Database
from tests.system.running import surroundings

Finished = subprocess.CompletedProcess[str]


def consumers(dsn: str, *words: str) -> Finished:
    """Run the command inside this process: most of what one costs is its start."""
    out, err = io.StringIO(), io.StringIO()
    environment = surroundings() | {"COLUMNS": "80", "DATABASE_URL": dsn}
    with (
        mock.patch.dict(os.environ, environment, clear=True),
        mock.patch("payments.commands.configure_logging"),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            code = commands.main(["consumers", *words])
        except SystemExit as usage:
            code = int(str(usage.code))
    return Finished([*words], code, out.getvalue(), err.getvalue())


def start_consumers(dsn: str, *words: str) -> subprocess.Popen[str]:
    """Start the command as a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "payments", "consumers", *words],
        env=surroundings() | {"DATABASE_URL": dsn},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def add(database: Database, *words: str) -> dict[str, str]:
    """Add a consumer; what was printed."""
    done = consumers(database.admin_dsn(), "add", *words)
    assert done.returncode == 0, done.stderr
    access: dict[str, str] = json.loads(done.stdout)
    assert set(access) == {"queue", "role", "password", "dsn"}
    return access


@contextmanager
def reading(access: dict[str, str]) -> Iterator[PGMQueue]:
    """pgmq's package, logged in as the consumer."""
    queue = PGMQueue(conn_string=access["dsn"], init_extension=False, pool_size=2)
    try:
        yield queue
    finally:
        queue.close()


def connect(access: dict[str, str], **options: Any) -> psycopg.Connection[Any]:
    return psycopg.connect(access["dsn"], **{"autocommit": True, **options})


def assert_refused(done: Finished, code: int, *words: str) -> None:
    assert done.returncode == code, done.stderr
    assert "error: " in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    for word in words:
        assert word in done.stderr
