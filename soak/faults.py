"""What is done while payments live, to processes, Stripe and its webhooks; each family has a seed of its own."""

import asyncio
import contextlib
import os
import random
import signal
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import psycopg

from soak.lives import ALTERED, CACHED_AFTER, CACHED_BEFORE
from soak.system import LEASE_S, PROCESSES, STRIPE_TIMEOUT_S, Json, System

Gap = tuple[float, float]  # seconds between two faults of a family, least and most

CALM: Json = {"mode": "deliver", "duplicate": 0, "reorder": False, "delay_s": 0, "jitter_s": 0, "drop_probability": 0}
# All their calls are spoiled, from the first to the last.
SPOILED: tuple[Json, ...] = (
    {"fault": "alter", "set": {"amount": 123_456}, "match": {"metadata": ALTERED}},
    {"fault": "status", "status": 500, "executed": True, "match": {"metadata": CACHED_AFTER}},
    {"fault": "status", "status": 500, "match": {"metadata": CACHED_BEFORE}},
)


class Faults:
    """Runs families of faults until told to end, and leaves nothing frozen, locked or spoiled behind."""

    def __init__(self, system: System, seed: int, gap: Gap) -> None:
        self.system = system
        self.seed = seed
        self.gap = gap
        self.is_on = True
        self._side: set[asyncio.Task[None]] = set()
        self._frozen: set[int] = set()

    async def rounds(self, family: int, act: Callable[[random.Random], Awaitable[None]]) -> None:
        """One fault after the other; the seed says which, the machine when."""
        rng = random.Random(self.seed * 100 + family)
        while self.is_on:
            await asyncio.sleep(rng.uniform(*self.gap))
            if self.is_on:
                await act(rng)

    def beside(self, work: Coroutine[Any, Any, None]) -> None:
        """Goes on with a fault that lasts, while others begin."""
        task = asyncio.create_task(work)
        self._side.add(task)

        def ended(done: asyncio.Task[None]) -> None:
            self._side.discard(done)
            if not done.cancelled() and (error := done.exception()) is not None:
                self.system.tell(f"a fault met {error!r}")

        task.add_done_callback(ended)

    async def end(self) -> None:
        """Waits for the faults under way, then frees whatever is still frozen."""
        self.is_on = False
        if self._side:
            await asyncio.wait(self._side, timeout=60)
        for pid in list(self._frozen):
            _signal(pid, signal.SIGCONT)

    # ---- processes

    async def processes(self, rng: random.Random) -> None:
        """SIGKILL, SIGTERM (SIGINT for PostgreSQL: fast shutdown), or SIGSTOP beyond the lease and SIGCONT."""
        name, what = rng.choice(PROCESSES), rng.random()
        if name == "postgres":
            if what < 0.5:
                self.system.send(name, rng.choice([signal.SIGKILL, signal.SIGINT]))
            else:
                self.beside(self._freeze_backends(rng.randint(1, 3), rng.choice([2, LEASE_S + 2])))
        elif what < 0.45:
            self.system.send(name, signal.SIGKILL)
            if rng.random() < 0.2:  # once more, while it starts
                await asyncio.sleep(rng.random() * 0.6)
                self.system.send(name, signal.SIGKILL)
        elif what < 0.65:
            self.system.send(name, signal.SIGTERM)
        else:
            self.beside(self._freeze(name, rng.choice([1, 3, LEASE_S + 2, LEASE_S + 4]), dies=what > 0.9))

    async def _freeze(self, name: str, seconds: float, *, dies: bool) -> None:
        pid = self.system.send(name, signal.SIGSTOP)
        if pid is None:
            return
        self._frozen.add(pid)
        await asyncio.sleep(seconds)
        self._frozen.discard(pid)
        _signal(pid, signal.SIGKILL if dies else signal.SIGCONT)
        if dies:
            self.system.count[f"SIGKILL {name.split('.', maxsplit=1)[0]}"] += 1
        self.system.tell(f"{'SIGKILL' if dies else 'SIGCONT'} {name} ({pid})")

    async def _freeze_backends(self, count: int, seconds: float) -> None:
        query = "select pid from pg_stat_activity where usename ~ '^payments_' order by random() limit %s"
        with contextlib.suppress(psycopg.Error):
            pids = [row[0] for row in await asyncio.to_thread(self.system.rows, query, count)]
            self.system.count["SIGSTOP backend"] += len(pids)
            self.system.tell(f"SIGSTOP backends {pids} for {seconds}")
            self._frozen.update(pids)
            for pid in pids:
                _signal(pid, signal.SIGSTOP)
            await asyncio.sleep(seconds)
            for pid in pids:
                _signal(pid, signal.SIGCONT)
            self._frozen.difference_update(pids)

    # ---- Stripe

    async def spoil(self) -> None:
        """The faults that last for the whole run."""
        for order in SPOILED:
            match = {"method": "POST", "path": "/v1/payment_intents"} | order["match"]
            status, answer = await self.system.sandbox("POST", "/faults", order | {"times": None, "match": match})
            if status >= 300:
                raise SystemExit(f"the sandbox refuses the fault {order}: {answer}")

    async def stripe(self, rng: random.Random) -> None:
        """Lost answers, errors, slowness, refusals, for a few calls or a few seconds."""
        match = rng.choice(
            [
                {"method": "POST", "path": "/v1/payment_intents"},
                {"method": "POST", "path": "/v1/payment_intents/*/capture"},
                {"method": "POST", "path": "/v1/payment_intents/*/cancel"},
                {"method": "POST", "path": "/v1/refunds"},
                {"method": "GET", "path": "/v1/*"},
                {"path": "/v1/*"},
            ]
        )
        slow_s = STRIPE_TIMEOUT_S
        order: Json = rng.choice(
            [
                {"fault": "before_executing"},
                {"fault": "after_executing"},
                {"fault": "mid_body"},
                {"fault": "status", "status": 429},
                {"fault": "status", "status": 429, "error": {"code": "lock_timeout"}},
                {"fault": "status", "status": 409},
                {"fault": "status", "status": 500, "executed": True},
                {"fault": "status", "status": 500},
                {"fault": "slow", "delay_s": slow_s + 2, "when": rng.choice(["before", "after"])},
                {"fault": "slow", "delay_s": rng.random() * slow_s, "when": rng.choice(["before", "after"])},
                {"fault": "status", "status": rng.choice([401, 403]), "times": None},
                {"fault": "status", "status": 503, "times": None},
                {"fault": "after_executing", "times": None, "probability": 0.5},
            ]
        )
        order = {"times": rng.randint(1, 6), "match": match} | order
        status, made = await self.system.sandbox("POST", "/faults", order)
        if status >= 300:
            self.system.problem(f"the sandbox refuses the fault {order}: {made}")
            return
        self.system.count[f"fault {order['fault']} {order.get('status', '')}".rstrip()] += 1
        self.system.tell(f"fault {order}")
        if order["times"] is None:
            self.beside(self._withdraw(made["id"], rng.choice([2, 5])))

    async def _withdraw(self, fault_id: object, after_s: float) -> None:
        await asyncio.sleep(after_s)
        await self.system.sandbox("DELETE", f"/faults/{fault_id}")

    # ---- webhooks

    async def webhooks(self, rng: random.Random) -> None:
        """Held back, dropped, doubled, late, in any order; now and then what was held comes at once."""
        change: Json = rng.choice(
            [
                {},
                {"mode": "hold"},
                {"mode": "drop"},
                {"duplicate": 3},
                {"reorder": True, "jitter_s": 2},
                {"delay_s": 3, "jitter_s": 3},
                {"drop_probability": 0.4},
                {"duplicate": 2, "reorder": True, "jitter_s": 4},
            ]
        )
        self.system.count[f"webhooks {' '.join(change) or 'calm'}"] += 1
        self.system.tell(f"webhooks {change}")
        await self.system.sandbox("POST", "/webhooks", CALM | change)
        if rng.random() < 0.5:
            await self.system.sandbox("POST", "/webhooks/release", {"wait": False})


def _signal(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)
