"""Old events, inbox rows, letters, dispatches and answers are forgotten: none too early, and nothing happens again."""

import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest

from tests.conftest import wait_until
from tests.database.rows import insert_event, insert_payment
from tests.development.databases import Database
from tests.scenarios.stripe import event, signed
from tests.scenarios.world import AMOUNT, World
from tests.system.running import System, payments_up

DAYS = 90
KINDS = (
    "sound",
    "young",
    "open",
    "in conflict",
    "not dispatched",
    "told of lately",
    "unweighed",
    "heard of lately",
    "watched",
    "refund requested",
    "refund pending",
    "refunded lately",
    "disputed",
    "dispute ended lately",
    "dispute told of lately",
    "unanswered",
    "dead letter",
    "letter settled lately",
    "off",
)
GOES = {"sound"}
KEPT = ("payments", "payment_history", "refunds", "disputes", "stripe_requests")

# At rest for a hundred days, with all that such a payment leaves; `changes` makes it something else.
_OLD = """
with p as (
  insert into payments.payments (
    payment_id, cart_id, order_id, amount, currency, capture_method, client_id, fingerprint, status,
    amount_authorized, amount_captured, last_sequence, created_at, updated_at)
  values (%(id)s, %(id)s, %(id)s, 1000, 'EUR', 'automatic', 'tests', sha256('tests'), 'SUCCEEDED', 1000, 1000, 2,
    %(at)s, %(at)s)
), h as (
  insert into payments.payment_history (payment_id, signal, source, to_status, decision, why)
  values (%(id)s, 'x', 'worker', 'SUCCEEDED', 'applied', 'x')
), o as (
  insert into payments.outbox (event_id, event_type, aggregate_id, sequence, payload, headers, occurred_at)
  select gen_random_uuid(), t, %(id)s, s, '{}', '{}', %(at)s
  from (values (1, 'payment-requested'), (2, 'payment-succeeded')) e (s, t)
), i as (
  insert into payments.inbox (source, message_id, message_type, payment_id, payload, received_at, processed_at, outcome)
  select s, %(id)s::text, 'x', %(id)s, '{}', %(at)s, %(at)s, 'applied'
  from unnest(array['stripe-api', 'stripe-webhook']) s
), d as (
  insert into payments.dead_letters (origin, message_id, payment_id, payload, attempts, error, resolved_at, resolution)
  values ('queue:x', %(id)s::text, %(id)s, '{}', 1, 'x', %(at)s, 'tried again')
)
insert into payments.stripe_requests
  (payment_id, subject_id, operation, idempotency_key, parameters, state, outcome, answered_at)
values (%(id)s, %(id)s, 'create_payment_intent', %(id)s::text, '{}', 'answered', 'answered', %(at)s)
"""
_REFUND = """insert into payments.refunds
  (refund_id, payment_id, amount, currency, status, processor_reference, updated_at)
  values (%(id)s, %(id)s, 1, 'EUR', '{}', %(id)s::text, {})"""
_DISPUTE = """insert into payments.disputes
  (dispute_id, payment_id, processor_reference, amount, currency, status, opened_at, closed_at, updated_at)
  values (%(id)s, %(id)s, %(id)s::text, 1, 'EUR', '{}', '-infinity', {}, {})"""
_CHANGES: dict[str, str] = {
    "young": "update payments.payments set updated_at = now() - interval '89 days' where payment_id = %(id)s",
    "open": """update payments.payments set status = 'VOIDING', amount_captured = 0 where payment_id = %(id)s""",
    "in conflict": "update payments.payments set status = 'CONFLICTED' where payment_id = %(id)s",
    "told of lately": "update payments.outbox set occurred_at = now() where aggregate_id = %(id)s and sequence = 2",
    "unweighed": "update payments.inbox set processed_at = null, outcome = null where payment_id = %(id)s",
    "heard of lately": "update payments.inbox set processed_at = now() where payment_id = %(id)s",
    "watched": "insert into payments.watches values (%(id)s, 0, now())",
    "refund requested": _REFUND.format("REQUESTED", "'-infinity'"),
    "refund pending": _REFUND.format("PENDING", "'-infinity'"),
    "refunded lately": _REFUND.format("PROCESSED", "now()"),
    "disputed": _DISPUTE.format("needs_response", "null", "'-infinity'"),
    "dispute ended lately": _DISPUTE.format("won", "now()", "'-infinity'"),
    "dispute told of lately": _DISPUTE.format("won", "'-infinity'", "now()"),
    "unanswered": "update payments.stripe_requests set state = 'parked', answered_at = null where payment_id = %(id)s",
    "dead letter": "update payments.dead_letters set resolved_at = null where payment_id = %(id)s",
    "letter settled lately": "update payments.dead_letters set resolved_at = now() where payment_id = %(id)s",
    "off": """insert into payments.audit_findings (kind, subject, payment_id, finding)
        values ('x', %(id)s::text, %(id)s, 'x')""",
}
_LEFT = """select p.payment_id, (select count(*) from payments.outbox where aggregate_id = p.payment_id),
  (select count(*) from payments.inbox i where i.payment_id = p.payment_id),
  (select count(*) from payments.dead_letters d where d.payment_id = p.payment_id) from payments.payments p"""

