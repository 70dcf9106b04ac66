"""Scenarios 1 to 15 for captures, cancels and refunds; the sandbox's ledger says what was really done.

The recorder stands still: what Stripe said stays in the inbox, and what it makes of that is its own tests' matter.
"""

import json
import signal
from typing import Any

import pytest

from tests.conftest import wait_until
from tests.worker.wishes import CANCEL, CAPTURE, CREATE, REFUND, Wish, attempted, change, wish_for
from tests.worker.world import LEASE_S, TIMEOUT_S, World

NEW = [CAPTURE, CANCEL, REFUND]
ONCE = [CREATE, REFUND]
REPEATABLE = [CAPTURE, CANCEL]
# A process of its own takes seconds to start on a busy machine.
STARTED_S = 40


def assert_done_once(wish: Wish, attempts: int, generation: int = 1) -> None:
    """One effect, one key, one answer for the recorder."""
    assert wish.effects() == wish.wanted
    assert wish.keys() == {wish.key(generation)}
    (call,) = wish.calls()
    assert (call["state"], call["outcome"], call["attempts"]) == ("answered", "answered", attempts)
    (answer,) = wish.answers()
    assert (answer["operation"], answer["subjectId"]) == (wish.operation, str(wish.subject_id))
    assert (answer["outcome"], answer["httpStatus"], answer["attempt"]) == ("answered", 200, attempts)
    assert wish.world.dead() == []


def wishes_for(world: World, operations: list[str]) -> list[Wish]:
    return [wish_for(world, operation) for operation in operations]


def wait_for(wishes: list[Wish], deadline_s: float = 20) -> None:
    for wish in wishes:
        wait_until(wish.done, deadline_s)


def test_straight_way(world: World) -> None:
    wishes = wishes_for(world, NEW)
    world.start_worker(records=False)
    wait_for(wishes)
    for wish in wishes:
        assert_done_once(wish, attempts=1)
        (answer,) = wish.answers()
        (call,) = wish.calls()
        assert call["parameters"]["payment_intent"] == wish.intent_id
        assert answer["object"]["metadata"]["paymentId"] == str(wish.payment_id)
        if wish.operation == REFUND:
            assert answer["object"]["metadata"]["refundId"] == str(wish.subject_id)
        else:
            assert answer["object"]["latest_charge"]["object"] == "charge"


@pytest.mark.parametrize(
    "fault",
    [{"fault": "slow", "delay_s": 2 * TIMEOUT_S, "when": "after"}, {"fault": "after_executing"}, {"fault": "mid_body"}],
    ids=["timeout", "dropped", "cut in mid-body"],
)
def test_01_30_silence_after_stripe_executed(world: World, fault: dict[str, Any]) -> None:
    wishes = wishes_for(world, NEW)
    for wish in wishes:
        wish.fault(**fault)
    world.start_worker(records=False)
    wait_for(wishes)
    for wish in wishes:
        assert_done_once(wish, attempts=2)


def test_02_30_silence_before_stripe_executed(world: World) -> None:
    wishes = wishes_for(world, NEW)
    for wish in wishes:
        wish.fault("before_executing", times=2)
    world.start_worker(records=False)
    wait_for(wishes)
    for wish in wishes:
        assert_done_once(wish, attempts=3)


def test_03_crash_between_stripes_response_and_our_commit(world: World) -> None:
    wishes = wishes_for(world, NEW)
    for wish in wishes:
        wish.fault("slow", delay_s=3.0, when="after")
    worker = world.start_worker_process(STRIPE_TIMEOUT_S="4", PAYMENTS_LEASE_S="5")
    wait_until(lambda: all(wish.effects() for wish in wishes), STARTED_S)
    worker.kill()
    assert [wish.state() for wish in wishes] == ["in_flight"] * 3
    world.start_worker(records=False)
    wait_for(wishes)
    for wish in wishes:
        assert_done_once(wish, attempts=wish.calls()[0]["attempts"])


def test_04_key_in_use_backs_off_under_the_same_key(world: World) -> None:
    wishes = wishes_for(world, NEW)
    for wish in wishes:
        wish.fault("status", status=409, times=2)
    world.start_worker(records=False)
    wait_for(wishes)
    for wish in wishes:
        assert_done_once(wish, attempts=2)


def test_05_misused_keys_are_parked(world: World) -> None:
    wishes = [wish_for(world, operation, sends=False) for operation in NEW]
    for wish in wishes:
        used = world.sandbox.call("POST", "/v1/customers", data={"name": "x"}, headers={"Idempotency-Key": wish.key()})
        assert used.status_code == 200
        wish.send()
    world.start_worker(records=False)
    wait_until(lambda: len(world.dead()) == len(wishes))
    assert_dead(world, [wish.command for wish in wishes])
    for _, error, _ in world.dead():
        assert "other parameters" in error
    for wish in wishes:
        assert wish.effects() == []
        assert wish.answers() == []
        assert [call["state"] for call in wish.calls()] == ["parked"]


