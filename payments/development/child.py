"""One supervised process: started, restarted when it dies, stopped; its pid kept in a file for people and tests."""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import psutil
import structlog

from payments.development.atomic_file import write_atomically
from payments.development.bound_child import bind_to_parent

MARK = "PAYMENTS_SUPERVISED_IN"  # in the environment of every child: names its data directory beyond doubt
SHORT_LIFE_S = 2.0  # one that dies sooner than this after its start is not started again at once
DELAYS_S = (0.0, 0.2, 0.4, 0.8)  # the promise is a restart within a second, always
LEFTOVER_GRACE_S = 5.0
DEATH_S = 5.0  # after a SIGKILL: the kernel takes a large process apart

log = structlog.get_logger(__name__)

Spawn = Callable[[], subprocess.Popen[bytes]]


class Child:
    """A process that shall run; `tend()` makes it so, again and again, and never waits."""

    def __init__(self, name: str, spawn: Spawn, *, pid_file: Path, report: Callable[[str], None]) -> None:
        self.name = name
        self.pid_file = pid_file
        self._report = report
        self.process: subprocess.Popen[bytes] | None = None
        self._spawn = spawn
        self._started_at = 0.0
        self._short_lives = 0
        self._due_at = 0.0

    @property
    def is_running(self) -> bool:
        """Tell whether the process lives, as far as the last `tend()` saw."""
        return self.process is not None

    def tend(self) -> None:
        """Notice a death, start what is due; a start that fails counts as a death."""
        if self.process is not None and self.process.poll() is not None:
            self._note_death(f"ended with {describe_exit(self.process.returncode)}")
        if self.process is None and time.monotonic() >= self._due_at:
            self._start()

    def seconds_until_due(self) -> float | None:
        """Return how long until `tend()` has a start to make, None while the process runs."""
        return None if self.process is not None else max(0.0, self._due_at - time.monotonic())

    def adopt(self, process: subprocess.Popen[bytes]) -> None:
        """Supervise a process that is already running."""
        self.process = process
        self._started_at = time.monotonic()
        write_atomically(self.pid_file, f"{process.pid}\n", mode=0o644)

    def send(self, stop_signal: signal.Signals) -> None:
        """Send a signal to the process and whatever it started, if it lives."""
        if self.process is not None and self.process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, stop_signal)

    def is_alive(self) -> bool:
        """Tell whether the process lives right now."""
        return self.process is not None and self.process.poll() is None

    def reap(self) -> None:
        """Wait for the end of a process that was killed."""
        if self.process is not None:
            self.process.wait()

    def forget(self) -> None:
        """Note that the process has ended and is not to come back."""
        self.process = None
        self._due_at = float("inf")
        self.pid_file.unlink(missing_ok=True)

    def _start(self) -> None:
        try:
            self.adopt(self._spawn())
        except Exception as error:  # noqa: BLE001 - whatever keeps it from starting: say so, try again
            self._started_at = time.monotonic()
            self._note_death(f"could not be started: {error}")

    def _note_death(self, how: str) -> None:
        self.process = None
        self.pid_file.unlink(missing_ok=True)
        lived_s = time.monotonic() - self._started_at
        self._short_lives = self._short_lives + 1 if lived_s < SHORT_LIFE_S else 0
        delay_s = DELAYS_S[min(self._short_lives, len(DELAYS_S) - 1)]
        self._due_at = time.monotonic() + delay_s
        self._report(f"{self.name} {how} after {lived_s:.1f} s; starting it again in {delay_s:g} s")


def spawn_command(command: Sequence[str], environment: Mapping[str, str], output: int) -> subprocess.Popen[bytes]:
    """Start `command` in its own session, bound to our life; close `output`, its standard output and error, here."""
    try:
        return subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # a terminal's Ctrl-C reaches the supervisor alone, which stops all in order
            preexec_fn=bind_to_parent(signal.SIGTERM),  # noqa: PLW1509 - two system calls, no lock taken
        )
    finally:
        os.close(output)


def describe_exit(code: int) -> str:
    """Say in words how a process ended."""
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


def stop_leftover_children(data_dir: Path) -> None:
    """End the children that an earlier supervisor of this data directory, killed, left running."""
    marked = [process for process in psutil.process_iter() if _mark_of(process) == str(data_dir)]
    for process in marked:
        log.warning("process.leftover_stopped", pid=process.pid)
        with contextlib.suppress(psutil.NoSuchProcess):
            process.terminate()
    stubborn = psutil.wait_procs(marked, timeout=LEFTOVER_GRACE_S)[1]
    for process in stubborn:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(stubborn, timeout=DEATH_S)  # until it is dead, a process keeps its port


def _mark_of(process: psutil.Process) -> str | None:
    try:
        return process.environ().get(MARK) if process.pid != os.getpid() else None
    except (psutil.Error, OSError):
        return None
