"""Each test is a line of scenarios.md, 'Calling Stripe'; the sandbox's ledger says what was really charged."""

import json
import signal
from functools import partial
from typing import Any
from uuid import UUID

import pytest

from tests.conftest import wait_until
from tests.domain.stripe_objects import INTENT, event, refund
from tests.worker.world import INTENTS, LEASE_S, TIMEOUT_S, World

KEY_OF = "{}/create_payment_intent/1"


def assert_one_charge(world: World, payment_id: UUID, attempts: int) -> None:
    """One PaymentIntent, one charge, one key; that the parameters stayed the same Stripe itself has checked."""
    (intent,) = world.sandbox.intents(payment_id)
    assert len(intent["charges"]) == 1
    assert intent["amount_captured"] == 1000
    assert {line["idempotency_key"] for line in world.sandbox.requests(payment_id)} == {KEY_OF.format(payment_id)}
    call = world.call(payment_id)
    assert call is not None
    assert (call["state"], call["outcome"], call["attempts"]) == ("answered", "answered", attempts)
    assert len(world.answers(payment_id)) == 1
    assert world.dead() == []


def test_straight_way(world: World) -> None:
    payment_id = world.request(metadata=json.dumps({"note": "öäü ✓", "paymentId": "not mine"}))
    world.start_worker()
    wait_until(world.settled(payment_id))
    assert_one_charge(world, payment_id, attempts=1)
    ((message_id, payload),) = world.answers(payment_id)
    call = world.call(payment_id)
    assert call is not None
    assert message_id == f"{call['stripe_request_id']}/1"
    assert payload["operation"] == "create_payment_intent"
    assert (payload["outcome"], payload["httpStatus"], payload["attempt"]) == ("answered", 200, 1)
    assert payload["object"]["latest_charge"]["object"] == "charge"
    (intent,) = world.sandbox.intents(payment_id)
    cart_id, order_id = world.row("select cart_id, order_id from payments.payments")
    assert intent["metadata"] == {
        "note": "öäü ✓",
        "paymentId": str(payment_id),
        "cartId": str(cart_id),
        "orderId": str(order_id),
    }


def test_no_more_calls_are_under_way_than_may_be(world: World) -> None:
    for _ in range(6):
        world.request()
    world.sandbox.fault("slow", delay_s=0.5, times=None)
    world.start_worker(PAYMENTS_WORKER_CONCURRENCY="2")
    wait_until(lambda: world.row("select count(*) from payments.stripe_requests where state = 'answered'") == (6,))
    at_once = """select count(*) from payments.stripe_requests a join payments.stripe_requests b
        on a.last_attempt_at between b.last_attempt_at and b.answered_at group by a.call_id order by 1 desc limit 1"""
    assert world.row(at_once) == (2,)


def test_no_more_is_leased_than_may_be_called_within_a_second(world: World) -> None:
    """What is leased and not worked on would stand still until its lease has run out."""
    payments = [world.request() for _ in range(6)]
    leased = "select count(*) from pgmq.q_payment_requested where vt > clock_timestamp() + interval '1 s'"
    world.start_worker(STRIPE_CALLS_PER_S="2", PAYMENTS_LEASE_S="60")
    most = 0
    while not all(world.has_status(one, "SUCCEEDED") for one in payments):
        most = max(most, world.row(leased)[0])
        assert most <= 4, "two that wait for their slots, and two under way"
    assert most >= 1


@pytest.mark.parametrize(
    "fault",
    [
        {"fault": "slow", "delay_s": 3.0, "when": "after"},
        {"fault": "after_executing"},
        {"fault": "mid_body"},
    ],
    ids=["timeout", "dropped", "cut in mid-body"],
)
def test_01_timeout_after_stripe_executed(world: World, fault: dict[str, Any]) -> None:
    payment_id = world.request()
    world.sandbox.fault(**fault)
    world.start_worker()
    wait_until(lambda: (world.call(payment_id) or {}).get("state") == "in_doubt")
    assert world.status(payment_id) == "REQUESTED"
    assert world.answers(payment_id) == []
    wait_until(world.settled(payment_id))
    assert_one_charge(world, payment_id, attempts=2)


