"""Lives payments while processes are armed to die, and says what came of it."""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from crashes.judging import Judge
from crashes.lives import ALONE, BY_NAME, prepare
from crashes.points import Points, Spec
from soak.books import Fault
from soak.faults import CALM
from soak.lives import Life, Teller, Told
from soak.system import PROCESSES, SETTINGS, System

# Short waits, so that what a crash leaves behind is soon taken up by another.
LIVELY = SETTINGS | {
    "PAYMENTS_LEASE_S": "2",
    "STRIPE_TIMEOUT_S": "1",
    "PAYMENTS_RECONCILE_AFTER_S": "1",
    "PAYMENTS_EVENTS_BACKFILL_S": "6",  # later than a lease: the retry, not the list of events, must mend most
    "PAYMENTS_LOG_LEVEL": "warning",
}
FIRES_S = 10.0  # what is done in the background is done that often
IDLE, IDLE_S = "idle", 8.0  # no life: what is reached while nobody asks for anything
STARTED = "started anew"  # and what processes do at their start, which goes on after the payment has come to rest
BACK_S = 30.0
FREE_TURNS = "update payments.reconciler_progress set position = clock_timestamp() where job like 'turn/%'"


class Round(NamedTuple):
    """One life, and where processes die meanwhile."""

    life: str
    specs: tuple[Spec, ...]


class Result(NamedTuple):
    """What came of a round. `missed`: nobody came to these points."""

    round: Round
    faults: list[Fault]
    missed: list[Spec]


class Steady(random.Random):
    """Nobody dawdles, and everything is asked twice."""

    def random(self) -> float:
        return 0.0


class Driver:
    """A running system whose processes have crash points, and the rounds that it goes through."""

    def __init__(self, home: Path, seed: int = 1) -> None:
        self.points = Points(home / "points")
        self.system = System(home, LIVELY | self.points.environment)
        self.told: dict[str, Told] = {}
        self._judge = Judge(self.system)
        self._rng = Steady(seed)
        self.is_stuck = False

    async def record(self, lives: Sequence[str]) -> dict[str, Counter[Spec]]:
        """The points that each life comes to while nobody dies; raises SystemExit when the books disagree even so."""
        reached: dict[str, Counter[Spec]] = {}
        self.points.arm(())
        await self.system.sandbox("POST", "/webhooks", CALM | {"retry_base_s": 0.2, "retry_cap_s": 1.0})
        for life in lives:
            mark = self.points.mark()
            self.system.tell(f"recording {life}")
            await asyncio.to_thread(self._free_turns)
            if life != IDLE and (faults := await self._live([life])):
                raise SystemExit(f"{life}: the books disagree without any crash: {faults}")
            if life in {IDLE, STARTED}:
                await asyncio.sleep(IDLE_S)
            reached[life] = self.points.reached(mark)
        return reached

    async def pass_by(self, lives: Sequence[str]) -> list[Fault]:
        """The same at once, for all that can be told together, and without keeping apart whose points they are."""
        faults = await self._live([life for life in lives if life not in ALONE])
        for life in ALONE:
            faults += await self._live([life]) if life in lives else []
        return faults

    async def crash(self, round_: Round) -> Result:
        """Goes through a round: arms, lives, waits until it was fatal and all is at rest again, compares."""
        self.system.tell(f"round {round_.life}: {', '.join(map(str, round_.specs))}")
        await asyncio.to_thread(self._free_turns)
        self.points.arm(round_.specs)
        faults = await self._live([round_.life])
        return Result(round_, faults, self.points.disarm())

    async def _live(self, names: Sequence[str]) -> list[Fault]:
        await asyncio.gather(*(self._tell(BY_NAME[name]) for name in names))
        await self._judge.come_to_rest()
        deadline = time.monotonic() + FIRES_S
        while self.points.waiting() and time.monotonic() < deadline:
            await asyncio.sleep(0.1)
        await self._until_back()
        if not await self._judge.come_to_rest():
            self.is_stuck = True
            self.system.problem(f"{', '.join(names)}: not at rest")
        return await self._judge.judge(self.told)

    async def _tell(self, life: Life) -> None:
        await prepare(self.system, life)
        try:
            await Teller(self.system, life, self._rng, self.told).live()
        except Exception as error:  # noqa: BLE001 - a life that breaks off is told of, and the books decide
            self.system.problem(f"{life.name}: {type(error).__name__} {error}")

    def _free_turns(self) -> None:
        """A job's turn that died with a process would be free after 15 seconds."""
        with self.system.connect(autocommit=True) as conn:
            conn.execute(FREE_TURNS)

    async def _until_back(self) -> None:
        deadline = time.monotonic() + BACK_S
        while not all(self.system.pid(name) for name in PROCESSES) and time.monotonic() < deadline:
            await asyncio.sleep(0.1)

    async def close(self) -> None:
        self.points.disarm()
        await self.system.close()
