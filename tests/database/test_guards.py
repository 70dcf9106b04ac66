"""What PostgreSQL itself refuses, whoever asks: as the service's own roles, by hand."""

import itertools
from uuid import uuid4

import psycopg
import pytest

from payments.domain.states import PaymentStatus, may_change
from tests.database.rows import insert_event, insert_payment
from tests.development.databases import Database

pytestmark = pytest.mark.every_postgres
CHECK = psycopg.errors.CheckViolation
DENIED = psycopg.errors.InsufficientPrivilege

# What a state needs beside its name so that no other constraint speaks first.
COLUMNS = {
    PaymentStatus.FAILED: "failure_reason = 'CARD_DECLINED'",
    PaymentStatus.ACTION_REQUIRED: "next_action = '{}'",
    PaymentStatus.SUCCEEDED: "amount_authorized = amount, amount_captured = amount",
    PaymentStatus.AUTHORIZED: "amount_authorized = amount",
    PaymentStatus.CAPTURING: "amount_authorized = amount",
}


def put(conn: psycopg.Connection[object], payment_id: object, status: PaymentStatus) -> None:
    """Set a payment's state with the columns that belong to it, and nothing else."""
    blank = "failure_reason = null, next_action = null, amount_authorized = 0, amount_captured = 0"
    columns = ", ".join(part for part in blank.split(", ") if part.split(" =")[0] not in COLUMNS.get(status, ""))
    wanted = ", ".join(filter(None, [columns, COLUMNS.get(status)]))
    conn.execute(f"update payments.payments set status = '{status}', {wanted} where payment_id = '{payment_id}'")


def ask_to_capture(database: Database, payment_id: object) -> None:
    """What the API does: the one way to CAPTURING."""
    with database.connect("payments_api") as api:
        api.execute(
            """
            update payments.payments
            set status = 'CAPTURING', capture_id = gen_random_uuid(), amount_to_capture = amount_authorized
            where payment_id = %s
            """,
            (payment_id,),
        )


@pytest.mark.parametrize(("old", "new"), list(itertools.permutations(PaymentStatus, 2)))
def test_only_the_legal_transitions_pass(module_database: Database, old: PaymentStatus, new: PaymentStatus) -> None:
    with module_database.connect() as admin, module_database.connect("payments_worker") as worker:
        payment_id = insert_payment(admin)
        if old is not PaymentStatus.REQUESTED:
            admin.execute("update payments.payments set capture_id = gen_random_uuid(), amount_to_capture = amount")
            admin.execute("alter table payments.payments disable trigger guard_payment")
            put(admin, payment_id, old)
            admin.execute("alter table payments.payments enable trigger guard_payment")
        if may_change(old, new) and not (old is PaymentStatus.SUCCEEDED and new is PaymentStatus.CONFLICTED):
            if new is PaymentStatus.CAPTURING:
                ask_to_capture(module_database, payment_id)
            else:
                put(worker, payment_id, new)
            row = admin.execute("select status from payments.payments where payment_id = %s", (payment_id,)).fetchone()
            assert row == (new.value,)
        elif new is not PaymentStatus.CONFLICTED:
            with pytest.raises(CHECK, match=f"cannot go from {old} to {new}"):
                put(worker, payment_id, new)


@pytest.mark.parametrize(
    "change",
    [
        "amount_captured = amount + 1",
        "amount_authorized = amount + 1",
        "amount_captured = 1",
        "amount_authorized = -1",
    ],
)
def test_money_beyond_what_was_asked_for_is_refused(database: Database, change: str) -> None:
    with database.connect() as admin, database.connect("payments_worker") as worker:
        payment_id = insert_payment(admin)
        with pytest.raises(CHECK):
            worker.execute(f"update payments.payments set {change} where payment_id = %s", (payment_id,))


def test_refunds_never_pass_what_was_captured(database: Database) -> None:
    statement = """
        insert into payments.refunds (refund_id, payment_id, amount, currency, status)
        values (%s, %s, %s, 'EUR', 'REQUESTED')
        """
    with database.connect() as admin:
        payment_id = insert_payment(admin, amount=1000)
        with pytest.raises(CHECK, match="payments_reserved_within_captured"):
            admin.execute(statement, (uuid4(), payment_id, 1))
        put(admin, payment_id, PaymentStatus.SUCCEEDED)
        admin.execute(statement, (uuid4(), payment_id, 600))
        with pytest.raises(CHECK, match="payments_reserved_within_captured"):
            admin.execute(statement, (uuid4(), payment_id, 401))
        admin.execute(statement, (uuid4(), payment_id, 400))


@pytest.mark.parametrize(
    "column",
    [
        "amount = 1",
        "currency = 'USD'",
        "cart_id = '00000000-0000-7000-8000-000000000000'",
        "created_at = now() + '1 s'",
    ],
)
def test_what_was_asked_for_never_changes_even_for_the_owner(database: Database, column: str) -> None:
    with database.connect() as admin:
        payment_id = insert_payment(admin)
        with pytest.raises(CHECK, match="never changes"):
            admin.execute(f"update payments.payments set {column} where payment_id = %s", (payment_id,))


