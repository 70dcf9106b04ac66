"""What each of the service's roles cannot do by hand: speak for Stripe, reach the queues, borrow the owner's rights."""

import secrets
from collections.abc import Iterator
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from psycopg import sql

from payments.database.migrate import set_role_passwords
from tests.database.listening import listen_to_statements
from tests.database.rows import insert_payment, settle
from tests.development.databases import Database

pytestmark = pytest.mark.every_postgres
CHECK = psycopg.errors.CheckViolation
DENIED = psycopg.errors.InsufficientPrivilege
SERVICE = ["payments_api", "payments_relay", "payments_worker", "payments_readonly"]


@pytest.fixture(scope="module")
def admin(module_database: Database) -> Iterator[psycopg.Connection[Any]]:
    with module_database.connect() as conn:
        yield conn


@pytest.fixture(scope="module")
def api(module_database: Database) -> Iterator[psycopg.Connection[Any]]:
    with module_database.connect("payments_api") as conn:
        yield conn


@pytest.fixture(scope="module")
def worker(module_database: Database) -> Iterator[psycopg.Connection[Any]]:
    with module_database.connect("payments_worker") as conn:
        yield conn


@pytest.fixture(scope="module")
def owner(module_database: Database) -> Iterator[psycopg.Connection[Any]]:
    """Not the superuser: what the schema's owner is refused, nobody else may do."""
    with module_database.connect() as conn:
        conn.execute("set role payments_owner")
        yield conn


def publish(conn: psycopg.Connection[Any], payment_id: UUID, event_type: str, sequence: int) -> None:
    conn.execute(
        """
        insert into payments.outbox (event_id, event_type, aggregate_id, sequence, payload, headers)
        values (%s, %s, %s, %s, '{}', '{}')
        """,
        (uuid4(), event_type, payment_id, sequence),
    )


@pytest.mark.parametrize(
    "event_type",
    [
        "payment-authorized",
        "payment-succeeded",
        "payment-failed",
        "payment-voided",
        "payment-expired",
        "payment-action-required",
        "refund-processed",
        "refund-failed",
        "dispute-opened",
        "dispute-closed",
    ],
)
def test_the_api_publishes_wishes_never_outcomes(
    admin: psycopg.Connection[Any], api: psycopg.Connection[Any], event_type: str
) -> None:
    payment_id = insert_payment(admin)
    with pytest.raises(CHECK, match="publishes wishes"):
        publish(api, payment_id, event_type, 2)


@pytest.mark.parametrize("role", ["payments_api", "payments_worker"])
@pytest.mark.parametrize("sequence", [2, 3])
def test_an_event_without_its_number_never_commits(
    module_database: Database, admin: psycopg.Connection[Any], role: str, sequence: int
) -> None:
    """A number above last_sequence would stand in the way of the next event for ever."""
    payment_id = insert_payment(admin)
    with module_database.connect(role) as conn, pytest.raises(CHECK, match="without gap"):
        publish(conn, payment_id, "refund-requested", sequence)
    assert admin.execute("select count(*) from payments.outbox where aggregate_id = %s", (payment_id,)).fetchone() == (
        1,
    )


def take_two_and_publish_one(conn: psycopg.Connection[Any], payment_id: UUID) -> None:
    with conn.transaction():
        conn.execute(
            "update payments.payments set last_sequence = last_sequence + 2 where payment_id = %s", (payment_id,)
        )
        publish(conn, payment_id, "void-requested", 3)


@pytest.mark.parametrize("role", ["payments_api", "payments_worker"])
def test_a_number_without_its_event_never_commits(
    module_database: Database, admin: psycopg.Connection[Any], role: str
) -> None:
    payment_id = insert_payment(admin)
    step = "update payments.payments set last_sequence = last_sequence + %s where payment_id = %s"
    with module_database.connect(role) as conn:
        with pytest.raises(CHECK, match="without gap"):
            conn.execute(step, (1, payment_id))
        with pytest.raises(CHECK, match="without gap"):
            take_two_and_publish_one(conn, payment_id)
        with conn.transaction():
            conn.execute(step, (1, payment_id))
            publish(conn, payment_id, "void-requested", 2)
            publish(conn, payment_id, "void-requested", 3)
            conn.execute(step, (1, payment_id))
    row = admin.execute("select last_sequence from payments.payments where payment_id = %s", (payment_id,)).fetchone()
    assert row == (3,)


