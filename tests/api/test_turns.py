"""Turns: one after another for one thing, few for all, and nothing left behind."""

import asyncio
import time
from contextlib import AsyncExitStack

import pytest

from payments.api.turns import Turns

pytestmark = pytest.mark.anyio


def soon(s: float = 0.05) -> float:
    return time.monotonic() + s


async def test_a_thing_is_held_by_one_at_a_time_in_the_order_of_asking() -> None:
    turns, order, inside = Turns(10), [], 0

    async def work(number: int) -> None:
        nonlocal inside
        async with turns.turn("a", soon(5)):
            inside += 1
            assert inside == 1
            await asyncio.sleep(0)
            order.append(number)
            inside -= 1

    await asyncio.gather(*(work(number) for number in range(20)))
    assert order == list(range(20))
    assert turns.count == 0


async def test_different_things_are_held_at_once_and_a_turn_that_does_not_come_is_given_up() -> None:
    turns = Turns(10)
    async with turns.turn("a", soon()), turns.turn("b", soon()):
        with pytest.raises(TimeoutError):
            async with AsyncExitStack() as stack:
                await stack.enter_async_context(turns.turn("a", soon()))
        assert turns.count == 2
    async with turns.turn("a", soon()):
        assert turns.count == 1
    assert turns.count == 0


async def test_there_are_so_many_slots_and_each_comes_back() -> None:
    turns = Turns(2)
    for _ in range(3):
        async with turns.slot(soon()), turns.slot(soon()):
            with pytest.raises(TimeoutError):
                async with AsyncExitStack() as stack:
                    await stack.enter_async_context(turns.slot(soon()))


async def test_a_caller_who_leaves_while_waiting_or_working_leaves_nothing_behind() -> None:
    turns = Turns(1)

    async def work() -> None:
        async with turns.turn("a", soon(5)), turns.slot(soon(5)):
            await asyncio.sleep(60)

    tasks = [asyncio.create_task(work()) for _ in range(3)]
    await asyncio.sleep(0.01)
    for task in (tasks[1], tasks[0], tasks[2]):
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    assert turns.count == 0
    async with turns.turn("a", soon()), turns.slot(soon()):
        pass
