"""The embedded PostgreSQL comes up whatever was left behind, keeps what was committed, and lets nobody else in."""

import contextlib
import os
import pwd
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import psycopg
import pytest

from payments.development.embedded_postgres import EmbeddedPostgres
from payments.errors import EmbeddedPostgresFailed

Wait = Callable[..., object]


@pytest.fixture
def home() -> Iterator[Path]:
    # Its own temporary directory is closed to other users (0700), as a developer's home may be.
    with tempfile.TemporaryDirectory(prefix="payments-test-") as directory:
        yield Path(directory) / "postgres"


@pytest.fixture
def server(home: Path) -> Iterator[EmbeddedPostgres]:
    postgres = EmbeddedPostgres(home, fast=True)
    postgres.start()
    yield postgres
    postgres.kill()


def write_note(postgres: EmbeddedPostgres, text: str) -> None:
    with psycopg.connect(postgres.admin_dsn()) as conn:
        conn.execute("CREATE TABLE IF NOT EXISTS note (text text)")
        conn.execute("INSERT INTO note VALUES (%s)", [text])


def read_notes(postgres: EmbeddedPostgres) -> list[str]:
    with psycopg.connect(postgres.admin_dsn()) as conn:
        return [str(row[0]) for row in conn.execute("SELECT text FROM note ORDER BY text")]


def test_embedded_postgres_keeps_data_password_and_port_over_a_restart(server: EmbeddedPostgres) -> None:
    before = (server.port, server.password)
    write_note(server, "kept")
    server.restart()
    assert (server.port, server.password) == before
    assert read_notes(server) == ["kept"]


def test_embedded_postgres_survives_the_kill_of_its_server_with_sessions_open(server: EmbeddedPostgres) -> None:
    write_note(server, "committed")
    assert server.process
    with contextlib.closing(psycopg.connect(server.admin_dsn())) as busy:
        busy.execute("SELECT 1")
        server.process.kill()
        server.process.wait()
        server.start()
        assert read_notes(server) == ["committed"]


STARTER = """
import sys, time
from pathlib import Path
from payments.development import embedded_postgres
embedded_postgres.bind_to_parent = lambda death_signal: None  # as where the kernel cannot
postgres = embedded_postgres.EmbeddedPostgres(Path(sys.argv[1]), fast=True)
postgres.start()
print(postgres.process.pid, flush=True)
time.sleep(300)
"""


def start_elsewhere(home: Path, program: str) -> tuple[subprocess.Popen[str], psutil.Process]:
    starter = subprocess.Popen([sys.executable, "-c", program, str(home)], stdout=subprocess.PIPE, text=True)
    assert starter.stdout
    lines = iter(starter.stdout.readline, "")
    pid = next(int(line) for line in lines if line.strip().isdigit())
    return starter, psutil.Process(pid)