@pytest.mark.parametrize(
    "fault",
    [{"fault": "slow", "delay_s": 3.0, "when": "before"}, {"fault": "before_executing"}],
    ids=["timeout", "dropped"],
)
def test_02_timeout_before_stripe_saw_it(world: World, fault: dict[str, Any]) -> None:
    payment_id = world.request()
    world.sandbox.fault(**fault)
    world.start_worker()
    wait_until(world.settled(payment_id))
    (intent,) = world.sandbox.intents(payment_id)
    assert intent["amount_captured"] == 1000
    assert {line["idempotency_key"] for line in world.sandbox.requests(payment_id)} == {KEY_OF.format(payment_id)}


def test_03_crash_between_stripes_response_and_our_commit(world: World) -> None:
    payment_id = world.request()
    world.sandbox.fault("slow", delay_s=0.7, when="after")
    worker = world.start_worker_process()
    wait_until(lambda: world.sandbox.intents(payment_id))
    worker.kill()
    call = world.call(payment_id)
    assert call is not None
    assert (call["state"], call["attempts"]) == ("in_flight", 1)
    world.start_worker()
    wait_until(world.settled(payment_id))
    assert_one_charge(world, payment_id, attempts=2)


def test_04_key_in_use_backs_off_under_the_same_key(world: World) -> None:
    payment_id = world.request()
    world.sandbox.fault("status", status=409, times=2)
    world.start_worker()
    wait_until(world.settled(payment_id))
    # Not burnt, but never back to none: the other call under the key may have done something.
    assert_one_charge(world, payment_id, attempts=2)
    assert [line["status"] for line in world.sandbox.requests(payment_id)] == [409, 409, 200]


def test_05_misused_key_is_parked_and_the_others_go_on(world: World) -> None:
    payment_id = world.request()
    earlier = {"amount": "777", "currency": "eur"}
    headers = {"Idempotency-Key": KEY_OF.format(payment_id)}
    assert world.sandbox.call("POST", INTENTS, data=earlier, headers=headers).status_code == 200
    other = world.request()
    worker = world.start_worker()
    wait_until(world.settled(other))
    call = world.call(payment_id)
    assert call is not None
    assert (call["state"], call["generation"], call["http_status"]) == ("parked", 1, None)
    assert world.status(payment_id) == "REQUESTED"
    ((dead_payment, error, payload),) = world.dead()
    assert (dead_payment, payload) == (payment_id, {"paymentId": str(payment_id)})
    assert "other parameters" in error
    assert [line["log_level"] for line in worker.logged("call.parked")] == ["error"]


@pytest.mark.parametrize("code", ["rate_limit", "lock_timeout"])
def test_06_rate_limit_burns_no_attempt(world: World, code: str) -> None:
    payment_id = world.request()
    world.sandbox.fault("status", status=429, times=2, error={"code": code})
    worker = world.start_worker()
    wait_until(world.settled(payment_id))
    assert_one_charge(world, payment_id, attempts=1)
    assert bool(worker.logged("limiter.lowered")) == (code == "rate_limit")


def test_07_cached_500_is_the_reconcilers_and_a_webhook_settles_it(world: World) -> None:
    payment_id = world.request()
    world.sandbox.fault("status", status=500, executed=True)
    worker = world.start_worker(records=False)
    wait_until(lambda: (world.call(payment_id) or {}).get("state") == "to_reconcile" and world.queued() == 0)
    assert world.status(payment_id) == "REQUESTED"
    assert world.queued() == 0
    assert world.dead() == []
    lines = world.sandbox.requests(payment_id)
    assert [(line["status"], line["replayed"]) for line in lines] == [(500, False), (500, True)]
    assert {line["idempotency_key"] for line in lines} == {KEY_OF.format(payment_id)}
    assert [line["log_level"] for line in worker.logged("call.left_to_reconciler")] == ["warning"]
    worker.stop()
    (event,) = world.sandbox.call("GET", "/v1/events?type=payment_intent.succeeded").json()["data"]
    world.execute(
        "insert into payments.inbox (source, message_id, message_type, payload) values ('stripe-webhook', %s, %s, %s)",
        event["id"],
        event["type"],
        json.dumps(event),
    )
    world.start_worker()
    wait_until(world.settled(payment_id))
    assert len(world.sandbox.intents(payment_id)) == 1
    assert world.answers(payment_id) == []


