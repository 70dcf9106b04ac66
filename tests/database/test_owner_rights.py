"""No role of the service borrows the owner's rights, or climbs in any other way."""

from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from psycopg import sql

from tests.database.rows import insert_payment, insert_refund, settle
from tests.development.databases import Database

pytestmark = pytest.mark.every_postgres
CHECK = psycopg.errors.CheckViolation
DENIED = psycopg.errors.InsufficientPrivilege
SERVICE = ["payments_api", "payments_relay", "payments_worker", "payments_readonly"]
QUEUES = {"payment_requested", "refund_requested", "capture_requested", "void_requested", "ordering"}


@pytest.fixture(scope="module")
def admin(module_database: Database) -> Iterator[psycopg.Connection[Any]]:
    with module_database.connect() as conn:
        yield conn


@pytest.fixture(scope="module")
def api(module_database: Database) -> Iterator[psycopg.Connection[Any]]:
    with module_database.connect("payments_api") as conn:
        yield conn


def test_only_known_functions_run_with_their_owners_rights(admin: psycopg.Connection[Any]) -> None:
    """Each such function pins its search_path with pg_temp last, and PUBLIC may execute nothing in the schema."""
    rows = admin.execute(
        """
        select p.proname, p.proconfig from pg_proc p
        where p.pronamespace in ('payments'::regnamespace, 'pgmq'::regnamespace) and p.prosecdef order by 1
        """
    ).fetchall()
    assert [name for name, _ in rows] == [
        "count_refund",
        "forget_batches",
        "forget_foreign",
        "forget_keys",
        "forget_payments",
        "queue_lengths",
        "refuse_again",
        "watch_payment",
        "weigh_again",
    ]
    for name, settings in rows:
        assert "search_path=pg_catalog, pg_temp" in settings, name
    public = admin.execute(
        """
        select p.oid::regprocedure::text from pg_proc p, aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) a
        where p.pronamespace = 'payments'::regnamespace and a.grantee = 0
        """
    ).fetchall()
    assert public == []


@pytest.mark.parametrize("role", SERVICE)
def test_a_type_of_ones_own_never_runs_with_the_owners_rights(module_database: Database, role: str) -> None:
    """CVE-2007-2138: pg_temp comes first unless it is named; a domain called `text` there runs code in its CHECK."""
    with module_database.connect(role) as conn:
        conn.execute(
            """
            create function pg_temp.seize(value pg_catalog.text) returns boolean language plpgsql as $$
            begin
              if current_user = 'payments_owner' then
                raise exception 'seized the rights of %', current_user;
              end if;
              return true;
            end $$
            """
        )
        for name in ("text", "int8", "record", "payments", "lanes"):
            conn.execute(f"create domain pg_temp.{name} as pg_catalog.text check (pg_temp.seize(value))")
        conn.execute(
            "create function pg_temp.format(variadic pg_catalog.text[]) returns pg_catalog.text return 'select 1'"
        )
        conn.execute("set search_path = pg_temp, pg_catalog, payments, pgmq")
        assert len(conn.execute("select * from payments.queue_lengths()").fetchall()) == len(QUEUES)


@pytest.mark.parametrize("role", SERVICE)
def test_tables_of_ones_own_never_stand_in_for_the_books(
    module_database: Database, admin: psycopg.Connection[Any], role: str
) -> None:
    payment_id = insert_payment(admin)
    settle(admin, payment_id, "SUCCEEDED")
    with module_database.connect(role) as conn:
        conn.execute("create temp table payments (like payments.payments)" if role == "payments_worker" else "select")
        conn.execute("create temp table refunds (amount int)")
        conn.execute("create temp table lanes (queue_name text)")
        conn.execute("insert into lanes values ('forged')")
        conn.execute("set search_path = pg_temp, payments, pgmq, pg_catalog")
        assert {row[0] for row in conn.execute("select queue_name from payments.queue_lengths()")} == QUEUES
        if role in ("payments_api", "payments_worker"):
            with pytest.raises(CHECK, match="payments_reserved_within_captured"):
                insert_refund(conn, payment_id, 1001)


@pytest.mark.parametrize("role", SERVICE)
@pytest.mark.parametrize(
    "statement",
    [
        "set role payments_owner",
        "set session authorization payments_owner",
        "set session_replication_role = replica",
        "create schema mine",
        "create function payments.mine() returns int language sql return 1",
        "create table pgmq.q_mine (a int)",
        "create function pgmq.mine() returns int language sql return 1",
        "create table public.mine (a int)",
        "alter function payments.guard_payment() owner to current_user",
        "create role mine",
        "alter role payments_owner login",
        "alter default privileges for role payments_owner grant all on tables to public",
        "grant payments_owner to current_user",
        "create trigger mine before insert on payments.payments execute function payments.guard_payment()",
        "alter database {database} set search_path = pg_temp",
        "comment on table payments.payments is 'x'",
        "copy payments.payments to '/dev/null'",
        "copy (select 1) to program 'true'",
        "alter system set fsync = off",
        "select pg_read_file('PG_VERSION')",
        "select payments.create_lane('mine', 'x', '{#}', true)",
        "select setval('payments.outbox_outbox_id_seq', 1)",
        "select nextval('payments.outbox_outbox_id_seq')",
    ],
)
def test_no_role_climbs(module_database: Database, role: str, statement: str) -> None:
    with module_database.connect(role) as conn, pytest.raises((DENIED, psycopg.errors.InvalidGrantOperation)):
        conn.execute(statement.replace("{database}", module_database.name))


@pytest.mark.parametrize("role", SERVICE)
def test_views_are_for_reading(module_database: Database, role: str) -> None:
    with module_database.connect() as admin, module_database.connect(role) as conn:
        for (view,) in admin.execute("select viewname from pg_views where schemaname = 'payments'").fetchall():
            with pytest.raises(
                (DENIED, psycopg.errors.ObjectNotInPrerequisiteState, psycopg.errors.FeatureNotSupported)
            ):
                conn.execute(sql.SQL("delete from {}").format(sql.Identifier("payments", view)))


@pytest.mark.parametrize(
    ("customer", "method"),
    [("4242424242424242", "pm_card_visa"), ("cus_1", "4242424242424242"), ("", "pm_1"), ("cus_1", "")],
)
def test_a_saved_payment_method_is_a_token_of_stripes(api: psycopg.Connection[Any], customer: str, method: str) -> None:
    statement = "insert into payments.customers (customer_id, processor_customer, payment_method) values (%s, %s, %s)"
    with pytest.raises(CHECK):
        api.execute(statement, (uuid4(), customer, method))
    customer_id = uuid4()
    api.execute(statement, (customer_id, "cus_1", "pm_1"))
    for column in ("customer_id = gen_random_uuid()", "created_at = now()"):
        with pytest.raises(DENIED):
            api.execute(f"update payments.customers set {column} where customer_id = %s", (customer_id,))


def test_only_the_worker_watches(module_database: Database, admin: psycopg.Connection[Any]) -> None:
    payment_id = insert_payment(admin)
    for role in ("payments_api", "payments_relay", "payments_readonly"):
        with module_database.connect(role) as conn, pytest.raises(DENIED):
            conn.execute("insert into payments.watches (payment_id, next_look_at) values (%s, now())", (payment_id,))


def test_the_owner_cannot_log_in(admin: psycopg.Connection[Any]) -> None:
    """Whoever could would pass every guard."""
    row = admin.execute("select rolcanlogin, rolsuper from pg_roles where rolname = 'payments_owner'").fetchone()
    assert row == (False, False)