def kill(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.wait()
    assert process.stdout
    process.stdout.close()


def test_embedded_postgres_replaces_the_orphan_of_a_killed_starter(home: Path) -> None:
    starter, orphan = start_elsewhere(home, STARTER)
    kill(starter)
    assert orphan.is_running()
    postgres = EmbeddedPostgres(home, fast=True)
    postgres.start()
    write_note(postgres, "mine")
    assert not orphan.is_running() or orphan.status() == psutil.STATUS_ZOMBIE
    postgres.kill()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux binds a child to its parent")
def test_embedded_postgres_ends_with_a_killed_starter(home: Path, eventually: Wait) -> None:
    starter, server_process = start_elsewhere(home, STARTER.replace("embedded_postgres.bind_to_parent =", "ignored ="))
    kill(starter)
    eventually(lambda: not server_process.is_running() or server_process.status() == psutil.STATUS_ZOMBIE)


def test_embedded_postgres_ignores_a_pid_file_that_names_a_stranger(server: EmbeddedPostgres) -> None:
    write_note(server, "kept")
    pid_file = server.data / "postmaster.pid"
    content = pid_file.read_text().splitlines()
    server.kill()
    with subprocess.Popen(["sleep", "300"]) as stranger:
        pid_file.write_text("\n".join([str(stranger.pid), *content[1:]]) + "\n")
        server.start()
        assert stranger.poll() is None
        stranger.kill()
    assert read_notes(server) == ["kept"]


def test_embedded_postgres_moves_when_its_port_is_taken(server: EmbeddedPostgres) -> None:
    server.stop()
    before = server.port
    with socket.create_server(("127.0.0.1", before)):
        server.start()
    assert server.port != before
    write_note(server, "there")


def test_embedded_postgres_begins_anew_after_a_killed_initdb(home: Path) -> None:
    (home / "data.unfinished").mkdir(parents=True)
    (home / "data.unfinished" / "PG_VERSION").write_text("18\n")
    postgres = EmbeddedPostgres(home, fast=True)
    postgres.start()
    write_note(postgres, "whole")
    postgres.kill()


def test_embedded_postgres_lets_in_only_the_password_and_only_by_loopback(server: EmbeddedPostgres) -> None:
    assert (server.home / "superuser.password").stat().st_mode & 0o777 == 0o600
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(server.dsn("postgres", "wrong", "postgres"))
    assert server.process
    listening = [each for each in psutil.Process(server.process.pid).net_connections("all") if each.status == "LISTEN"]
    assert [each.laddr for each in listening] == [("127.0.0.1", server.port)]
    assert not list(server.data.glob(".s.PGSQL*"))


def test_embedded_postgres_refuses_data_of_another_version(server: EmbeddedPostgres) -> None:
    server.stop()
    (server.data / "PG_VERSION").write_text("17\n")
    with pytest.raises(EmbeddedPostgresFailed, match="written by PostgreSQL 17"):
        server.start()


def test_embedded_postgres_reports_a_server_that_will_not_start(server: EmbeddedPostgres) -> None:
    server.stop()
    with (server.data / "postgresql.conf").open("a") as file:
        file.write("no_such_setting = 1\n")
    with pytest.raises(EmbeddedPostgresFailed, match="no_such_setting"):
        server.start()


def test_embedded_postgres_is_durable_unless_told_to_be_fast(home: Path) -> None:
    postgres = EmbeddedPostgres(home)
    postgres.start()
    with psycopg.connect(postgres.admin_dsn()) as conn:
        shown = conn.execute("SELECT current_setting('fsync'), current_setting('synchronous_commit')").fetchone()
    postgres.stop()
    assert shown == ("on", "on")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_embedded_postgres_runs_for_an_ordinary_user() -> None:
    nobody = pwd.getpwnam("nobody")
    with tempfile.TemporaryDirectory(prefix="payments-test-") as directory:
        os.chown(directory, nobody.pw_uid, nobody.pw_gid)
        child = os.fork()  # not a new Python: that may be installed where only root can reach it
        if child == 0:
            status = 1
            try:
                os.setgroups([])
                os.setgid(nobody.pw_gid)
                os.setuid(nobody.pw_uid)
                postgres = EmbeddedPostgres(Path(directory) / "postgres", fast=True)
                postgres.start()
                write_note(postgres, "mine")
                postgres.stop()
                status = 0
            finally:
                os._exit(status)  # never back into the copy of pytest
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert (Path(directory) / "postgres" / "data").stat().st_uid == nobody.pw_uid


def test_embedded_postgres_stops_in_order(server: EmbeddedPostgres) -> None:
    server.stop()
    assert "database system is shut down" in server.log_path.read_text()
    assert not (server.data / "postmaster.pid").exists()


def test_embedded_postgres_stop_hurries_a_server_that_hangs(
    server: EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("payments.development.embedded_postgres.STOP_DEADLINE_S", 0.2)
    monkeypatch.setattr("payments.development.embedded_postgres.KILL_DEADLINE_S", 0.2)
    write_note(server, "kept")
    assert server.process
    server.process.send_signal(signal.SIGSTOP)
    server.stop()
    server.start()
    assert read_notes(server) == ["kept"]