def test_08_crash_replay_of_a_decline_has_the_old_key(world: World) -> None:
    payment_id = world.request(payment_method="pm_card_visa_chargeDeclined")
    world.sandbox.fault("slow", delay_s=0.7, when="after")
    worker = world.start_worker_process()
    wait_until(lambda: world.sandbox.intents(payment_id))
    worker.kill()
    world.start_worker()
    wait_until(world.settled(payment_id, "FAILED"))
    lines = world.sandbox.requests(payment_id)
    assert [line["status"] for line in lines] == [402, 402]
    assert {line["idempotency_key"] for line in lines} == {KEY_OF.format(payment_id)}
    assert lines[-1]["replayed"]
    answers = [payload for _, payload in world.answers(payment_id)]
    # Its cancel may have been answered, too.
    (payload,) = [one for one in answers if one["operation"] == "create_payment_intent"]
    assert payload["outcome"] == "declined"
    assert payload["error"]["payment_intent"]["metadata"]["paymentId"] == str(payment_id)


def attempted(world: World, payment_id: UUID, ago: str, parameters: dict[str, Any]) -> None:
    """An attempt that another worker, perhaps of another version, has made and not lived to record."""
    world.execute(
        "insert into payments.stripe_requests (payment_id, subject_id, operation, idempotency_key, parameters, "
        "attempts, state, first_attempt_at) "
        "values (%s, %s, 'create_payment_intent', %s, %s, 1, 'in_flight', now() - %s::interval)",
        payment_id,
        payment_id,
        KEY_OF.format(payment_id),
        json.dumps(parameters),
        ago,
    )


def test_09_old_key_is_never_used_blindly(world: World) -> None:
    payment_id = world.request()
    attempted(world, payment_id, "23 hours", {"amount": 1000, "currency": "eur"})
    worker = world.start_worker(records=False)
    wait_until(lambda: world.queued() == 0)
    call = world.call(payment_id)
    assert call is not None
    assert (call["state"], call["attempts"]) == ("to_reconcile", 1)
    assert world.sandbox.requests() == []
    assert world.status(payment_id) == "REQUESTED"
    assert world.dead() == []  # the reconciler's, not an operator's
    assert len(worker.logged("call.left_to_reconciler")) == 1


def test_10_refused_api_key_stops_calling_and_fails_nobody(world: World) -> None:
    world.sandbox.fault("status", status=401, times=None)
    payments = [world.request() for _ in range(12)]
    worker = world.start_worker(PAYMENTS_WORKER_CONCURRENCY="2")
    wait_until(lambda: worker.logged("breaker.opened"))
    called = len(world.sandbox.requests())
    wait_until(lambda: len(world.sandbox.requests()) > called)  # a probe
    assert len(world.sandbox.requests()) <= 4
    assert [line["log_level"] for line in worker.logged("breaker.opened")] == ["critical"]
    assert {world.status(one) for one in payments} == {"REQUESTED"}
    world.sandbox.clear_faults()
    for one in payments:
        wait_until(partial(world.has_status, one, "SUCCEEDED"))
        assert_one_charge(world, one, attempts=1)


def test_one_command_at_a_time_probes_a_stripe_that_hangs(world: World) -> None:
    under_way = "select count(*) from payments.stripe_requests where state = 'in_flight'"
    for _ in range(12):
        world.request()
    world.sandbox.fault("slow", delay_s=3 * TIMEOUT_S, times=None)
    worker = world.start_worker(PAYMENTS_WORKER_CONCURRENCY="8")
    wait_until(lambda: worker.logged("breaker.opened"))
    wait_until(lambda: world.row(under_way) <= (1,))  # those that were under way when it opened
    called, most = len(world.sandbox.requests()), 0
    while len(world.sandbox.requests()) < called + 2:
        most = max(most, world.row(under_way)[0])
    assert most == 1
    world.sandbox.clear_faults()


