"""Scenario 52: the primary dies, its synchronous standby takes over, and everybody follows by a multi-host address."""

import contextlib
import logging
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from uuid import uuid4

import httpx
import pytest

from tests.conftest import wait_until
from tests.postgres_faults.customers import is_retryable, shopping
from tests.postgres_faults.running import system_on
from tests.postgres_faults.servers import DATABASE, STANDBY, Server, server
from tests.scenarios.world import World
from tests.system.running import System

BACK_S = 60.0  # it takes a second or two; the rest is for a busy machine
SYNCHRONOUS = "select 1 from pg_stat_replication where sync_state = 'sync'"
LISTENERS = {"payments api": 1, "payments relay": 2, "payments worker": 2}
CANCEL_WAITS = """select pg_cancel_backend(pid) from pg_stat_activity
    where wait_event = 'SyncRep' and application_name = 'payments api'"""
log = logging.getLogger(__name__)


class Pair:
    """A primary and its standby, on two ports that the processes know."""

    def __init__(self, primary: Server) -> None:
        self.primary = primary
        self.standby = primary.copy_to(primary.home.parent / "standby")
        self.wait_for_standby()
        ports = primary.postgres.port, self.standby.postgres.port
        self.dsn = (
            f"postgresql://postgres:{primary.postgres.password}@127.0.0.1:{ports[0]},127.0.0.1:{ports[1]}/{DATABASE}"
            "?target_session_attrs=read-write"
        )

    def wait_for_standby(self) -> None:
        """From now on every commit waits for it. Not before the copy was made, so that the copy waits for nobody."""
        self.primary.execute(f"alter system set synchronous_standby_names = '{STANDBY}'")
        self.primary.execute("select pg_reload_conf()")
        wait_until(lambda: self.primary.execute(SYNCHRONOUS), BACK_S)

    def fail_over(self) -> float:
        """The primary is gone for good, and its standby takes over; when it was told to, by the monotonic clock."""
        self.primary.postgres.kill()
        told_at = time.monotonic()
        self.standby.promote()
        return told_at

    def rebuild(self) -> None:
        """The promoted server gets a standby of its own, where the dead one was."""
        dead, self.primary = self.primary, self.standby
        self.standby = self.primary.copy_to(dead.home.parent / "rebuilt", dead.postgres.port)
        self.wait_for_standby()


def cut_short(primary: Server, ask: Callable[[], httpx.Response]) -> httpx.Response:
    """The answer to a request whose commit waits in vain: somebody cancels each wait, and there must be one."""
    waits = 0
    with ThreadPoolExecutor() as threads:
        answer = threads.submit(ask)
        while not answer.done():
            waits += len(primary.execute(CANCEL_WAITS))
    assert waits, answer.result().text
    return answer.result()


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    with server() as primary:
        both = Pair(primary)
        try:
            yield both
        finally:
            both.primary.postgres.kill()
            both.standby.postgres.kill()


@pytest.fixture(scope="module")
def system(pair: Pair) -> Iterator[System]:
    with system_on(pair.dsn) as running:
        yield running


def test_52_primary_dies_under_load(world: World, pair: Pair) -> None:
    with shopping(world) as customers:
        promoted_at = pair.fail_over()
        first = wait_until(lambda: [at for at in list(customers.accepted.values()) if at > promoted_at], BACK_S)[0]
        log.info("back %.2f s after the promotion", first - promoted_at)
        customers.see_more(10)

    def too_few() -> dict[str, int]:
        found = pair.standby.listeners()
        return {name: found.get(name, 0) for name, count in LISTENERS.items() if found.get(name, 0) < count}

    with contextlib.suppress(AssertionError):  # the next line says what is missing
        wait_until(lambda: not too_few(), BACK_S)
    assert too_few() == {}


def test_52_commit_whose_wait_was_cancelled_is_promised_to_nobody(world: World, pair: Pair) -> None:
    """The standby is away, somebody cancels what waits for it, and then the primary dies, with what only it has."""
    pair.rebuild()
    survivor = world.paid()
    pair.standby.postgres.kill()
    body = {"cartId": str(uuid4()), "amount": 1999, "currency": "EUR", "paymentMethod": "pm_card_visa"}
    headers = {"Idempotency-Key": str(uuid4()), "Authorization": f"Bearer {world.system.env['API_KEY']}"}

    def ask() -> httpx.Response:
        return httpx.post(f"{world.system.env['API_URL']}/payments/authorize", json=body, headers=headers, timeout=40.0)

    for _ in range(2):  # the second finds what the first has written
        answer = cut_short(pair.primary, ask)
        assert (answer.status_code, answer.json()["code"]) == (503, "outcome_unknown")
        assert is_retryable(answer)
    carts = "select count(*) from payments.payments where cart_id = %s"
    assert pair.primary.execute(carts, body["cartId"]) == [(1,)]
    pair.primary.postgres.kill()
    pair.standby.follow()
    pair.standby.promote()
    assert pair.standby.execute(carts, body["cartId"]) == [(0,)]
    payment_id = wait_until(lambda: answer.json()["paymentId"] if (answer := ask()).status_code == 201 else "", BACK_S)
    assert world.until(payment_id, "SUCCEEDED", deadline_s=BACK_S)
    assert world.payment(survivor["paymentId"])["status"] == "SUCCEEDED"
    assert len(world.system.intents_of(payment_id)) == 1
    world.agree()