@pytest.mark.parametrize("source", ["stripe-webhook", "stripe-api", "reconciler", "worker", "operator"])
def test_the_api_writes_history_in_its_own_name_only(
    admin: psycopg.Connection[Any], api: psycopg.Connection[Any], source: str
) -> None:
    payment_id = insert_payment(admin)
    with pytest.raises(CHECK, match="in its own name"):
        api.execute(
            """
            insert into payments.payment_history (payment_id, signal, source, from_status, to_status, decision, why)
            values (%s, 'charge.succeeded', %s, 'REQUESTED', 'SUCCEEDED', 'applied', 'trust me')
            """,
            (payment_id, source),
        )


@pytest.mark.parametrize("source", ["stripe-api", "reconciler"])
def test_the_api_brings_webhooks_and_no_other_word_of_stripes(api: psycopg.Connection[Any], source: str) -> None:
    with pytest.raises(CHECK, match="only webhooks"):
        api.execute(
            """
            insert into payments.inbox (source, message_id, message_type, payload)
            values (%s, %s, 'api.create_refund', '{}')
            """,
            (source, str(uuid4())),
        )


@pytest.mark.parametrize(
    ("status", "wanted"),
    [
        ("REQUESTED", "SUCCEEDED"),
        ("REQUESTED", "FAILED"),
        ("REQUESTED", "VOIDED"),
        ("AUTHORIZED", "VOIDED"),
        ("AUTHORIZED", "EXPIRED"),
        ("CAPTURING", "AUTHORIZED"),
        ("VOIDING", "VOIDED"),
        ("ACTION_REQUIRED", "PROCESSING"),
        ("SUCCEEDED", "CONFLICTED"),
        ("CONFLICTED", "VOIDING"),
        ("SUCCEEDED", "VOIDING"),
        ("CAPTURING", "VOIDING"),
        ("FAILED", "VOIDING"),
        ("VOIDED", "CAPTURING"),
    ],
)
def test_the_api_only_asks(
    admin: psycopg.Connection[Any], api: psycopg.Connection[Any], status: str, wanted: str
) -> None:
    payment_id = insert_payment(admin, capture_method="manual")
    settle(admin, payment_id, status)
    with pytest.raises(CHECK):
        api.execute(
            "update payments.payments set status = %s, next_action = null where payment_id = %s", (wanted, payment_id)
        )


def test_the_api_takes_the_next_action_away_and_never_changes_it(
    admin: psycopg.Connection[Any], api: psycopg.Connection[Any]
) -> None:
    payment_id = insert_payment(admin)
    settle(admin, payment_id, "ACTION_REQUIRED")
    with pytest.raises(CHECK, match="the API only asks"):
        api.execute(
            """update payments.payments set next_action = '{"clientSecret": "pi_mine"}' where payment_id = %s""",
            (payment_id,),
        )
    api.execute(
        "update payments.payments set status = 'VOIDING', next_action = null where payment_id = %s", (payment_id,)
    )


def test_a_login_role_that_is_only_a_member_is_bound_as_well(
    module_database: Database, admin: psycopg.Connection[Any]
) -> None:
    """DBAs make a login of its own for each host, a member of the role: the guards ask for rights, not for names."""
    payment_id = insert_payment(admin)
    settle(admin, payment_id, "CONFLICTED")
    other = insert_payment(admin)
    admin.execute("create role payments_api_on_host_2 login in role payments_api")
    with module_database.connect("payments_api_on_host_2") as conn:
        with pytest.raises(CHECK, match="cannot go from CONFLICTED"):
            conn.execute("update payments.payments set status = 'VOIDING' where payment_id = %s", (payment_id,))
        with pytest.raises(CHECK, match="the API only asks"):
            conn.execute("update payments.payments set status = 'PROCESSING' where payment_id = %s", (other,))
        with pytest.raises(CHECK, match="publishes wishes"):
            publish(conn, other, "payment-voided", 2)
    admin.execute("drop role payments_api_on_host_2")