def test_10_nobody_else_of_the_process_asks_while_the_api_key_is_refused(world: World) -> None:
    """Each asks through the same gate: also the recorder, which has to fetch what a webhook did not show."""

    def requests() -> int:
        return len(world.sandbox.steer("GET", "requests")["requests"])

    world.sandbox.steer("POST", "faults", fault="status", status=401, times=None)
    world.request()
    worker = world.start_worker_process(PAYMENTS_RECONCILE_AFTER_S="3600")
    wait_until(lambda: worker.logged("breaker.opened"))
    called = requests()
    world.execute("update payments.payments set processor_payment_intent = %s", INTENT)
    for number in range(20):
        told = event("refund.created", refund(INTENT, 3, "pending", id=f"re_{number}"), api_version="2019-02-11")
        world.execute(
            "insert into payments.inbox (source, message_id, message_type, payload)"
            " values ('stripe-webhook', %s, %s, %s::jsonb)",
            told["id"],
            told["type"],
            json.dumps(told),
        )
    asking = "select count(*) from payments.inbox where next_attempt_at > received_at + interval '1 s'"
    wait_until(lambda: world.row(asking)[0] >= 16)  # as many as may be under way
    wait_until(lambda: requests() > called)  # a probe
    assert requests() <= called + 8, "the probe, and what was under way for the reconciler"


def test_11_poison_commands_die_and_the_others_go_on(world: World) -> None:
    unknown = "01890000-0000-7000-8000-000000000000"
    poison: list[Any] = [None, 7, "x", [], {}, {"paymentId": None}, {"paymentId": "x"}, {"paymentId": unknown}]
    for message in poison:
        world.send(message)
    payment_id = world.request()
    world.start_worker()
    wait_until(world.settled(payment_id))
    assert sorted(json.dumps(row[2]) for row in world.dead()) == sorted(map(json.dumps, poison))
    assert world.row("select count(*) from payments.dead_letters where payment_id is not null") == (0,)


def test_11_command_that_breaks_its_handling_dies_after_bounded_tries(world: World) -> None:
    broken = world.request()
    # Parameters of an impossible shape: the handling raises, every time.
    attempted(world, broken, "1 hour", {"amount": 1})
    world.execute("update payments.stripe_requests set parameters = '[]'")
    payment_id = world.request()
    # Its faults so far travel with the message, whichever worker had it.
    world.execute("""update pgmq.q_payment_requested set headers = '{"x-payments-faults": 4}' where msg_id = 1""")
    worker = world.start_worker()
    wait_until(world.settled(payment_id))
    ((dead_payment, error, _),) = world.dead()
    assert dead_payment == broken
    assert error.startswith("broke 5 times: ")
    assert [line["faults"] for line in worker.logged("command.broken")] == [5]


def test_11_refusal_for_a_bug_of_ours_is_parked(world: World) -> None:
    payment_id = world.request()
    attempted(world, payment_id, "1 hour", {"amount": 1000, "currency": "eur", "no_such_parameter": "x"})
    other = world.request()
    world.start_worker()
    wait_until(world.settled(other))
    call = world.call(payment_id)
    assert call is not None
    assert (call["state"], call["http_status"]) == ("parked", 400)
    assert world.status(payment_id) == "REQUESTED"
    assert len(world.dead()) == 1


@pytest.mark.parametrize("method", ["pm_card_no_such_card", "pm_0000000000"])
def test_refusal_of_the_wish_fails_the_payment(world: World, method: str) -> None:
    payment_id = world.request(payment_method=method)
    world.start_worker()
    wait_until(world.settled(payment_id, "FAILED"))
    ((_, payload),) = world.answers(payment_id)
    assert (payload["outcome"], payload["error"]["param"]) == ("refused", "payment_method")
    assert world.dead() == []


def test_method_that_was_used_up_fails_the_payment(world: World) -> None:
    """Stripe says it without a code and without a parameter."""
    first = world.request()
    world.start_worker()
    wait_until(world.settled(first))
    ((_, paid),) = world.answers(first)
    payment_id = world.request(payment_method=paid["object"]["payment_method"])
    wait_until(world.settled(payment_id, "FAILED"))
    assert world.dead() == []


