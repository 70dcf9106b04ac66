"""What a handler does, and does no more, on a lease that is nearly over, over, or lost."""

import time

import msgspec
from structlog.testing import capture_logs

from payments.queues.queue import Leased
from payments.stripe_gateway.outcomes import KeyMisused
from tests.development.databases import Database
from tests.worker.command_bench import DEAD, TIMEOUT_S, Bench, on_bench


def nearly_over(lease: Leased) -> Leased:
    return msgspec.structs.replace(lease, ends_at=time.monotonic() + TIMEOUT_S - 0.5)


def test_handler_extends_a_lease_that_would_end_before_the_call(database: Database) -> None:
    async def test(bench: Bench) -> None:
        lease = nearly_over(await bench.lease())
        bench.rows("update pgmq.q_payment_requested set vt = now() returning msg_id")
        left: list[float] = []

        async def look() -> None:
            left.append(
                float(
                    bench.rows("select extract(epoch from vt - clock_timestamp()) from pgmq.q_payment_requested")[0][0]
                )
            )

        bench.during_call = look
        await bench.handle(lease)
        assert len(bench.sent) == 1
        assert left[0] > TIMEOUT_S
        assert bench.rows("select * from pgmq.q_payment_requested") == []

    on_bench(database, test)


def test_handler_does_not_call_on_a_lease_it_has_lost(database: Database) -> None:
    async def test(bench: Bench) -> None:
        lease = nearly_over(await bench.lease())
        await bench.steal()
        await bench.handle(lease)
        assert bench.sent == []
        assert len(bench.rows("select * from pgmq.q_payment_requested")) == 1

    on_bench(database, test)


def test_handler_does_not_call_on_a_lease_that_is_over_though_nobody_else_has_it(database: Database) -> None:
    """A process that was stopped for hours would send a key that Stripe has forgotten."""

    async def test(bench: Bench) -> None:
        lease = msgspec.structs.replace(await bench.lease(), ends_at=time.monotonic())
        bench.rows("update pgmq.q_payment_requested set vt = now() returning msg_id")
        await bench.handle(lease)
        assert bench.sent == []
        assert len(bench.rows("select * from pgmq.q_payment_requested")) == 1

    on_bench(database, test)


def test_handler_does_not_call_when_even_a_new_lease_is_too_short(database: Database) -> None:
    async def test(bench: Bench) -> None:
        with capture_logs() as logs:
            await bench.handle(await bench.lease())
        assert bench.sent == []
        assert bench.rows("select state, attempts from payments.stripe_requests") == [("in_flight", 1)]
        assert [line["event"] for line in logs] == ["lease.too_short"], "it is handed back for ever: that must be seen"

    on_bench(database, test, lease_s=TIMEOUT_S - 1)


def test_handler_keeps_an_answer_though_the_lease_was_lost(database: Database) -> None:
    async def test(bench: Bench) -> None:
        lease = await bench.lease()
        bench.during_call = bench.steal
        await bench.handle(lease)
        assert bench.rows("select message_id, payment_id from payments.inbox") == [("req_1/1", bench.payment_id)]
        assert bench.rows("select state, outcome from payments.stripe_requests") == [("answered", "answered")]
        assert len(bench.rows("select * from pgmq.q_payment_requested")) == 1  # the other worker's to acknowledge
        assert bench.notified == ["payments_inbox"]

    on_bench(database, test)


def test_handler_leaves_a_dead_letter_of_a_parked_call_though_the_lease_was_lost(database: Database) -> None:
    """The call is parked then, so whoever has the command next finds nothing left to do, and acknowledges it."""

    async def test(bench: Bench) -> None:
        lease = await bench.lease()
        bench.outcome = KeyMisused("m", "req_1")
        bench.during_call = bench.steal
        await bench.handle(lease)
        assert len(bench.rows("select * from pgmq.q_payment_requested")) == 1  # the other worker's to acknowledge
        await bench.handle(msgspec.structs.replace(lease, read_ct=lease.read_ct + 1))
        assert len(bench.sent) == 1
        assert bench.rows("select * from pgmq.q_payment_requested") == []
        error = "the key was used with other parameters"
        assert bench.rows(DEAD) == [
            (bench.payment_id, str(lease.msg_id), str(bench.payment_id), lease.read_ct, error),
        ]

    on_bench(database, test)


def test_handler_unsettles_the_dead_letter_of_a_call_that_it_parks_once_more_without_its_lease(
    database: Database,
) -> None:
    """After an operator's retry; whoever has the command finds nothing to do, so only the letter tells of it."""

    async def test(bench: Bench) -> None:
        lease = await bench.lease()
        bench.outcome = KeyMisused("m", "req_1")
        bench.during_call = bench.steal
        await bench.handle(lease)
        retried = "update payments.dead_letters set resolved_at = now(), resolution = 'tried again' returning 1"
        assert len(bench.rows(retried)) == 1
        bench.rows("update payments.stripe_requests set state = 'in_doubt' returning call_id")
        await bench.handle(msgspec.structs.replace(lease, read_ct=lease.read_ct + 1))
        assert len(bench.sent) == 2
        assert bench.rows("select state from payments.stripe_requests") == [("parked",)]
        assert bench.rows("select resolved_at, resolution from payments.dead_letters") == [(None, None)]

    on_bench(database, test)


def test_handler_acknowledges_with_the_answer_or_not_at_all(database: Database) -> None:
    """A process that dies between the two would leave a payment that nobody works on."""
    with database.connect() as conn:
        conn.execute("alter table payments.inbox add constraint no_answers check (source <> 'stripe-api') not valid")

    async def test(bench: Bench) -> None:
        await bench.handle(await bench.lease())
        assert len(bench.sent) == 1
        assert bench.rows("select state from payments.stripe_requests") == [("in_flight",)]
        assert len(bench.rows("select * from pgmq.q_payment_requested")) == 1

    on_bench(database, test)