Connection = psycopg.Connection[Any]


def old_payment(conn: Connection, kind: str) -> UUID:
    payment_id = uuid4()
    values = {"id": payment_id}
    conn.execute("set session_replication_role = replica")
    days = random.Random(payment_id.int).randint(DAYS + 1, 2_000)
    conn.execute(_OLD.replace("%(at)s", f"now() - interval '{days} days'"), values)
    if kind in _CHANGES:
        conn.execute(_CHANGES[kind], values)
    conn.execute("set session_replication_role = origin")
    return payment_id


def dispatch(conn: Connection) -> None:
    for (lane,) in conn.execute("select queue_name from payments.lanes").fetchall():
        while conn.execute("select payments.dispatch(%s, 1000)", (lane,)).fetchone() != (0,):
            pass


def forget(conn: Connection, rows_max: int = 7) -> None:
    """As the worker does, in small batches, a lap and all the rest."""
    while conn.execute("select payments.forget_payments(%s, %s)", (DAYS, rows_max)).fetchone() == (rows_max,):
        pass
    for what in ("forget_foreign", "forget_batches"):
        while conn.execute(f"select payments.{what}(%s, %s)", (DAYS, rows_max)).fetchone() == (rows_max,):
            pass


def left(conn: Connection) -> dict[UUID, tuple[int, int, int]]:
    return {row[0]: (row[1], row[2], row[3]) for row in conn.execute(_LEFT)}


@pytest.mark.parametrize("seed", range(3))
def test_57_only_what_is_old_and_done_with_is_forgotten(database: Database, seed: int) -> None:
    shuffled = random.Random(seed)
    kinds = [*KINDS, *shuffled.choices(KINDS, k=25), *["sound"] * 5]
    shuffled.shuffle(kinds)
    with database.connect() as conn, database.connect("payments_worker") as worker:
        chosen = {old_payment(conn, kind): kind for kind in kinds if kind != "not dispatched"}
        dispatch(conn)
        chosen |= {old_payment(conn, kind): kind for kind in kinds if kind == "not dispatched"}
        before = left(conn)
        counts = [conn.execute(f"select count(*) from payments.{table}").fetchone() for table in KEPT]
        forget(worker, shuffled.randint(1, 60))
        after = left(conn)
        gone = {payment_id for payment_id in before if after[payment_id] == (0, 0, 0)}
        assert gone == {payment_id for payment_id, kind in chosen.items() if kind in GOES}
        assert all(after[payment_id] == before[payment_id] for payment_id in set(before) - gone)
        assert counts == [conn.execute(f"select count(*) from payments.{table}").fetchone() for table in KEPT]
        dispatch(conn)
        forget(worker)
        late = {payment_id for payment_id, kind in chosen.items() if kind == "not dispatched"}
        assert {payment_id for payment_id, rows in left(conn).items() if rows == (0, 0, 0)} == gone | late
        off = conn.execute("select payment_id, kind from payments.audit_imbalances").fetchall()
        assert [row for row in off if row[0] in gone | late] == []


PAUSE = """
create function public.pause() returns trigger language plpgsql as
$$ begin perform pg_advisory_xact_lock(57); return new; end $$;
create trigger pause before insert on payments.forgotten for each row execute function public.pause();
"""
MEANWHILE = """
with i as (
  insert into payments.inbox (source, message_id, message_type, payment_id, payload)
  values ('stripe-webhook', 'evt_late', 'charge.dispute.created', %(id)s, '{}')
)
insert into payments.dead_letters (origin, message_id, payment_id, payload, attempts, error)
values ('queue:x', 'late', %(id)s, '{}', 1, 'x')
"""


def test_57_what_stripe_tells_while_its_payment_is_forgotten_stays(database: Database) -> None:
    """It was promised by a 200, and nobody has weighed it: a dispute, months later."""
    with database.connect() as conn, database.connect("payments_worker") as worker, ThreadPoolExecutor(1) as threads:
        payment_id = old_payment(conn, "sound")
        dispatch(conn)
        conn.execute(PAUSE)
        conn.execute("select pg_advisory_lock(57)")
        forgetting = threads.submit(forget, worker)
        wait_until(lambda: conn.execute("select from pg_stat_activity where wait_event = 'advisory'").fetchall())
        conn.execute(MEANWHILE, {"id": payment_id})
        conn.execute("select pg_advisory_unlock(57)")
        forgetting.result()
        assert left(conn)[payment_id] == (0, 1, 1)
        assert conn.execute("select message_id from payments.inbox").fetchall() == [("evt_late",)]


