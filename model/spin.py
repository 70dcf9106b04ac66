"""Running spin: it turns a model into a C program, the verifier, which visits every state that can be reached."""

import re
import shutil
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from model.checks import Check

HERE = Path(__file__).parent
# The longest of the usual searches takes some ten seconds of an idle core and 300 MB; the deep one far more.
TIMEOUT_S = 900
MEMORY_MB_MAX = 2_000
DEEP_TIMEOUT_S = 4 * 3_600
DEEP_MEMORY_MB_MAX = 12_000
# The longest path without a repetition is about 13,000 steps; one that does not fit is reported, and no proof.
DEPTH_MAX = 1_000_000
HASH_BITS = 22
# Collapsed states take a third of the memory; fairness is not asked for, so its code can go.
VERIFIER = ["-w", "-DCOLLAPSE", "-DNOFAIR"]
# The shortest way to a broken promise: breadth first, without the search for endless runs.
SHORTEST = ["-w", "-DSAFETY", "-DNOCLAIM", "-DBFS", f"-DMEMLIM={MEMORY_MB_MAX}"]

_COUNTS = re.compile(r"errors: (\d+)\s+(\d+) states, stored")
_MEMORY = re.compile(r"([\d.]+)\s+total actual memory usage")
_INCOMPLETE = re.compile(r"max search depth too small|out of memory|reached -DMEMLIM|Search not completed")
_FAILED_AT = re.compile(r":(\d+), Error: assertion violated")
_REMARK = re.compile(r"/\* (.*?) \*/")
ENDLESS = "a run without end"


class SpinFailed(Exception):
    """The tools did not do their work: neither a proof nor a counterexample."""


@dataclass(frozen=True)
class Result:
    """What a search came to; `broken`: the promise that it saw broken, None when none ever is."""

    states: int
    seconds: float
    memory_mb: float
    broken: str | None


def find_missing() -> str | None:
    """What stands in the way of checking, and how to get it; None when all is there."""
    missing = [tool for tool in ("spin", "gcc") if shutil.which(tool) is None]
    if not missing:
        return None
    return f"{' and '.join(missing)} not found; on Debian and Ubuntu: apt-get install spin gcc libc6-dev"


def verify(check: Check, folder: Path) -> Result:
    """Visits all states of a check, in an empty folder; raises SpinFailed when it could not visit all."""
    began = time.monotonic()
    # Optimizing pays where all states are visited; a fault is found sooner than the optimizer is done.
    memory_mb_max = DEEP_MEMORY_MB_MAX if check.is_deep else MEMORY_MB_MAX
    _make(check, folder, [*VERIFIER, f"-DMEMLIM={memory_mb_max}", "-O2" if check.promise is None else "-O0"])
    timeout_s = DEEP_TIMEOUT_S if check.is_deep else TIMEOUT_S
    said = _run(["./pan", "-a", "-n", f"-m{DEPTH_MAX}", f"-w{HASH_BITS}"], folder, timeout_s)
    counts, memory = _COUNTS.search(said), _MEMORY.search(said)
    if counts is None or memory is None:
        raise SpinFailed(said[-2_000:])
    broken = _name_promise(check, folder, said) if int(counts[1]) else None
    if broken is None and _INCOMPLETE.search(said):
        raise SpinFailed(f"not all states were visited:\n{said[-2_000:]}")
    return Result(int(counts[2]), time.monotonic() - began, float(memory[1]), broken)


def tell_story(check: Check, folder: Path) -> list[str]:
    """The shortest way to a broken promise, step by step; empty when there is none. Works in an empty folder."""
    _make(check, folder, [*SHORTEST, "-O2"])
    said = _run(["./pan", "-n"], folder)
    if not (folder / "model.pml.trail").exists():
        return []
    steps = [line.strip() for line in _replay(check, folder).splitlines()]
    told = [step for step in steps if step and not step.startswith(("spin:", "#", "Never", "model.pml"))]
    return [*told, f"broken: {_name_promise(check, folder, said)}"]


def _make(check: Check, folder: Path, options: list[str]) -> None:
    shutil.copy(HERE / f"{check.model}.pml", folder / "model.pml")
    said = _run(["spin", *check.macros, "-a", "model.pml"], folder)
    if "rror:" in said or not (folder / "pan.c").exists():
        raise SpinFailed(said)
    said = _run(["gcc", *options, "-o", "pan", "pan.c"], folder)
    if not (folder / "pan").exists():
        raise SpinFailed(said)


def _replay(check: Check, folder: Path) -> str:
    """The trail that the verifier left, with what the model prints on its way."""
    return _run(["spin", *check.macros, "-B", "-T", "-t", "model.pml"], folder)


def _name_promise(check: Check, folder: Path, said: str) -> str:
    """The remark beside the assertion that failed; the model says there what it promises."""
    if "assertion violated" not in said:
        return ENDLESS
    failed = _FAILED_AT.search(_replay(check, folder))
    if failed is None:
        raise SpinFailed(f"the trail does not lead to the fault:\n{said[-2_000:]}")
    remark = _REMARK.search((folder / "model.pml").read_text().splitlines()[int(failed[1]) - 1])
    return remark[1] if remark else f"line {failed[1]}"


def _run(command: list[str], folder: Path, timeout_s: float = TIMEOUT_S) -> str:
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=timeout_s,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise SpinFailed(f"{command[0]} was not done within {timeout_s:,.0f} s") from error
    return done.stdout