@pytest.mark.parametrize("role", ["payments_api", "payments_relay", "payments_worker", "payments_readonly"])
@pytest.mark.parametrize(
    "statement",
    [
        "update payments.outbox set payload = '{}'",
        "delete from payments.outbox",
        "truncate payments.outbox cascade",
        "update payments.payment_history set why = ''",
        "delete from payments.payment_history",
        "update payments.relay_batches set row_count = 0",
        "delete from payments.relay_batches",
        "delete from payments.payments",
        "delete from payments.inbox",
        "update payments.inbox set payload = '{}'",
        "delete from payments.stripe_requests",
        "update payments.api_keys set scopes = '{operator}'",
        "insert into payments.api_keys (key_id, client_id, key_hash, scopes) values (gen_random_uuid(), 'x', '', '{}')",
        "alter table payments.payments disable trigger guard_payment",
        "drop table payments.outbox cascade",
        "create table payments.mine (a int)",
        "update payments.payments set amount = 1",
        "update payments.payments set version = 1",
        "update payments.payments set amount_refunded = 1",
        "update payments.payments set amount_reserved = 0",
        "insert into payments.outbox (xid) values ('3')",
        "select payments.create_lane('mine', 'x', '{#}', true)",
    ],
)
def test_no_role_of_the_service_may_rewrite_the_books(module_database: Database, role: str, statement: str) -> None:
    with module_database.connect(role) as conn, pytest.raises(DENIED):
        conn.execute(statement)


@pytest.mark.parametrize(
    ("role", "statement"),
    [
        ("payments_relay", "select payload from payments.inbox"),
        ("payments_relay", "select * from payments.payments"),
        ("payments_relay", "select message from pgmq.q_ordering"),
        ("payments_api", "select * from payments.stripe_requests"),
        ("payments_api", "insert into pgmq.q_ordering (vt, message) values (now(), '{}')"),
        ("payments_worker", "select * from payments.api_keys"),
        ("payments_worker", "select payments.dispatch('ordering', 1)"),
        ("payments_worker", "insert into pgmq.q_ordering (vt, message) values (now(), '{}')"),
        ("payments_readonly", "select key_hash from payments.api_keys"),
        ("payments_readonly", "update payments.payments set status = 'FAILED'"),
        (
            "payments_readonly",
            "insert into payments.dead_letters (origin, message_id) values ('inbox', '1')",
        ),
    ],
)
def test_a_role_may_do_what_it_must_and_no_more(module_database: Database, role: str, statement: str) -> None:
    with module_database.connect(role) as conn, pytest.raises(DENIED):
        conn.execute(statement)


@pytest.mark.parametrize(
    "event_type", ["payment-requested", "payment-succeeded", "payment-failed", "payment-voided", "payment-expired"]
)
def test_what_happens_once_is_published_once(module_database: Database, event_type: str) -> None:
    with module_database.connect() as admin:
        payment_id = insert_payment(admin)
        insert_event(admin, payment_id, "dispute-opened", 2)
        if event_type != "payment-requested":  # every payment has that
            insert_event(admin, payment_id, event_type, 3)
        with pytest.raises(psycopg.errors.UniqueViolation, match="outbox_once_in_a_life"):
            insert_event(admin, payment_id, event_type, 4)
        with pytest.raises(psycopg.errors.UniqueViolation, match="sequence"):
            insert_event(admin, payment_id, "dispute-closed", 2)


def test_two_payments_never_name_the_same_payment_intent(database: Database) -> None:
    """Both would count its money, and an event of it might move either."""
    name_it = "update payments.payments set processor_payment_intent = 'pi_1' where payment_id = %s"
    with database.connect() as admin, database.connect("payments_worker") as worker:
        worker.execute(name_it, (insert_payment(admin),))
        with pytest.raises(psycopg.errors.UniqueViolation, match="processor_payment_intent"):
            worker.execute(name_it, (insert_payment(admin),))


def test_only_an_operator_leaves_conflicted(database: Database) -> None:
    with database.connect() as admin, database.connect("payments_worker") as worker:
        payment_id = insert_payment(admin)
        put(worker, payment_id, PaymentStatus.CONFLICTED)
        with pytest.raises(CHECK, match="cannot go from CONFLICTED"):
            put(worker, payment_id, PaymentStatus.SUCCEEDED)
        put(admin, payment_id, PaymentStatus.SUCCEEDED)


def test_two_batches_never_follow_the_same_one(database: Database) -> None:
    with database.connect() as admin, database.connect("payments_relay") as relay:
        insert_payment(admin)
        assert relay.execute("select payments.dispatch('payment_requested', 10)").fetchone() == (1,)
        with pytest.raises(psycopg.errors.UniqueViolation):
            relay.execute(
                """
                insert into payments.relay_batches (queue_name, previous_batch_id, after_snapshot, upto_snapshot,
                  window_floor_id, window_ceiling_id, last_outbox_id, row_count, window_done)
                select queue_name, previous_batch_id, after_snapshot, upto_snapshot, window_floor_id, window_ceiling_id,
                  last_outbox_id, row_count, window_done from payments.relay_batches where previous_batch_id is not null
                """
            )