WISH = "capture_id = gen_random_uuid(), amount_to_capture = 900"


@pytest.mark.parametrize("change", [WISH, "amount_to_capture = 1", "order_id = gen_random_uuid()"])
@pytest.mark.parametrize("status", ["REQUESTED", "AUTHORIZED", "CAPTURING", "SUCCEEDED", "VOIDING"])
def test_the_wish_to_capture_stands_once_it_is_made(
    admin: psycopg.Connection[Any], api: psycopg.Connection[Any], status: str, change: str
) -> None:
    """The worker asks Stripe for what stands there, and may have asked already; events name the order."""
    payment_id = insert_payment(admin, capture_method="manual")
    settle(admin, payment_id, status)
    with pytest.raises(CHECK):
        api.execute(f"update payments.payments set {change} where payment_id = %s", (payment_id,))


def test_capturing_begins_with_a_wish_of_its_own(
    admin: psycopg.Connection[Any], api: psycopg.Connection[Any], worker: psycopg.Connection[Any]
) -> None:
    payment_id = insert_payment(admin, capture_method="manual")
    settle(admin, payment_id, "AUTHORIZED")
    worker.execute("update payments.payments set amount_authorized = 800 where payment_id = %s", (payment_id,))
    ask = f"update payments.payments set status = 'CAPTURING', {WISH} where payment_id = %s"
    with pytest.raises(CHECK, match="payments_capturing_has_wish"):
        api.execute(ask, (payment_id,))
    api.execute(ask.replace("900", "800"), (payment_id,))
    worker.execute("update payments.payments set status = 'AUTHORIZED' where payment_id = %s", (payment_id,))
    with pytest.raises(CHECK, match="capture_id"):
        api.execute("update payments.payments set status = 'CAPTURING' where payment_id = %s", (payment_id,))


@pytest.mark.parametrize("amount", [0, 999, 1000])
def test_captured_money_is_counted_once(
    admin: psycopg.Connection[Any], worker: psycopg.Connection[Any], amount: int
) -> None:
    payment_id = insert_payment(admin)
    settle(admin, payment_id, "AUTHORIZED")
    worker.execute(
        "update payments.payments set status = 'SUCCEEDED', amount_captured = 700 where payment_id = %s", (payment_id,)
    )
    with pytest.raises(CHECK, match="captured money"):
        worker.execute("update payments.payments set amount_captured = %s where payment_id = %s", (amount, payment_id))


@pytest.mark.parametrize("change", ["failure_reason = 'EXPIRED_CARD'", "failure_decline_code = 'lost_card'"])
def test_why_a_payment_failed_is_told_once(
    admin: psycopg.Connection[Any], worker: psycopg.Connection[Any], change: str
) -> None:
    payment_id = insert_payment(admin)
    settle(admin, payment_id, "FAILED")
    with pytest.raises(CHECK, match="has ended"):
        worker.execute(f"update payments.payments set {change} where payment_id = %s", (payment_id,))


@pytest.mark.parametrize(
    "column",
    [
        "cart_id = gen_random_uuid()",
        "customer_id = gen_random_uuid()",
        "amount = 1",
        "currency = 'USD'",
        "capture_method = 'manual'",
        "payment_method = 'pm_other'",
        """metadata = '{"a": "b"}'""",
        "client_id = 'other'",
        "created_at = now() + '1 s'",
        "idempotency_key = 'other'",
        "fingerprint = sha256('other'::bytea)",
        "processor_customer = 'cus_other'",
        "payment_id = gen_random_uuid()",
    ],
)
def test_what_was_asked_for_never_changes_even_for_the_owner(owner: psycopg.Connection[Any], column: str) -> None:
    payment_id = insert_payment(owner)
    with pytest.raises(CHECK, match="never changes"):
        owner.execute(f"update payments.payments set {column} where payment_id = %s", (payment_id,))


