"""A call in doubt: what is concluded of it, and of what nothing must be."""

from collections.abc import Awaitable, Callable

import pytest

from payments.reconciler import calls
from payments.reconciler.jobs import Surroundings
from payments.reconciler.sweep import sweep
from payments.reconciler.verdicts import Absent, Found
from payments.reconciler.watching import look_at_watches
from payments.stripe_gateway.outcomes import Outcome
from tests.database.rows import insert_payment
from tests.development.databases import Database
from tests.reconciler.bench import Bench

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("reason", ["abandoned", "requested_by_customer"])
async def test_cancel_that_never_was_is_asked_for_again_for_its_own_reason(bench: Bench, reason: str) -> None:
    payment_id = insert_payment(bench.conn)
    bench.stripe.add(1, payment_id)
    bench.stripe.intents[0]["status"] = "requires_payment_method"
    bench.conn.execute(
        "update payments.payments set status = 'VOIDING', processor_payment_intent = 'pi_1' where payment_id = %s",
        (payment_id,),
    )
    bench.conn.execute(
        "insert into payments.stripe_requests (payment_id, subject_id, operation, idempotency_key, parameters,"
        " attempts, state, http_status, first_attempt_at, last_attempt_at)"
        " values (%(id)s, %(id)s, 'cancel_payment_intent', 'x',"
        " json_build_object('cancellation_reason', %(why)s::text),"
        " 1, 'to_reconcile', 500, now() - interval '1000 s', now() - interval '900 s')",
        {"id": payment_id, "why": reason},
    )
    await calls.reconcile_calls(bench.around)
    sent = bench.conn.execute("select message ->> 'cancellationReason' from pgmq.q_void_requested").fetchall()
    assert (bench.calls(), sent) == ([("answered", "absent")], [(reason,)])


