"""`python -m soak --minutes 10 --seed 1`, from start to closing line; exit code 0: nothing lost or doubled."""

import argparse
import asyncio
import contextlib
import shlex
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import psycopg

from soak.books import DOUBLED, LOST, UNBALANCED, Fault, compare
from soak.database_faults import DatabaseFaults
from soak.faults import CALM, Faults
from soak.lives import Crowd, Told, shop
from soak.system import System

# Lanes that nobody reads hold every event for the comparison; `ordering` is there from the start.
LANES = {"soak_everything": "{#}", "soak_requests": "{payment.requested,refund.requested}"}
CONVERGES_S = 300.0  # what is under way when the faults end must come to rest within
AGREES_S = 60.0  # what nobody told us, a refund made in the Dashboard, say, is found within
FAMILIES = ("processes", "database", "stripe", "webhooks")
NO_FAULTS = {"lives", "webhooks calm"}  # counted as well
WAITING = {
    "inbox rows": "select count(*) from payments.inbox_pending",
    "outbox rows": "select count(*) from payments.outbox_status where not dispatched",
    "payments": """
        select count(*) from payments.payments where status in ('REQUESTED', 'PROCESSING', 'CAPTURING', 'VOIDING')
    """,
    "refunds": "select count(*) from payments.refunds where status in ('REQUESTED', 'PENDING')",
    "calls": "select count(*) from payments.stripe_requests where state not in ('answered', 'parked')",
    "commands": "select sum(length) from payments.queue_lengths() where queue_name like '%\\_requested'",
}


def main() -> int:
    """Soaks, compares, tells."""
    args = arguments().parse_args()
    home = Path(tempfile.mkdtemp(prefix="payments-soak-"))
    home.chmod(0o755)  # as root, PostgreSQL runs as another user
    print(f"seed {args.seed}, {args.minutes:g} minutes; diary and logs in {home}", flush=True)
    system, faults_found = asyncio.run(soak(args, home))
    return report(system.count, system.problems, faults_found, args)


def arguments() -> argparse.ArgumentParser:
    """What may be asked for."""
    parser = argparse.ArgumentParser(prog="python -m soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=2.0, help="how long faults go on (default 2)")
    parser.add_argument("--seed", type=int, default=1, help="what is done; when it is done, the machine says")
    parser.add_argument("--customers", type=int, default=8, help="lives at once (default 8)")
    parser.add_argument("--think", type=float, default=1.5, metavar="S", help="seconds at most between two lives")
    parser.add_argument("--gap", type=float, nargs=2, default=[1.0, 5.0], metavar="S", help="seconds between faults")
    parser.add_argument("--only", default=",".join(FAMILIES), help="families of faults, with commas; empty: none")
    return parser


async def soak(args: argparse.Namespace, home: Path) -> tuple[System, list[Fault]]:
    """The run itself: payments live while faults happen, then all comes to rest and is compared."""
    system = System(home)
    try:
        with system.connect(autocommit=True) as conn:
            for lane, pattern in LANES.items():
                conn.execute("select payments.create_lane(%s, 'holds events for the soak', %s, true)", (lane, pattern))
        faults = Faults(system, args.seed, tuple(args.gap))
        on_database = DatabaseFaults(system, faults)
        acts = {
            "processes": faults.processes,
            "database": on_database.act,
            "stripe": faults.stripe,
            "webhooks": faults.webhooks,
        }
        told: dict[str, Told] = {}
        await system.sandbox("POST", "/webhooks", {"retry_cap_s": 4})
        await faults.spoil()
        names = [name for name in args.only.split(",") if name]
        families = [asyncio.create_task(faults.rounds(FAMILIES.index(name), acts[name])) for name in names]
        seconds = args.minutes * 60
        shopping = asyncio.create_task(shop(system, told, Crowd(args.seed, args.customers, seconds, args.think)))
        await asyncio.sleep(seconds)
        system.tell("faults end")
        await faults.end()
        await asyncio.gather(*families)
        await asyncio.to_thread(on_database.make_writable)
        await system.sandbox("DELETE", "/faults")
        await system.sandbox("POST", "/webhooks", CALM)
        await system.sandbox("POST", "/webhooks/release", {"wait": False})
        await shopping
        await come_to_rest(system)
        return system, await agree(system, told)
    finally:
        await system.close()


async def agree(system: System, told: dict[str, Told]) -> list[Fault]:
    """The last comparison: news that no webhook brought may take a round of the reconciler."""
    deadline = time.monotonic() + AGREES_S
    while found := await compare(system, told, ["ordering", *LANES]):
        if time.monotonic() > deadline:
            break
        await asyncio.sleep(1.0)
    return found


async def come_to_rest(system: System) -> None:
    """Waits until nothing is under way; webhooks that were dropped stay lost, for polling must do."""
    began, last = time.monotonic(), {"": 1}
    quiet = 0
    while time.monotonic() < began + CONVERGES_S and quiet < 3:
        with contextlib.suppress(psycopg.Error):
            now = {name: int(system.rows(query)[0][0] or 0) for name, query in WAITING.items()}
            _, hooks = await system.sandbox("GET", "/webhooks?status=pending")
            now["webhooks"] = len(hooks["deliveries"])
            if now != last:
                system.tell(f"waiting {now}")
            last = now
            quiet = 0 if any(now.values()) else quiet + 1
        await asyncio.sleep(1.0)
    print(f"  {'seconds to rest':40} {time.monotonic() - began:.0f}")
    if any(last.values()):
        system.problem(f"not at rest after {CONVERGES_S:g} s: { {name: n for name, n in last.items() if n} }")


def report(counts: Mapping[str, int], problems: Sequence[str], found: list[Fault], args: argparse.Namespace) -> int:
    """What was done and what came of it; the last line is the verdict."""
    for name, count in sorted(counts.items()):
        print(f"  {name:40} {count}")
    for problem in problems:
        print(f"  PROBLEM {problem}")
    for fault in found:
        print(f"  {fault.kind.upper()} {fault.what}")
    kinds = Counter(fault.kind for fault in found)
    killed = sum(count for name, count in counts.items() if name.startswith("SIGKILL"))
    signals = sum(count for name, count in counts.items() if name.startswith("SIG"))
    faults = sum(count for name, count in counts.items() if name not in NO_FAULTS) - signals
    is_well = not found and not problems
    print(
        f"{'AGREE' if is_well else 'DISAGREE'}: {counts.get('lives', 0)} payments, {killed} kills, "
        f"{signals - killed} other signals, {faults} faults; "
        f"{kinds[LOST]} lost, {kinds[DOUBLED]} doubled, {kinds[UNBALANCED]} unbalanced, "
        f"{len(problems)} other problems{'' if is_well else f'; again: {again(args)}'}"
    )
    return 0 if is_well else 1


def again(args: argparse.Namespace) -> str:
    """The command that does the same once more."""
    defaults = arguments().parse_args([])
    words = ["python", "-m", "soak"]
    for name, value in vars(args).items():
        if value != getattr(defaults, name):
            words += [f"--{name}", *map(str, value if isinstance(value, list) else [value])]
    return shlex.join(words)


if __name__ == "__main__":
    sys.exit(main())
