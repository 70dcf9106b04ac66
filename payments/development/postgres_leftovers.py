"""Server processes that an earlier run left working in a data directory: found for certain, stopped step by step."""

import contextlib
import signal
from pathlib import Path

import psutil
import structlog

from payments.errors import EmbeddedPostgresFailed

log = structlog.get_logger(__name__)

# Fast shutdown writes a checkpoint; immediate shutdown and SIGKILL only end processes.
ESCALATION = ((signal.SIGINT, 10.0), (signal.SIGQUIT, 5.0), (signal.SIGKILL, 5.0))


def stop_leftovers(data: Path) -> None:
    """End every PostgreSQL process that still works in `data`, and drop a pid file whose owner is gone.

    PostgreSQL's processes have their data directory as working directory, which names them beyond doubt; a pid file
    alone may name a stranger who got the number since.
    """
    for stop_signal, deadline_s in ESCALATION:
        leftovers = _processes_in(data)
        if not leftovers:
            (data / "postmaster.pid").unlink(missing_ok=True)
            return
        log.warning(
            "postgres.leftover_stopped",
            pids=[each.pid for each in leftovers],
            signal=stop_signal.name,
        )
        _send(stop_signal, leftovers)
        psutil.wait_procs(leftovers, timeout=deadline_s)
    raise EmbeddedPostgresFailed(
        f"A PostgreSQL of an earlier run still works in {data} and cannot be stopped.",
        advice=f"Stop it by hand: kill $(head -1 {data}/postmaster.pid)",
    )


def _send(stop_signal: signal.Signals, leftovers: list[psutil.Process]) -> None:
    """Signal the server's first process, which ends the others; all of them where it is gone."""
    with contextlib.suppress(psutil.NoSuchProcess):
        pids = {process.pid for process in leftovers}
        parents = [process for process in leftovers if process.ppid() not in pids]
        whole = len(parents) == 1 and len(leftovers) > 1
        # SIGINT only cancels a query in a lone session process; it takes SIGQUIT to end that at once.
        lone_signal = signal.SIGQUIT if stop_signal is signal.SIGINT else stop_signal
        for process in parents:
            process.send_signal(stop_signal if whole else lone_signal)


def _processes_in(data: Path) -> list[psutil.Process]:
    home = str(data.resolve())
    processes = psutil.process_iter(["name", "cwd"])
    return [each for each in processes if str(each.info["name"]).startswith("postgres") and each.info["cwd"] == home]
