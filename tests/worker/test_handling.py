"""One command in the hands of one handler, with leases as bad as they come."""

import asyncio
import contextlib
import dataclasses
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, cast
from uuid import UUID

import msgspec
import psycopg
import pytest
from structlog.testing import capture_logs

from payments.database.connections import Connection, Pool, open_pool, transaction
from payments.queues.queue import Leased, Queue
from payments.stripe_gateway.gateway import StripeGateway
from payments.stripe_gateway.outcomes import Answered, KeyMisused, Outcome, RateLimited, Unknown
from payments.wakeup import Notifier
from payments.worker import calls, handling
from payments.worker.create_payment_intent import CREATE_PAYMENT_INTENT
from payments.worker.handling import FAULTS_MAX, Handler, Surroundings
from tests.database.rows import insert_payment
from tests.development.databases import Database

LEASE_S = 20.0
TIMEOUT_S = 5.0
LOCKED_S_MAX = 5.0  # far below the statement timeout, far above what a lock is waited for
ANSWER = Answered({"id": "pi_1", "object": "payment_intent"}, 200, "req_1")


class Bench:
    """A queue with one command, and a handler whose call to Stripe is a function of the test."""

    def __init__(self, database: Database, pool: Pool, lease_s: float = LEASE_S) -> None:
        self.database = database
        self.pool = pool
        self.queue = Queue("payment_requested", lease_s)
        self.sent: list[tuple[Mapping[str, Any], str]] = []
        self.notified: list[str] = []
        self.during_call: Callable[[], Awaitable[None]] | None = None
        self.outcome: Outcome | Exception = ANSWER
        operation = dataclasses.replace(CREATE_PAYMENT_INTENT, call=self._call)
        around = Surroundings(pool, cast("StripeGateway", None), cast("Notifier", self), TIMEOUT_S, lambda _: None)
        self.handler = Handler(operation, self.queue, around)
        with database.connect() as conn:
            self.payment_id: UUID = insert_payment(conn)
            conn.execute(
                "select pgmq.send('payment_requested', jsonb_build_object('paymentId', %s::uuid))", (self.payment_id,)
            )

    def notify(self, channel: str, payload: str = "") -> None:
        self.notified.append(f"{channel} {payload}".strip())

    async def _call(self, _: StripeGateway, parameters: Mapping[str, Any], key: str) -> Outcome:
        self.sent.append((parameters, key))
        if self.during_call is not None:
            await self.during_call()
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return self.outcome

    async def lease(self) -> Leased:
        async with transaction(self.pool) as conn:
            (lease,) = await self.queue.lease(conn, 1)
        return lease

    async def steal(self) -> None:
        """Another worker leases the command."""
        self.rows("update pgmq.q_payment_requested set read_ct = read_ct + 1 returning msg_id")

    async def handle(self, lease: Leased) -> None:
        await self.handler.handle(lease, lambda: None)

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        with self.database.connect() as conn:
            return conn.execute(query).fetchall()


def on_bench(database: Database, test: Callable[[Bench], Awaitable[None]], lease_s: float = LEASE_S) -> None:
    async def main() -> None:
        async with open_pool(database.dsn("payments_worker"), "payments_worker", 3) as pool:
            await test(Bench(database, pool, lease_s))

    asyncio.run(main())


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
        await bench.handle(await bench.lease())
        assert bench.sent == []
        assert bench.rows("select state, attempts from payments.stripe_requests") == [("in_flight", 1)]

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


DEAD = "select payment_id, message_id, payload ->> 'paymentId', attempts, error from payments.dead_letters"


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


def test_handler_leaves_one_dead_letter_when_both_holders_of_a_command_park_its_call(database: Database) -> None:
    async def test(bench: Bench) -> None:
        lease = await bench.lease()
        bench.outcome = KeyMisused("m", "req_1")

        async def overtake() -> None:
            bench.during_call = None
            await bench.steal()
            await bench.handle(msgspec.structs.replace(lease, read_ct=lease.read_ct + 1))

        bench.during_call = overtake
        await bench.handle(lease)
        assert len(bench.sent) == 2
        assert bench.rows("select * from pgmq.q_payment_requested") == []
        assert len(bench.rows(DEAD)) == 1

    on_bench(database, test)