def test_12_two_workers_hold_one_command(world: World) -> None:
    payment_id = world.request()
    world.sandbox.fault("slow", delay_s=0.5, when="after")
    late = world.start_worker_process()
    wait_until(lambda: world.sandbox.intents(payment_id))
    late.signal(signal.SIGSTOP)
    world.start_worker()
    wait_until(world.settled(payment_id), deadline_s=LEASE_S + 15)
    late.signal(signal.SIGCONT)
    wait_until(lambda: late.logged("lease.lost") or late.logged("command.interrupted"))
    assert world.queued() == 0
    (intent,) = world.sandbox.intents(payment_id)
    assert len(intent["charges"]) == 1
    assert world.status(payment_id) == "SUCCEEDED"
    assert world.row("select count(*) from payments.outbox where event_type = 'payment-succeeded'") == (1,)


def test_13_parameters_are_replayed_word_by_word_across_versions(world: World) -> None:
    payment_id = world.request()
    of_old = {
        "amount": 1000,
        "currency": "eur",
        "confirm": True,
        "payment_method": "pm_card_visa",
        "allowed_payment_method_types": ["card"],
        "description": "as version 0.9 wrote it",
        "metadata": {"paymentId": str(payment_id)},
        "expand": ["latest_charge"],
    }
    attempted(world, payment_id, "22 hours 50 minutes", of_old)
    world.start_worker()
    wait_until(world.settled(payment_id))
    assert_one_charge(world, payment_id, attempts=2)
    ((_, payload),) = world.answers(payment_id)
    assert payload["object"]["description"] == "as version 0.9 wrote it"
    call = world.call(payment_id)
    assert call is not None
    assert call["parameters"] == of_old


def test_15_outage_loses_nothing_and_the_backlog_drains_at_the_limit(world: World) -> None:
    rate = 10
    world.sandbox.stop()
    payments = [world.request() for _ in range(25)]
    worker = world.start_worker(STRIPE_CALLS_PER_S=str(rate))
    wait_until(lambda: worker.logged("breaker.opened"))
    assert {world.status(one) for one in payments} == {"REQUESTED"}
    world.sandbox.start()
    wait_until(lambda: world.queued() == 0, deadline_s=40)
    for one in payments:
        wait_until(partial(world.has_status, one, "SUCCEEDED"))
        (intent,) = world.sandbox.intents(one)
        assert intent["amount_captured"] == 1000
    times = sorted(line["at"] for line in world.sandbox.requests())
    # A second's worth may bunch, on a slow machine; how evenly calls are spaced is the limiter's own test.
    assert times[-1] - times[0] >= (len(times) - 1) / rate - 1


@pytest.mark.parametrize("call", ["unknown", "intended"])
def test_void_before_the_first_call_needs_none(world: World, call: str) -> None:
    payment_id = world.request(status="VOIDING")
    if call == "intended":
        attempted(world, payment_id, "1 hour", {})
        world.execute("update payments.stripe_requests set attempts = 0, state = 'intended', first_attempt_at = null")
    world.start_worker()
    wait_until(world.settled(payment_id, "VOIDED"))
    assert world.sandbox.requests() == []
    assert world.rows("select event_type, sequence from payments.outbox order by sequence") == [
        ("payment-requested", 1),
        ("payment-voided", 2),
    ]
    history = world.rows("select source, from_status, to_status, decision from payments.payment_history")
    assert history == [("worker", "VOIDING", "VOIDED", "applied")]
    assert world.rows("select * from payments.audit_imbalances") == []


def test_void_after_an_attempt_finds_out_first(world: World) -> None:
    payment_id = world.request(status="VOIDING")
    attempted(
        world, payment_id, "1 hour", {"amount": 1000, "currency": "eur", "metadata": {"paymentId": str(payment_id)}}
    )
    world.start_worker()
    wait_until(lambda: world.answers(payment_id))
    assert len(world.sandbox.intents(payment_id)) == 1


def test_settled_payment_is_acknowledged_without_a_call(world: World) -> None:
    payment_id = world.request(status="SUCCEEDED", amount_authorized=1000, amount_captured=1000)
    world.start_worker()
    wait_until(lambda: world.queued() == 0)
    assert world.sandbox.requests() == []
    assert world.status(payment_id) == "SUCCEEDED"


def test_payment_without_a_method_is_created_unconfirmed(world: World) -> None:
    payment_id = world.request(payment_method=None)
    world.start_worker()
    wait_until(world.settled(payment_id, "ACTION_REQUIRED"))
    (intent,) = world.sandbox.intents(payment_id)
    assert intent["charges"] == []
