"""A lane by itself: its pauses after failures."""

import asyncio
from typing import Any, cast

import psycopg
import pytest

from payments.relay import lane as lanes
from payments.relay.lane import Lane
from payments.relay.reachability import Reachability

pytestmark = pytest.mark.anyio


async def test_a_failure_after_a_success_is_the_first_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the first lock of a moment would stop a lane for as long as the last of many did."""
    locked = psycopg.errors.LockNotAvailable("locked")
    results: list[Exception | int] = [locked, locked, locked, 0, locked, locked, 0]
    failures: list[int] = []
    lane = Lane("q", cast("Any", None), cast("Any", None), Reachability())

    def pause_after(count: int) -> float:
        failures.append(count)
        return 0.0

    async def dispatch() -> int:
        result = results.pop(0)
        if not results:
            lane.end()
        if isinstance(result, Exception):
            raise result
        lane.ring()
        return result

    monkeypatch.setattr(lanes, "decide_pause_s", pause_after)
    monkeypatch.setattr(lane, "_dispatch", dispatch)
    lane.ring()
    await asyncio.wait_for(lane.run(), 10)
    assert failures == [1, 2, 3, 1, 2]