async def test_a_list_that_is_not_read_to_its_end_proves_nothing(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is not among the first pages of a PaymentIntent's refunds may be on the next: an operator must look."""
    monkeypatch.setattr(calls, "REFUND_PAGES_MAX", 3)
    bench.stripe.has_endless_refunds = True
    bench.doubtful_refund()
    await calls.reconcile_calls(bench.around)
    assert bench.calls() == [("parked", None)]
    assert bench.conn.execute("select origin from payments.dead_letters").fetchall() == [("queue:refund_requested",)]
    assert bench.refund_commands() == []


async def test_a_call_parked_once_more_after_a_retry_has_an_unsettled_letter_again(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stripe may have the money still, and nobody else knows of the call."""
    monkeypatch.setattr(calls, "REFUND_PAGES_MAX", 1)
    bench.stripe.has_endless_refunds = True
    bench.doubtful_refund()
    await calls.reconcile_calls(bench.around)
    bench.conn.execute("update payments.dead_letters set resolved_at = now(), resolution = 'tried again'")
    bench.conn.execute("update payments.stripe_requests set state = 'to_reconcile'")
    await calls.reconcile_calls(bench.around)
    assert bench.calls() == [("parked", None)]
    letters = bench.conn.execute("select resolved_at, resolution from payments.dead_letters").fetchall()
    assert letters == [(None, None)]


async def test_nothing_is_proved_while_the_last_attempt_may_still_be_at_work(bench: Bench) -> None:
    """Unless Stripe has kept an error under the key, and still has it, an attempt on its way may refund.

    Its lease and its time limit must be over.
    """
    refund_id = bench.doubtful_refund()
    settings = bench.around.settings
    at_work_s = settings.lease_s + settings.stripe_timeout_s

    def last_attempt(first: str, seconds_ago: float, http_status: int | None = 500) -> None:
        bench.conn.execute(
            "update payments.stripe_requests set first_attempt_at = now() - %s::interval,"
            " last_attempt_at = now() - make_interval(secs => %s), http_status = %s",
            (first, seconds_ago, http_status),
        )

    for first, seconds_ago, http_status in (
        ("1 h", settings.reconcile_after_s - 5, 500),
        ("25 h", settings.reconcile_after_s + 5, 500),
        ("25 h", settings.reconcile_after_s + at_work_s - 5, 500),
        # What was parked: Stripe keeps neither a refusal nor silence under a key.
        ("1 h", settings.reconcile_after_s + at_work_s - 5, 400),
        ("1 h", settings.reconcile_after_s + at_work_s - 5, None),
    ):
        last_attempt(first, seconds_ago, http_status)
        await calls.reconcile_calls(bench.around)
        assert bench.calls() == [("to_reconcile", None)]
        assert bench.refund_commands() == []
    last_attempt("25 h", settings.reconcile_after_s + at_work_s + 5)
    await calls.reconcile_calls(bench.around)
    assert bench.calls() == [("answered", "absent")]
    assert bench.refund_commands() == [(str(refund_id),)]


async def test_a_call_that_an_operator_has_by_now_is_not_settled(bench: Bench) -> None:
    """A verdict may come late: what was parked or answered meanwhile stays so, and no command goes out."""
    bench.doubtful_refund()
    (case,) = await calls.find_cases(bench.around, swept=False)
    bench.conn.execute("update payments.stripe_requests set state = 'parked'")
    for verdict in (Absent(), Found(())):
        await calls.settle(bench.around, case, calls.Evidence(verdict, None, 0))
    assert bench.calls() == [("parked", None)]
    assert bench.refund_commands() == []


async def test_a_payment_that_somebody_keeps_locked_holds_up_no_other_call(bench: Bench, database: Database) -> None:
    locked, refund_id, other = bench.doubtful(), bench.doubtful_refund(), bench.doubtful()
    with database.connect(autocommit=False) as operator:
        operator.execute("select from payments.payments where payment_id = %s for update", (locked,))
        assert await sweep(bench.around) is False
        await calls.reconcile_calls(bench.around)
        assert bench.calls() == [("to_reconcile", None), ("answered", "absent"), ("answered", "absent")]
        assert (bench.commands(), bench.refund_commands()) == ([(str(other),)], [(str(refund_id),)])
    await sweep(bench.around)
    assert bench.calls() == [("answered", "absent")] * 3
    assert bench.commands() == [(str(other),), (str(locked),)]


async def test_calls_that_wait_for_the_sweep_hide_none_that_can_be_asked_for(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calls, "CALLS_MAX", 1)
    bench.doubtful()
    refund_id = bench.doubtful_refund()
    await calls.reconcile_calls(bench.around)
    assert bench.refund_commands() == [(str(refund_id),)]


async def test_calls_that_can_be_asked_for_hide_none_from_the_sweep(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calls, "CALLS_MAX", 1)
    bench.doubtful_refund()
    payment_id = bench.doubtful()
    await sweep(bench.around)
    assert bench.commands() == [(str(payment_id),)]


@pytest.mark.parametrize("asks", [calls.reconcile_calls, look_at_watches], ids=["a call", "a watch"])
async def test_what_is_weighed_while_stripe_is_asked_makes_its_answer_an_old_one(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, asks: Callable[[Surroundings], Awaitable[bool]]
) -> None:
    """What was seen before that must not be taken for how things stand after it."""
    payment_id = insert_payment(bench.conn)
    bench.conn.execute("update payments.payments set processor_payment_intent = 'pi_1'")
    bench.stripe.add(1, payment_id)
    if asks is look_at_watches:
        bench.watch(payment_id)
    else:
        bench.doubtful(payment_id)
    weigh = (
        "insert into payments.payment_history (payment_id, signal, source, to_status, decision, why)"
        " values (%s, 'x', 'stripe-webhook', 'REQUESTED', 'ignored', 'x') returning history_id"
    )
    before = bench.conn.execute(weigh, (payment_id,)).fetchone()
    retrieve = bench.stripe.retrieve_payment_intent

    async def retrieve_slowly(intent_id: str) -> Outcome:
        bench.conn.execute(weigh, (payment_id,))
        return await retrieve(intent_id)

    monkeypatch.setattr(bench.stripe, "retrieve_payment_intent", retrieve_slowly)
    await asks(bench.around)
    seen = bench.conn.execute("select (payload ->> 'afterHistoryId')::bigint from payments.inbox").fetchall()
    assert seen == [before]
