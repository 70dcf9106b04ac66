"""A parked call goes on when an operator says so, never under a key that would double something."""

import asyncio
from typing import Any
from uuid import uuid4

from payments.database.connections import open_pool, transaction
from payments.domain.attempts import CallState
from payments.worker.calls import unpark_call
from tests.conftest import wait_until
from tests.worker.wishes import CANCEL, CAPTURE, CREATE, REFUND, Wish, attempted, wish_for
from tests.worker.world import World


def unpark(wish: Wish) -> CallState | None:
    async def main() -> CallState | None:
        dsn = wish.world.database.dsn("payments_worker")
        async with open_pool(dsn, "payments_worker", 1) as pool, transaction(pool) as conn:
            return await unpark_call(conn, wish.operation, wish.subject_id)

    return asyncio.run(main())


def parked(world: World, operation: str, **columns: Any) -> Wish:
    wish = wish_for(world, operation, sends=False)
    attempted(wish, {"payment_intent": wish.intent_id, "wrong": "x"}, state="parked", last_error="refused", **columns)
    return wish


def test_unparked_charge_or_refund_keeps_its_key_or_is_looked_for(world: World) -> None:
    for operation in (CREATE, REFUND):
        never_sent = parked(world, operation, attempts=0)
        key_misused = parked(world, operation, http_status=None)
        cached_500 = parked(world, operation, http_status=500)
        refused = parked(world, operation, http_status=400)
        cases = [(never_sent, "intended"), (key_misused, "in_doubt"), (cached_500, "in_doubt")]
        for wish, state in [*cases, (refused, "to_reconcile")]:
            assert unpark(wish) is CallState(state)
            assert [(call["state"], call["outcome"]) for call in wish.calls()] == [(state, None)]
            assert unpark(wish) is None


def test_unparked_capture_or_cancel_that_was_refused_is_asked_for_anew(world: World) -> None:
    wishes = [parked(world, operation, http_status=400) for operation in (CAPTURE, CANCEL)]
    world.start_worker(records=False)
    for wish in wishes:
        wish.send()
        wait_until(wish.at_rest)
        assert wish.lines() == []
        assert unpark(wish) is CallState.ANSWERED
        wish.send()
        wait_until(wish.effects)
        wait_until(wish.done)
        assert wish.effects() == wish.wanted
        assert [call["outcome"] for call in wish.calls()] == ["superseded", "answered"]


def test_unparking_what_was_never_intended_changes_nothing(world: World) -> None:
    wish = Wish(world, CREATE, uuid4(), uuid4(), None, {})
    assert unpark(wish) is None