def test_handler_leaves_no_dead_letter_when_another_worker_got_the_answer_meanwhile(database: Database) -> None:
    async def test(bench: Bench) -> None:
        lease = await bench.lease()
        bench.outcome = KeyMisused("m", "req_1")

        async def overtake() -> None:
            bench.during_call, bench.outcome = None, ANSWER
            await bench.steal()
            await bench.handle(msgspec.structs.replace(lease, read_ct=lease.read_ct + 1))
            bench.outcome = KeyMisused("m", "req_1")

        bench.during_call = overtake
        await bench.handle(lease)
        assert bench.rows("select state from payments.stripe_requests") == [("answered",)]
        assert bench.rows(DEAD) == []

    on_bench(database, test)


REPEATED = Unknown("HTTP 500", 500, "req_1", is_replayed=True)


def test_handler_leaves_to_the_reconciler_what_stripe_keeps_repeating(database: Database) -> None:
    async def test(bench: Bench) -> None:
        bench.outcome = REPEATED
        await bench.handle(await bench.lease())
        assert bench.rows("select state, outcome, http_status from payments.stripe_requests") == [
            ("to_reconcile", None, 500)
        ]
        assert bench.rows("select * from pgmq.q_payment_requested") == []
        assert bench.rows(DEAD) == []

    on_bench(database, test)


def test_handler_takes_nothing_from_the_reconciler_when_another_attempt_ends_in_doubt(database: Database) -> None:
    async def test(bench: Bench) -> None:
        lease = await bench.lease()
        bench.outcome = Unknown("timeout")

        async def overtake() -> None:
            bench.during_call, bench.outcome = None, REPEATED
            await bench.steal()
            await bench.handle(msgspec.structs.replace(lease, read_ct=lease.read_ct + 1))
            bench.outcome = Unknown("timeout")

        bench.during_call = overtake
        await bench.handle(lease)
        kept = "select state, attempts, http_status, last_error from payments.stripe_requests"
        assert bench.rows(kept) == [("to_reconcile", 2, 500, "Stripe keeps repeating: HTTP 500")]

    on_bench(database, test)


def test_handler_keeps_an_answer_that_comes_after_the_reconciler_was_called(database: Database) -> None:
    async def test(bench: Bench) -> None:
        lease = await bench.lease()

        async def overtake() -> None:
            bench.during_call, bench.outcome = None, REPEATED
            await bench.steal()
            await bench.handle(msgspec.structs.replace(lease, read_ct=lease.read_ct + 1))
            bench.outcome = ANSWER

        bench.during_call = overtake
        await bench.handle(lease)
        assert bench.rows("select state, outcome from payments.stripe_requests") == [("answered", "answered")]
        assert len(bench.rows("select * from payments.inbox")) == 1

    on_bench(database, test)


def test_handler_takes_no_answer_back_when_stripe_repeats_itself_to_another_attempt(database: Database) -> None:
    async def test(bench: Bench) -> None:
        lease = await bench.lease()

        async def overtake() -> None:
            bench.during_call, bench.outcome = None, ANSWER
            await bench.steal()
            await bench.handle(msgspec.structs.replace(lease, read_ct=lease.read_ct + 1))
            bench.outcome = REPEATED

        bench.during_call = overtake
        with capture_logs() as logs:
            await bench.handle(lease)
        assert bench.rows("select state, outcome from payments.stripe_requests") == [("answered", "answered")]
        assert not [line for line in logs if line["event"] == "command.broken"], "it is not even tried"

    on_bench(database, test)