LOCK = "select from payments.payments where payment_id = %s for no key update nowait"


def test_a_payment_that_somebody_is_changing_is_not_forgotten(database: Database) -> None:
    """A refund asked for after years: its event is committed behind the look at what there is to keep."""
    with database.connect() as conn, database.connect("payments_worker") as worker:
        payment_id = old_payment(conn, "sound")
        dispatch(conn)
        with database.connect(autocommit=False) as wishing:
            wishing.execute(LOCK, (payment_id,))
            worker.execute("set lock_timeout = '1ms'")
            forget(worker)
            insert_event(wishing, payment_id, "refund-requested", 3)
            wishing.commit()
        assert left(conn)[payment_id] == (3, 2, 1)


def test_nobody_changes_a_payment_while_it_is_forgotten(database: Database) -> None:
    """An event of that moment would go with the old ones, and no lane was ever sent it."""
    with database.connect() as conn, database.connect("payments_worker", autocommit=False) as worker:
        payment_id = old_payment(conn, "sound")
        dispatch(conn)
        worker.execute("select payments.forget_payments(%s, 1)", (DAYS,))
        with pytest.raises(psycopg.errors.LockNotAvailable):
            conn.execute(LOCK, (payment_id,))


def test_57_a_lane_that_has_all_before_it_keeps_all(database: Database) -> None:
    with database.connect() as conn, database.connect("payments_worker") as worker:
        payment_id = old_payment(conn, "sound")
        dispatch(conn)
        conn.execute("select payments.create_lane('fraud', 'x', '{payment.succeeded}', true)")
        forget(worker)
        assert left(conn)[payment_id] == (2, 2, 1)
        dispatch(conn)
        forget(worker)
        assert left(conn)[payment_id] == (0, 0, 0)
        assert conn.execute("select count(*) from pgmq.q_fraud").fetchone() == (1,)


def test_57_dispatches_are_forgotten_but_for_how_far_each_lane_has_come(database: Database) -> None:
    with database.connect() as conn, database.connect("payments_worker") as worker:
        for _ in range(3):
            insert_payment(conn)
            dispatch(conn)
        heads = conn.execute("select queue_name, max(batch_id) from payments.relay_batches group by 1").fetchall()
        conn.execute("update payments.relay_batches set dispatched_at = now() - interval '91 days'")
        forget(worker)
        kept = conn.execute("select queue_name, batch_id from payments.relay_batches").fetchall()
        assert sorted(kept) == sorted(heads)
        insert_payment(conn)
        dispatch(conn)
        row = conn.execute("select count(*), count(distinct message ->> 'paymentId') from pgmq.q_payment_requested")
        assert row.fetchone() == (4, 4)
        assert conn.execute("select bool_and(dispatched) from payments.outbox_status").fetchone() == (True,)


def test_57_nobody_waits_for_it(database: Database) -> None:
    """In the middle of a batch: payments are made, told of and heard of, and only rows are locked."""
    with (
        database.connect() as conn,
        database.connect("payments_worker", autocommit=False) as worker,
    ):
        for _ in range(5):
            old_payment(conn, "sound")
        dispatch(conn)
        worker.execute("select payments.forget_payments(%s, 100)", (DAYS,))
        for what in ("forget_foreign", "forget_batches", "forget_keys"):
            worker.execute(f"select payments.{what}(%s, 100)", (DAYS,))
        locks = conn.execute(
            "select distinct mode from pg_locks where pid = %s and locktype = 'relation'", (worker.info.backend_pid,)
        ).fetchall()
        assert {mode for (mode,) in locks} <= {"AccessShareLock", "RowShareLock", "RowExclusiveLock"}
        conn.execute("set lock_timeout = '1ms'")
        insert_payment(conn)
        conn.execute(
            "insert into payments.inbox (source, message_id, message_type, payload)"
            " values ('stripe-webhook', 'x', 'x', '{}')"
        )
        dispatch(conn)
        worker.commit()
        assert sorted(left(conn).values()) == [(0, 0, 0)] * 5 + [(1, 0, 0)]