@pytest.mark.parametrize(
    "change",
    [
        "idempotency_key = 'other'",
        "parameters = '{}'",
        "subject_id = gen_random_uuid()",
        "operation = 'create_refund'",
        "generation = 2",
        "payment_id = gen_random_uuid()",
        "created_at = now()",
    ],
)
def test_what_was_asked_of_stripe_stands_word_by_word(module_database: Database, change: str) -> None:
    with module_database.connect("payments_worker") as worker, pytest.raises(DENIED):
        worker.execute(f"update payments.stripe_requests set {change}")


def test_an_answered_call_stays_answered(admin: psycopg.Connection[Any], worker: psycopg.Connection[Any]) -> None:
    payment_id = insert_payment(admin)
    worker.execute(
        """
        insert into payments.stripe_requests (
          payment_id, subject_id, operation, idempotency_key, parameters, state, outcome, answered_at
        )
        values (%(id)s, %(id)s, 'create_payment_intent', %(id)s::text, '{}', 'answered', 'declined', now())
        """,
        {"id": payment_id},
    )
    for change in ("state = 'intended', answered_at = null", "outcome = 'answered'", "answered_at = now()"):
        with pytest.raises(CHECK, match="has been answered"):
            worker.execute(f"update payments.stripe_requests set {change} where payment_id = %s", (payment_id,))


@pytest.mark.parametrize("table", ["payments", "refunds", "disputes", "payment_history"])
@pytest.mark.parametrize("statement", ["delete from payments.{}", "truncate payments.{} cascade"])
def test_financial_records_are_kept_even_from_their_owner(
    owner: psycopg.Connection[Any], table: str, statement: str
) -> None:
    with pytest.raises(CHECK, match="kept"):
        owner.execute(statement.format(table))


@pytest.mark.parametrize(
    "statement", ["payment_history set why = ''", "outbox set payload = '{}'", "outbox set sequence = 9"]
)
def test_what_was_written_once_is_edited_by_nobody(owner: psycopg.Connection[Any], statement: str) -> None:
    insert_payment(owner)
    with pytest.raises(CHECK, match="append-only"):
        owner.execute(f"update payments.{statement}")


@pytest.mark.parametrize("role", SERVICE)
def test_no_role_deletes_truncates_or_locks_a_table(module_database: Database, role: str) -> None:
    with module_database.connect() as admin, module_database.connect(role) as conn:
        tables = admin.execute("select tablename from pg_tables where schemaname = 'payments'").fetchall()
        assert len(tables) > 15
        for (table,) in tables:
            name = sql.Identifier("payments", table)
            if role != "payments_worker" or table not in {"watches", "audit_findings"}:
                with pytest.raises(DENIED):
                    conn.execute(sql.SQL("delete from {}").format(name))
            with pytest.raises(DENIED):
                conn.execute(sql.SQL("truncate {}").format(name))
            with pytest.raises(DENIED), conn.transaction():
                conn.execute(sql.SQL("alter table {} disable trigger all").format(name))


def test_no_password_of_ours_is_told_to_the_server(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would stand in the server's log, and in pg_stat_activity meanwhile."""
    told = listen_to_statements(monkeypatch)
    password = secrets.token_urlsafe(12)
    set_role_passwords(database.admin_dsn(), {"payments_readonly": password})
    assert [one for one in told if "SCRAM-SHA-256$" in one]
    assert not [one for one in told if password in one]
    dsn = database.server.postgres.dsn("payments_readonly", password, database.name)
    psycopg.connect(dsn).close()
    database.server._role_passwords["payments_readonly"] = password