def test_handler_takes_nothing_from_an_operator_when_stripe_repeats_itself_to_another_attempt(
    database: Database,
) -> None:
    """The reconciler might have the call made again, while the operator still looks into it."""

    async def test(bench: Bench) -> None:
        lease = await bench.lease()

        async def overtake() -> None:
            bench.during_call, bench.outcome = None, KeyMisused("m", "req_1")
            await bench.steal()
            await bench.handle(msgspec.structs.replace(lease, read_ct=lease.read_ct + 1))
            bench.outcome = REPEATED

        bench.during_call = overtake
        await bench.handle(lease)
        assert bench.rows("select state, http_status, last_error from payments.stripe_requests") == [
            ("parked", None, "the key was used with other parameters")
        ]

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


def test_handler_counts_the_age_of_a_key_from_its_first_attempt(database: Database) -> None:
    """And the time in which it may still act from its last."""

    async def test(bench: Bench) -> None:
        bench.outcome = Unknown("timeout")
        await bench.handle(await bench.lease())
        ago = "- interval '2 hours'"
        (first,) = bench.rows(
            f"update payments.stripe_requests set first_attempt_at = first_attempt_at {ago},"
            f" last_attempt_at = last_attempt_at {ago} returning first_attempt_at"
        )
        bench.rows("update pgmq.q_payment_requested set vt = now() returning msg_id")
        await bench.handle(await bench.lease())
        assert len(bench.sent) == 2
        kept = "select first_attempt_at, last_attempt_at > now() - interval '1 minute' from payments.stripe_requests"
        assert bench.rows(kept) == [(*first, True)]

    on_bench(database, test)


def test_handler_waits_longer_each_time_that_stripe_is_busy(database: Database) -> None:
    """Attempts are not counted then; how often the command was delivered is."""

    async def test(bench: Bench) -> None:
        bench.outcome = RateLimited(None, "req_1", None)
        bench.rows("update pgmq.q_payment_requested set read_ct = 9 returning msg_id")
        await bench.handle(await bench.lease())
        assert bench.rows("select vt > now() + interval '10 s' from pgmq.q_payment_requested") == [(True,)]

    on_bench(database, test)


