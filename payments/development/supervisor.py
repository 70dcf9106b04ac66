"""`payments up`: everything the system needs on one machine, kept running until it is told to stop.

Promise: PostgreSQL, the Stripe sandbox and every process of the Procfile run; one that dies is running again within a
second; `run/<process>.pid` names each. `dev.env` exists exactly while everything is ready for use. On Ctrl-C or SIGTERM
all stop in order, PostgreSQL last; a second Ctrl-C hurries. After a SIGKILL the kernel ends the children (Linux), and
the next start stops whatever is left. For development and tests: in production a process manager runs the Procfile.
"""

import contextlib
import fcntl
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from urllib.error import URLError
from urllib.request import ProxyHandler, build_opener

from payments.development.child import Child, Spawn, spawn_command, stop_leftover_children
from payments.development.dev_env import remove_dev_env, write_dev_env
from payments.development.embedded_postgres import EmbeddedPostgres
from payments.development.free_port import is_free
from payments.development.output import Output
from payments.development.procfile import ProcfileEntry
from payments.development.stop_signals import StopSignals
from payments.development.surroundings import (
    LOCAL,
    Databases,
    Stripe,
    api_url,
    development_key,
    find_stripe,
    prepare_databases,
    process_environment,
    sandbox_command,
)
from payments.development.welcome import welcome
from payments.errors import ConfigurationError, DataDirectoryInUse, PortTaken, ProcessNotReady
from payments.settings import Settings

TICK_S = 0.2  # how often readiness is probed; deaths wake the loop at once
READY_DEADLINE_S = 90.0
PROBE_TIMEOUT_S = 0.5  # a probe holds up restarts
SANDBOX_GRACE_S = 2.0
KILL_MARGIN_S = 2.0  # the processes themselves keep to PAYMENTS_SHUTDOWN_GRACE_S; this is for one that does not
CALM_TICK_S = 1.0  # a safety net under the wake-ups: even a lost one keeps the promise of a restart in time
ONE_COPY_ONLY = frozenset({"api"})  # it binds PORT
_OPENER = build_opener(ProxyHandler({}))  # a proxy of the environment is not for this machine