@pytest.mark.parametrize("code", ["rate_limit", "lock_timeout"])
def test_06_rate_limit_burns_no_attempt(world: World, code: str) -> None:
    wishes = wishes_for(world, NEW)
    for wish in wishes:
        wish.fault("status", status=429, error={"code": code})
    world.start_worker(records=False)
    wait_for(wishes)
    for wish in wishes:
        assert_done_once(wish, attempts=1)


@pytest.mark.parametrize("executed", [True, False], ids=["executed", "not executed"])
def test_07_cached_500_of_a_refund_is_the_reconcilers(world: World, *, executed: bool) -> None:
    wish = wish_for(world, REFUND)
    wish.fault("status", status=500, executed=executed)
    world.start_worker(records=False)
    wait_until(lambda: wish.state() == "to_reconcile" and wish.at_rest())
    assert wish.keys() == {wish.key()}
    assert [line["replayed"] for line in wish.lines()] == [False, True]
    wish.send()  # whoever asks again: no new key without proof
    wait_until(wish.at_rest)
    assert len(wish.calls()) == 1
    assert len(wish.effects()) == int(executed)
    assert world.dead() == []


@pytest.mark.parametrize("executed", [True, False], ids=["executed", "not executed"])
def test_07_cached_500_of_what_stripe_does_but_once_gets_a_new_key(world: World, *, executed: bool) -> None:
    wishes = wishes_for(world, REPEATABLE)
    for wish in wishes:
        wish.fault("status", status=500, executed=executed)
    world.start_worker(records=False)
    wait_for(wishes)
    for wish in wishes:
        assert wish.effects() == wish.wanted
        assert [call["outcome"] for call in wish.calls()] == ["superseded", "refused" if executed else "answered"]
        (answer,) = wish.answers()
        assert answer["attempt"] == 1
        if executed:  # Stripe's truth all the same
            seen = answer["error"]["payment_intent"]["status"]
            assert seen == ("succeeded" if wish.operation == CAPTURE else "canceled")


def test_09_old_key_of_a_charge_or_refund_waits_for_the_reconciler(world: World) -> None:
    wishes = [wish_for(world, operation, sends=False) for operation in ONCE]
    for wish in wishes:
        attempted(wish, {"payment_intent": wish.intent_id}, "23 hours")
        wish.send()
    world.start_worker(records=False)
    for wish in wishes:
        wait_until(wish.at_rest)
        assert wish.state() == "to_reconcile"
        assert wish.lines() == []
    assert world.dead() == []


def test_09_proof_of_absence_leads_to_a_new_key_and_new_parameters(world: World) -> None:
    wishes = [wish_for(world, operation, sends=False) for operation in ONCE]
    for wish in wishes:
        of_old = {"payment_intent": wish.intent_id, "amount": 1}
        attempted(wish, of_old, "25 hours", state="answered", outcome="absent", answered_at="2026-11-22T12:00:00Z")
        wish.send()
        wish.send()
    world.start_worker(records=False)
    wait_for(wishes)
    for wish in wishes:
        assert wish.effects() == wish.wanted
        assert wish.keys() == {wish.key(2)}
        assert [(call["generation"], call["outcome"]) for call in wish.calls()] == [(1, "absent"), (2, "answered")]


def test_09_old_key_of_what_stripe_does_but_once_is_not_used_again(world: World) -> None:
    wishes = [wish_for(world, operation, sends=False) for operation in REPEATABLE]
    for wish in wishes:
        attempted(wish, {"payment_intent": wish.intent_id}, "23 hours")
        wish.send()
    world.start_worker(records=False)
    wait_for(wishes)
    for wish in wishes:
        assert wish.keys() == {wish.key(2)}
        assert wish.effects() == wish.wanted
        assert [call["outcome"] for call in wish.calls()] == ["superseded", "answered"]


def test_10_refused_api_key_stops_all_four_and_fails_nobody(world: World) -> None:
    wishes = wishes_for(world, [CREATE, *NEW])
    world.sandbox.steer("POST", "faults", fault="status", status=401, match={"method": "POST"}, times=None)
    worker = world.start_worker(records=False, PAYMENTS_WORKER_CONCURRENCY="2")
    wait_until(lambda: worker.logged("breaker.opened"))
    assert [wish.answers() for wish in wishes] == [[]] * 4
    world.sandbox.clear_faults()
    for wish in wishes:
        wait_until(wish.done, deadline_s=30)
        assert_done_once(wish, attempts=1)