def test_handler_takes_the_age_of_a_key_from_the_clock_that_all_hosts_share(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This host's may be hours behind: a key that Stripe has forgotten would charge anew."""

    async def tomorrow(_: Connection) -> datetime:
        return datetime.now(UTC) + timedelta(hours=25)

    async def test(bench: Bench) -> None:
        bench.outcome = Unknown("timeout")
        await bench.handle(await bench.lease())
        bench.rows("update pgmq.q_payment_requested set vt = now() returning msg_id")
        monkeypatch.setattr(calls, "database_time", tomorrow)
        await bench.handle(await bench.lease())
        assert len(bench.sent) == 1
        assert bench.rows("select state from payments.stripe_requests") == [("to_reconcile",)]

    on_bench(database, test)


def test_handler_leaves_a_later_attempt_alone_when_a_late_one_ends_in_doubt(database: Database) -> None:
    async def test(bench: Bench) -> None:
        lease = await bench.lease()
        bench.outcome = Unknown("timeout")

        async def overtake() -> None:
            await bench.steal()
            bench.rows("update payments.stripe_requests set attempts = 2, last_attempt_at = now() returning call_id")

        bench.during_call = overtake
        await bench.handle(lease)
        assert bench.rows("select state, attempts from payments.stripe_requests") == [("in_flight", 2)]

    on_bench(database, test)


def test_handler_uncounts_an_attempt_once_though_its_commit_was_in_doubt(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counted down twice, the first attempt, of which nobody knows what it did, would be forgotten."""
    lost = iter([True])

    @contextlib.asynccontextmanager
    async def losing_the_first_commit(pool: Pool) -> AsyncIterator[Connection]:
        async with transaction(pool) as conn:
            yield conn
        if next(lost, False):
            raise psycopg.OperationalError("the connection broke while the commit was under way")

    async def test(bench: Bench) -> None:
        bench.outcome = Unknown("timeout")
        await bench.handle(await bench.lease())
        bench.rows("update pgmq.q_payment_requested set vt = clock_timestamp() returning msg_id")
        bench.outcome = RateLimited(None, None)
        monkeypatch.setattr(handling, "transaction", losing_the_first_commit)
        await bench.handle(await bench.lease())
        assert next(lost, None) is None
        assert bench.rows("select state, attempts, first_attempt_at is null from payments.stripe_requests") == [
            ("in_doubt", 1, False)
        ]

    on_bench(database, test)


def test_handler_uncounts_no_attempt_of_another_worker(database: Database) -> None:
    async def test(bench: Bench) -> None:
        lease = await bench.lease()
        bench.outcome = RateLimited(None, None)

        async def overtake() -> None:
            await bench.steal()
            bench.rows("update payments.stripe_requests set last_attempt_at = clock_timestamp() returning call_id")

        bench.during_call = overtake
        await bench.handle(lease)
        assert bench.rows("select state, attempts from payments.stripe_requests") == [("in_flight", 1)]

    on_bench(database, test)


def test_handler_hands_a_command_back_soon_when_somebody_keeps_its_payment_locked(database: Database) -> None:
    async def test(bench: Bench) -> None:
        lease = await bench.lease()
        with database.connect() as operator:
            operator.execute("begin")
            operator.execute("select from payments.payments where payment_id = %s for update", (bench.payment_id,))
            await asyncio.wait_for(bench.handle(lease), LOCKED_S_MAX)
        handed_back = (
            "select vt < clock_timestamp() + interval '2 seconds', headers -> 'x-payments-faults' "
            "from pgmq.q_payment_requested"
        )
        assert bench.rows(handed_back) == [(True, None)]
        bench.rows("update pgmq.q_payment_requested set vt = clock_timestamp() returning msg_id")
        await bench.handle(await bench.lease())
        assert len(bench.sent) == 1
        assert bench.rows("select state, attempts from payments.stripe_requests") == [("answered", 1)]

    on_bench(database, test)


def test_handler_commits_the_intent_before_the_call_and_holds_nothing_during_it(database: Database) -> None:
    async def test(bench: Bench) -> None:
        async def look() -> None:
            assert bench.rows("select state, attempts from payments.stripe_requests") == [("in_flight", 1)]
            bench.rows("select payment_id from payments.payments for update nowait")
            open_ones = (
                "select count(*) from pg_stat_activity where usename = 'payments_worker' and xact_start is not null"
            )
            assert bench.rows(open_ones) == [(0,)]

        bench.during_call = look
        await bench.handle(await bench.lease())
        assert bench.rows("select state from payments.stripe_requests") == [("answered",)]
        assert bench.rows("select error from payments.dead_letters") == []

    on_bench(database, test)


@pytest.mark.parametrize("error", [RuntimeError("bug"), KeyError("x"), AssertionError()])
def test_handler_counts_faults_and_gives_up_at_last(database: Database, error: Exception) -> None:
    async def test(bench: Bench) -> None:
        bench.outcome = error
        bench.rows("update pgmq.q_payment_requested set read_ct = 9 returning msg_id")  # by outages
        for fault in range(1, FAULTS_MAX + 1):
            bench.rows("update pgmq.q_payment_requested set vt = now() returning msg_id")
            bench.queue = Queue("payment_requested", LEASE_S)  # any worker counts on
            await bench.handle(await bench.lease())
            assert len(bench.sent) == fault
        ((payment_id, text),) = bench.rows("select payment_id, error from payments.dead_letters")
        assert payment_id == bench.payment_id
        assert text.startswith(f"broke {FAULTS_MAX} times: {type(error).__name__} at ")
        assert "bug" not in text  # an error's text may quote what was worked on
        assert len({key for _, key in bench.sent}) == 1

    on_bench(database, test)


def test_handler_treats_a_missing_grant_as_the_databases_fault_not_the_commands(database: Database) -> None:
    with database.connect() as conn:
        conn.execute("revoke insert on payments.stripe_requests from payments_worker")

    async def test(bench: Bench) -> None:
        await bench.handle(await bench.lease())
        assert bench.sent == []
        assert bench.rows("select headers -> 'x-payments-faults' from pgmq.q_payment_requested") == [(None,)]

    on_bench(database, test)