class Supervisor:
    """Runs the processes of one data directory; `run()` returns the exit code after an orderly stop."""

    def __init__(self, settings: Settings, entries: list[ProcfileEntry], *, copies: int, output: Output) -> None:
        self._settings = settings
        self._entries = entries
        self._copies = copies
        self._output = output
        self._data_dir = settings.data_dir.absolute()
        self._run_dir = self._data_dir / "run"
        self._postgres: EmbeddedPostgres | None = None
        self._children: list[Child] = []
        self._stop = StopSignals()
        self._sandbox_port: int | None = None

    def run(self) -> int:
        """Start everything, tend it, stop it; raise an `OperatingError` when a start is impossible."""
        with self._lock_data_directory(), self._stop.caught():
            try:
                self._clear_leftovers()
                with self._stop.interrupting():
                    addresses = self._start()
                self._tend(addresses)
            except KeyboardInterrupt:
                pass  # told to stop during the start
            finally:
                self._stop_everything()
        return 0

    @contextlib.contextmanager
    def _lock_data_directory(self) -> Iterator[None]:
        try:
            self._run_dir.mkdir(parents=True, exist_ok=True)
            lock_file = (self._data_dir / "up.lock").open("w")
        except OSError as error:
            raise ConfigurationError(
                (f"PAYMENTS_DATA_DIR names {self._data_dir}, which cannot be used ({error.strerror}).",)
            ) from error
        with lock_file as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise DataDirectoryInUse(
                    f"Another `payments up` is running in {self._data_dir}.",
                    advice="Stop that one first, or give this one its own PAYMENTS_DATA_DIR and PORT.",
                ) from error
            yield

    def _clear_leftovers(self) -> None:
        stop_leftover_children(self._data_dir)
        remove_dev_env(self._data_dir)
        for path in self._run_dir.glob("*.pid"):
            path.unlink()

    def _start(self) -> dict[str, str]:
        """Start everything in order; return what dev.env will say."""
        settings = self._settings
        if not is_free(settings.host, settings.port):
            raise PortTaken(
                f"The API cannot listen on {settings.host}:{settings.port}: it is taken, or the address is not ours.",
                advice="Set PORT to a free port (PORT=8001 make run), or stop what listens there.",
            )
        if settings.database_url is None:
            self._start_postgres()
        self._output.say("up", "preparing the database")
        databases = prepare_databases(settings, self._postgres)
        stripe = find_stripe(settings, self._data_dir)
        self._sandbox_port = stripe.sandbox_port
        if stripe.sandbox_port is not None:
            self._add("sandbox", "sandbox", sandbox_command(settings, stripe, self._data_dir), databases, stripe)
        for entry in self._entries:
            for number in range(1, 1 + (1 if entry.name in ONE_COPY_ONLY else self._copies)):
                name = entry.name if number == 1 else f"{entry.name}.{number}"
                self._add(name, entry.name, list(entry.command), databases, stripe)
        return {
            "API_URL": api_url(settings),
            "API_KEY": development_key(databases.admin_dsn),
            "DATABASE_URL": databases.admin_dsn,
            "STRIPE_API_BASE": stripe.api_base,
            "STRIPE_WEBHOOK_SECRETS": ",".join(stripe.webhook_secrets),
        }

    def _start_postgres(self) -> None:
        postgres = EmbeddedPostgres(self._data_dir / "postgres")
        self._output.say("up", "starting PostgreSQL")

        def respawn() -> subprocess.Popen[bytes]:
            postgres.prepare(keep_port=True)
            return postgres.spawn(output=self._output.pipe("postgres"))

        self._postgres = postgres
        child = self._child("postgres", respawn)
        child.adopt(postgres.start(open_output=lambda: self._output.pipe("postgres")))
        self._children.append(child)

    def _add(self, name: str, kind: str, command: list[str], databases: Databases, stripe: Stripe) -> None:
        environment = process_environment(kind, self._settings, databases, stripe, self._data_dir)
        child = self._child(name, lambda: spawn_command(command, environment, self._output.pipe(name)))
        self._children.append(child)
        child.tend()

    def _child(self, name: str, spawn: Spawn) -> Child:
        pid_file = self._run_dir / f"{name}.pid"
        return Child(name, spawn, pid_file=pid_file, report=lambda text: self._output.say("up", text))

    def _tend(self, addresses: dict[str, str]) -> None:
        deadline = time.monotonic() + READY_DEADLINE_S
        ready = False
        while not self._stop.requested:
            for child in self._children:
                child.tend()
            if not ready and self._is_ready():
                ready = True
                write_dev_env(self._data_dir, addresses)
                self._output.print(welcome(addresses, self._data_dir, sandbox=self._sandbox_port is not None))
            if not ready and time.monotonic() > deadline:
                raise ProcessNotReady(
                    f"The system did not become ready within {READY_DEADLINE_S:g} s.",
                    advice=f"The lines above say why; {api_url(self._settings)}/health/ready names what is missing.",
                )
            due = [each for child in self._children if (each := child.seconds_until_due()) is not None]
            self._stop.wait(min([*due, CALM_TICK_S if ready else TICK_S]))

    def _is_ready(self) -> bool:
        if not all(child.is_running for child in self._children):
            return False
        if self._sandbox_port is not None:
            try:
                socket.create_connection((LOCAL, self._sandbox_port), timeout=PROBE_TIMEOUT_S).close()
            except OSError:
                return False
        try:
            with _OPENER.open(f"{api_url(self._settings)}/health/ready", timeout=PROBE_TIMEOUT_S) as answer:
                return bool(answer.status == 200)
        except (URLError, OSError, ValueError):
            return False

    def _stop_everything(self) -> None:
        remove_dev_env(self._data_dir)
        if not self._children and self._postgres is None:
            return
        self._output.say("up", "stopping")
        processes = [child for child in self._children if child.name not in {"postgres", "sandbox"}]
        self._stop_children(processes, self._settings.shutdown_grace_s + KILL_MARGIN_S)
        self._stop_children([child for child in self._children if child.name == "sandbox"], SANDBOX_GRACE_S)
        if self._postgres is not None:
            self._postgres.stop()
        for child in self._children:
            child.forget()
        self._output.say("up", "stopped")

    def _stop_children(self, children: list[Child], grace_s: float) -> None:
        for child in children:
            child.send(signal.SIGTERM)
        deadline = time.monotonic() + grace_s
        while any(child.is_alive() for child in children):
            if time.monotonic() > deadline or self._stop.hurried:
                break
            self._stop.wait(max(0.0, deadline - time.monotonic()))
        for child in children:
            child.send(signal.SIGKILL)
            child.reap()