def test_57_what_was_about_nobody_is_forgotten_once_it_is_old_and_weighed(database: Database) -> None:
    rows: dict[str, tuple[str, str | None, str | None, UUID | None]] = {
        "foreign": ("100 days", "100 days", "foreign", None),
        "quarantined": ("100 days", "100 days", "quarantined", None),
        "dead": ("100 days", "100 days", "dead", None),
        "unweighed": ("100 days", None, None, None),
        "weighed lately": ("100 days", "89 days", "foreign", None),
    }
    with database.connect() as conn, database.connect("payments_worker") as worker:
        rows["of a payment"] = ("100 days", "100 days", "ignored", insert_payment(conn))
        for name, (received, processed, outcome, payment_id) in rows.items():
            conn.execute(
                "insert into payments.inbox"
                " (source, message_id, message_type, payment_id, payload, received_at, processed_at, outcome)"
                " values ('stripe-webhook', %s, 'x', %s, '{}', now() - %s::interval, now() - %s::interval, %s)",
                (name, payment_id, received, processed, outcome),
            )
        forget(worker)
        kept = {row[0] for row in conn.execute("select message_id from payments.inbox")}
    assert kept == set(rows) - {"foreign", "quarantined"}


@pytest.mark.parametrize("event_type", ["payment-succeeded", "payment-failed", "payment-voided", "payment-expired"])
def test_57_an_end_that_is_forgotten_is_not_told_again(database: Database, event_type: str) -> None:
    with database.connect() as conn, database.connect("payments_worker") as worker:
        payment_id = old_payment(conn, "sound")
        dispatch(conn)
        forget(worker)
        with pytest.raises(psycopg.errors.UniqueViolation, match="long ago"):
            insert_event(conn, payment_id, event_type, 3)


@pytest.mark.parametrize("days", [34, 6])
def test_57_what_could_come_again_is_never_forgotten(database: Database, days: int) -> None:
    calls = ["payments", "foreign", "batches"] if days == 34 else ["keys"]
    with database.connect("payments_worker") as worker:
        for what in calls:
            with pytest.raises(psycopg.errors.RaiseException):
                worker.execute(f"select payments.forget_{what}(%s, 1)", (days,))


@pytest.fixture(scope="module")
def system() -> Iterator[System]:
    with payments_up() as running:
        yield running


def test_57_a_redrive_after_retention_has_no_second_effect(world: World) -> None:
    key, cart = str(uuid4()), str(uuid4())
    payment = world.authorize(key=key, cartId=cart).json()
    payment_id = payment["paymentId"]
    intent = world.stripe.intent(payment_id)
    refund = world.act(payment_id, "refunds", {"amount": 500}).json()
    world.refund_until(refund["refundId"], "PROCESSED")
    heard = world.heard(payment_id, "payment_intent.succeeded")
    world.agree()
    an_age = "now() - interval '100 days'"
    with world.system.connect() as conn:
        conn.execute("set session_replication_role = replica")
        conn.execute(f"update payments.payments set updated_at = {an_age} where payment_id = %s", (payment_id,))
        conn.execute(f"update payments.refunds set updated_at = {an_age} where payment_id = %s", (payment_id,))
        conn.execute(f"update payments.outbox set occurred_at = {an_age} where aggregate_id = %s", (payment_id,))
        conn.execute(f"update payments.inbox set received_at = {an_age}, processed_at = {an_age}")
        conn.execute(f"update payments.idempotency_keys set created_at = {an_age}")
        forget(conn)
        conn.execute("select payments.forget_keys(90, 100)")
        assert left(conn)[UUID(payment_id)] == (0, 0, 0)
        assert conn.execute("select from payments.idempotency_keys").fetchall() == []
    before = world.payment(payment_id)
    world.stripe.redeliver(heard["id"], 2)
    news = heard["data"]["object"] | {"id": intent["id"]}
    body = event("payment_intent.succeeded", news, "evt_said_anew")
    assert world.deliver(body, signed(body, *world.webhook_secrets)).status_code == 200
    for message_id in (heard["id"], "evt_said_anew"):
        assert world.weighed(message_id)["outcome"] in {"ignored", "superseded"}  # for Stripe was asked once more
    again = world.authorize(key=key, cartId=cart)
    assert again.json()["paymentId"] == payment_id
    assert world.payment(payment_id) == before
    assert (before["status"], before["amountCaptured"], before["amountRefunded"]) == ("SUCCEEDED", AMOUNT, 500)
    assert world.events(payment_id) == []
    wait_until(lambda: world.system.rows("select * from payments.audit_imbalances") == [])
    with world.system.connect() as conn, pytest.raises(psycopg.errors.UniqueViolation, match="long ago"):
        conn.execute(
            "insert into payments.outbox (event_id, event_type, aggregate_id, sequence, payload, headers)"
            " values (gen_random_uuid(), 'payment-succeeded', %s, 5, '{}', '{}')",
            (payment_id,),
        )
    # The next event of the payment goes on where its numbers stood.
    refund = world.act(payment_id, "refunds", {"amount": 100}).json()
    world.refund_until(refund["refundId"], "PROCESSED")
    assert world.events(payment_id) == ["refund-requested", "refund-processed"]
    wait_until(lambda: world.system.rows("select * from payments.audit_imbalances") == [])