def test_11_poison_commands_die_and_the_others_go_on(world: World) -> None:
    unknown = "01890000-0000-7000-8000-000000000000"
    wishes = [wish_for(world, operation, sends=False) for operation in NEW]
    sent = []
    for wish in wishes:
        poison: list[Any] = [None, [], {}, dict.fromkeys(wish.command, "x"), dict.fromkeys(wish.command, unknown)]
        if wish.operation == REFUND:  # a refund of another payment
            poison.append({**wishes[0].command, "refundId": str(wish.subject_id)})
        if wish.operation == CANCEL:
            poison.append({**wish.command, "cancellationReason": "because"})
        for message in poison:
            world.send(message, queue=wish.queue)
        wish.send()
        sent += poison
    world.start_worker(records=False)
    wait_for(wishes)
    assert_dead(world, sent)
    for wish in wishes:
        assert wish.effects() == wish.wanted


def assert_dead(world: World, messages: list[Any]) -> None:
    assert sorted(as_text(row[2]) for row in world.dead()) == sorted(map(as_text, messages))


def as_text(message: Any) -> str:
    return json.dumps(message, sort_keys=True)


def test_11_refusals_for_bugs_of_ours_are_parked(world: World) -> None:
    malformed = [wish_for(world, operation, sends=False) for operation in NEW]
    elsewhere = [wish_for(world, operation, sends=False) for operation in NEW]
    for wish in malformed:
        attempted(wish, {"payment_intent": wish.intent_id, "no_such_parameter": "x"})
        wish.send()
    for wish in elsewhere:
        change(world, wish.payment_id, processor_payment_intent=f"pi_{wish.operation}_of_another_account")
        wish.send()
    world.start_worker(records=False)
    for wish in malformed + elsewhere:
        wait_until(lambda: wish.state() == "parked" and wish.at_rest())  # noqa: B023 - awaited within the turn
        (call,) = wish.calls()
        assert call["http_status"] in {400, 404}
        assert wish.effects() == []
        assert wish.answers() == []
    assert len(world.dead()) == 6


def test_12_two_workers_hold_one_refund(world: World) -> None:
    wish = wish_for(world, REFUND)
    wish.fault("slow", delay_s=0.5, when="after")
    late = world.start_worker_process()
    wait_until(wish.effects, deadline_s=STARTED_S)
    late.signal(signal.SIGSTOP)
    world.start_worker(records=False)
    wait_until(wish.done, deadline_s=LEASE_S + 15)
    late.signal(signal.SIGCONT)
    wait_until(lambda: late.logged("lease.lost") or late.logged("command.interrupted"))
    assert wish.effects() == wish.wanted
    assert wish.at_rest()
    assert wish.state() == "answered"


def test_15_outage_loses_nothing(world: World) -> None:
    wishes = wishes_for(world, [CREATE, *NEW] * 3)
    world.sandbox.stop()
    worker = world.start_worker(records=False)
    wait_until(lambda: worker.logged("breaker.opened"))
    world.sandbox.start()
    for wish in wishes:
        wait_until(wish.done, deadline_s=40)
        assert wish.effects() == wish.wanted
        assert wish.keys() == {wish.key()}


def test_60_sigterm_hands_back_every_queue(world: World) -> None:
    wishes = wishes_for(world, [CREATE, *NEW] * 2)
    world.sandbox.steer("POST", "faults", fault="slow", delay_s=0.5, when="after", match={"method": "POST"}, times=3)
    worker = world.start_worker(
        records=False, PAYMENTS_LEASE_S="600", STRIPE_TIMEOUT_S="30", PAYMENTS_WORKER_CONCURRENCY="3"
    )
    wait_until(lambda: any(wish.lines() for wish in wishes))
    worker.stop()
    for queue in {wish.queue for wish in wishes}:
        assert world.row(f"select count(*) from pgmq.q_{queue} where vt > clock_timestamp()") == (0,)
    for wish in wishes:
        assert len(wish.answers()) == len(wish.effects())
        assert len(wish.answers()) + world.queued(wish.queue) >= 1
    world.start_worker(records=False)
    for wish in wishes:
        wait_until(wish.done)
        assert wish.effects() == wish.wanted


def test_59_nothing_is_called_for_before_stripe_was_looked_at_after_a_restore(world: World) -> None:
    """Whatever it is: the part of the books that was lost may have done it already, under a key that Stripe forgot."""
    world.execute("update payments.cluster set stripe_unlisted_since = now()")
    wishes = wishes_for(world, [CREATE, *NEW])
    world.start_worker(records=False)
    for wish in wishes:
        wait_until(lambda: world.row(f"select coalesce(max(read_ct), 0) from pgmq.q_{wish.queue}")[0] > 1)  # noqa: B023 - awaited
    assert [wish.lines() for wish in wishes] == [[]] * len(wishes)
    assert [wish.calls() for wish in wishes] == [[]] * len(wishes)
    world.execute("update payments.cluster set stripe_unlisted_since = null")
    wait_for(wishes)
    for wish in wishes:
        assert_done_once(wish, attempts=1)
