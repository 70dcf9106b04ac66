"""`payments consumers` from the outside: what it makes, prints, refuses and leaves behind."""

import json
import re
from collections.abc import Callable, Iterator

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from payments.errors import ConsumerRefused, DatabaseUnreachable, DatabaseUnsuitable, SchemaTooOld
from tests.consumers.driving import add, assert_refused, connect, consumers, reading, start_consumers
from tests.database.listening import listen_to_statements
from tests.development.databases import Database
from tests.relay.outbox_rows import Connection, drain, insert_event, insert_payment

REFUSED = ConsumerRefused.exit_code
EVENTS = "payment.requested,dispute.*"


@pytest.fixture
def admin(database: Database) -> Iterator[Connection]:
    with database.connect() as conn:
        yield conn


def traces(conn: Connection, name: str) -> dict[str, int]:
    """How much of a consumer there is, by kind."""
    row = conn.execute(
        """
        select
          (select count(*) from payments.lanes where queue_name = %(name)s),
          (select count(*) from payments.relay_batches where queue_name = %(name)s),
          (select count(*) from pgmq.meta where queue_name = %(name)s),
          (select count(*) from pgmq.topic_bindings where queue_name = %(name)s),
          (select count(*) from pg_class where relname in ('q_' || %(name)s, 'a_' || %(name)s)),
          (select count(*) from pg_roles where rolname = 'consumer_' || %(name)s)
        """,
        {"name": name},
    ).fetchone()
    assert row is not None
    return dict(zip(("lane", "batches", "meta", "bindings", "tables", "roles"), row, strict=True))


NOTHING = dict.fromkeys(("lane", "batches", "meta", "bindings", "tables", "roles"), 0)


def test_add_prints_a_login_that_reads_the_queue(database: Database, admin: Connection) -> None:
    access = add(database, "fraud", "--events", EVENTS)
    assert (access["queue"], access["role"]) == ("fraud", "consumer_fraud")
    assert access["password"] in access["dsn"]
    payment = insert_payment(admin)
    insert_event(admin, payment, "dispute-opened")
    insert_event(admin, payment, "refund-requested")
    drain(admin, "fraud")
    with reading(access) as queue:
        messages = queue.read("fraud", vt=30, qty=10)
    assert [one.headers["ce-type"] for one in messages] == ["payment-requested", "dispute-opened"]
    assert traces(admin, "fraud") == NOTHING | {
        "lane": 1, "batches": 2, "meta": 1, "bindings": 2, "tables": 2, "roles": 1
    }  # fmt: skip


def test_the_password_is_stored_as_a_verifier_only(database: Database, admin: Connection) -> None:
    access = add(database, "fraud", "--events", "#")
    row = admin.execute("select rolpassword from pg_authid where rolname = %s", (access["role"],)).fetchone()
    assert row is not None
    assert row[0].startswith("SCRAM-SHA-256$")


def test_add_again_is_refused_and_changes_nothing(database: Database, admin: Connection) -> None:
    access = add(database, "fraud", "--events", EVENTS)
    for words in (["--events", EVENTS], ["--events", "#", "--from", "beginning"], []):
        again = consumers(database.admin_dsn(), "add", "fraud", *words)
        assert_refused(again, REFUSED, "exists already", "dispute.*, payment.requested", "consumers password fraud")
    assert traces(admin, "fraud")["bindings"] == 2
    connect(access).close()  # the first password still works


def test_adding_from_several_places_at_once_makes_one(database: Database, admin: Connection) -> None:
    started = [start_consumers(database.admin_dsn(), "add", "fraud", "--events", "#") for _ in range(3)]
    answers = [(*process.communicate(timeout=60), process.returncode) for process in started]
    assert sorted(code for _, _, code in answers) == [0, REFUSED, REFUSED], answers
    assert not any("Traceback" in err for _, err, _ in answers)
    assert traces(admin, "fraud")["roles"] == 1


def test_ordering_gets_a_reading_role_without_events(database: Database, admin: Connection) -> None:
    assert_refused(consumers(database.admin_dsn(), "add", "ordering", "--events", "#"), REFUSED, "exists already")
    assert_refused(consumers(database.admin_dsn(), "add", "ordering", "--from", "beginning"), REFUSED, "exists already")
    access = add(database, "ordering")
    payment = insert_payment(admin)
    insert_event(admin, payment, "payment-succeeded")
    drain(admin, "ordering")
    with reading(access) as queue:
        assert queue.read("ordering").headers["ce-type"] == "payment-succeeded"
    assert_refused(
        consumers(database.admin_dsn(), "remove", "ordering"), REFUSED, "belongs to the service", "--keep-queue"
    )
    gone = consumers(database.admin_dsn(), "remove", "ordering", "--keep-queue")
    assert gone.returncode == 0, gone.stderr
    assert traces(admin, "ordering")["roles"] == 0
    assert traces(admin, "ordering")["lane"] == 1
    assert add(database, "ordering")["password"] != access["password"]


@pytest.mark.parametrize("queue", ["payment_requested", "refund_requested", "capture_requested", "void_requested"])
def test_the_services_own_queues_have_no_consumer(module_database: Database, queue: str) -> None:
    dsn = module_database.admin_dsn()
    for words in (
        ["add", queue],
        ["add", queue, "--events", "#"],
        ["remove", queue],
        ["remove", queue, "--keep-queue"],
    ):
        assert_refused(consumers(dsn, *words), REFUSED, "read by the service itself")
    assert_refused(consumers(dsn, "password", queue), REFUSED, "No role reads")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["add"], "required: name"),
        (["add", "Fraud", "--events", "#"], "must match"),
        (["add", "f" * 48, "--events", "#"], "must match"),
        (["add", "fraud", "--events", "payment.paid"], "there are payment.requested, payment.authorized"),
        (["add", "fraud", "--events", ""], "no event matches"),
        (["add", "fraud", "--events", "#", "--from", "tomorrow"], "with its zone"),
        (["add", "fraud", "--events", "#", "--from", "2026-01-01T00:00:00"], "with its zone"),
        (["remove"], "required: name"),
        ([], "required: add|list|password|remove"),
        (["frobnicate"], "invalid choice"),
    ],
)
def test_wrong_usage_is_said_in_words(words: list[str], told: str) -> None:
    assert_refused(consumers("postgresql://nobody@127.0.0.1:1/none", *words), 2, told)


def test_what_stands_against_a_wish_is_said_in_words(database: Database, admin: Connection) -> None:
    dsn = database.admin_dsn()
    assert_refused(consumers(dsn, "add", "fraud"), REFUSED, "no queue fraud yet", "--events")
    assert_refused(consumers(dsn, "remove", "fraud"), REFUSED, "no consumer fraud")
    assert_refused(consumers(dsn, "password", "fraud"), REFUSED, "No role reads")
    future = consumers(dsn, "add", "fraud", "--events", "#", "--from", "2999-01-01T00:00:00Z")
    assert_refused(future, REFUSED, "lies in the future")
    admin.execute("create role consumer_theirs login")
    assert_refused(consumers(dsn, "add", "theirs", "--events", "#"), REFUSED, "has a role consumer_theirs already")
    admin.execute("select pgmq.create('foreign_queue')")
    taken = consumers(dsn, "add", "foreign_queue", "--events", "#")
    assert_refused(taken, REFUSED, "taken in schema pgmq", "q_foreign_queue")
    # pgmq's CREATE … IF NOT EXISTS would take the index of one queue for the table of another.
    for name in ("ordering_vt_idx", "ordering_msg_id_seq", "ordering_pkey"):
        assert_refused(consumers(dsn, "add", name, "--events", "#"), REFUSED, f"q_{name}")
    assert traces(admin, "fraud") == NOTHING
    assert traces(admin, "foreign_queue")["lane"] == 0


def test_surroundings_that_do_not_serve_are_said_in_words(database: Database, admin: Connection) -> None:
    nowhere = "postgresql://postgres:secret@127.0.0.1:1/payments"
    for words in (["list"], ["add", "fraud", "--events", "#"], ["remove", "fraud"], ["password", "fraud"]):
        assert_refused(consumers(nowhere, *words), DatabaseUnreachable.exit_code, "Check DATABASE_URL")
        bare = consumers(make_conninfo(database.admin_dsn(), dbname="postgres"), *words)
        assert_refused(bare, SchemaTooOld.exit_code, "payments migrate")
    relay = consumers(database.dsn("payments_relay"), "add", "fraud", "--events", "#")
    assert_refused(relay, DatabaseUnsuitable.exit_code, "administrator")
    admin.execute(f"alter database {database.name} set default_transaction_read_only to on")
    assert_refused(
        consumers(database.admin_dsn(), "add", "fraud", "--events", "#"), DatabaseUnsuitable.exit_code, "read"
    )
    assert traces(admin, "fraud") == NOTHING


def test_password_is_renewed_and_the_old_one_dies(database: Database) -> None:
    old = add(database, "fraud", "--events", "#")
    done = consumers(database.admin_dsn(), "password", "fraud")
    new = json.loads(done.stdout)
    assert new.keys() == old.keys()
    connect(new).close()
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        connect(old)


def test_list_names_what_each_consumer_hears(database: Database, admin: Connection) -> None:
    add(database, "fraud", "--events", EVENTS)
    add(database, "unread", "--events", "refund.*")
    consumers(database.admin_dsn(), "remove", "unread", "--keep-queue")
    payment = insert_payment(admin)
    drain(admin, "fraud")
    insert_event(admin, payment, "dispute-opened")
    listed = json.loads(consumers(database.admin_dsn(), "list", "--json").stdout)
    told = {one["queue"]: (one["events"], one["role"], one["waiting"], one["owed"]) for one in listed}
    assert set(told) == {"ordering", "fraud", "unread"}
    assert told["fraud"] == (["dispute.*", "payment.requested"], "consumer_fraud", 1, 1)
    assert told["unread"] == (["refund.*"], None, 0, 0)
    assert told["ordering"][1] is None
    table = consumers(database.admin_dsn(), "list").stdout
    assert re.search(r"fraud +dispute\.\*, payment\.requested +consumer_fraud +1 +1", table)
    assert "nobody" in table


@pytest.mark.every_postgres
def test_remove_leaves_nothing_and_the_name_can_be_taken_again(database: Database, admin: Connection) -> None:
    access = add(database, "fraud", "--events", EVENTS)
    insert_payment(admin)
    drain(admin, "fraud")
    with connect(access, autocommit=False) as session:
        # At work, with its queue locked and things of its own: none of that may stand in the way.
        session.execute("create temp table mine (a int)")
        session.execute("select lo_create(0)")
        session.commit()
        session.execute("lock table pgmq.q_fraud in access exclusive mode")
        done = consumers(database.admin_dsn(), "remove", "fraud")
        assert done.returncode == 0, done.stderr
        with pytest.raises(psycopg.OperationalError):
            session.execute("select 1")
    assert traces(admin, "fraud") == NOTHING
    assert_refused(consumers(database.admin_dsn(), "remove", "fraud"), REFUSED, "no consumer fraud")
    add(database, "fraud", "--events", "#", "--from", "beginning")
    assert drain(admin, "fraud") == 1


def test_remove_clears_away_what_somebody_half_removed(database: Database, admin: Connection) -> None:
    add(database, "dropped", "--events", "#")
    admin.execute("select pgmq.drop_queue('dropped')")
    add(database, "torn", "--events", "#")
    admin.execute("drop table pgmq.q_torn")
    add(database, "laneless", "--events", "#")
    admin.execute("delete from payments.lanes where queue_name = 'laneless'")
    add(database, "roleless", "--events", "#")
    admin.execute("drop owned by consumer_roleless")
    admin.execute("drop role consumer_roleless")
    for name in ("dropped", "torn", "laneless", "roleless"):
        done = consumers(database.admin_dsn(), "remove", name)
        assert done.returncode == 0, done.stderr
        assert traces(admin, name) == NOTHING


def test_remove_waits_for_the_batch_under_way_before_it_locks_anything(
    database: Database, admin: Connection, eventually: Callable[..., object]
) -> None:
    add(database, "fraud", "--events", "#")
    insert_payment(admin)
    waits = "select from pg_stat_activity where datname = current_database() and wait_event = 'advisory'"
    with database.connect("payments_relay", autocommit=False) as relay:
        assert relay.execute("select payments.dispatch('fraud', 1)").fetchone() == (1,)
        removal = start_consumers(database.admin_dsn(), "remove", "fraud")
        eventually(lambda: admin.execute(waits).fetchall())
        relay.commit()
    assert removal.wait(20) == 0, removal.communicate()
    removal.communicate()
    assert traces(admin, "fraud") == NOTHING


def test_no_password_of_a_consumer_is_told_to_the_server(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would stand in the server's log, and in pg_stat_activity meanwhile."""
    told = listen_to_statements(monkeypatch)
    passwords = [add(database, "fraud", "--events", "#")["password"]]
    passwords.append(json.loads(consumers(database.admin_dsn(), "password", "fraud").stdout)["password"])
    assert sum("SCRAM-SHA-256$" in one for one in told) == 2
    assert not [one for one in told if any(password in one for password in passwords)]


def test_remove_waits_for_nobody_for_ever(database: Database, admin: Connection) -> None:
    add(database, "fraud", "--events", "#")
    with database.connect(autocommit=False) as dba:
        dba.execute("lock table pgmq.q_fraud in share mode")
        done = consumers(database.admin_dsn(), "remove", "fraud")
        assert_refused(done, REFUSED, "Somebody holds a lock", "nothing was dropped")
    assert traces(admin, "fraud")["tables"] == 2
    assert traces(admin, "fraud")["lane"] == 1
    assert consumers(database.admin_dsn(), "remove", "fraud").returncode == 0
    assert traces(admin, "fraud") == NOTHING


def test_two_databases_of_a_server_do_not_share_a_role(database: Database, module_database: Database) -> None:
    access = add(database, "fraud", "--events", "#")
    other = module_database.admin_dsn()
    assert_refused(consumers(other, "add", "fraud", "--events", "#"), REFUSED, "another database's")
    assert_refused(consumers(other, "remove", "fraud"), REFUSED, "no consumer fraud")
    assert_refused(consumers(other, "password", "fraud"), REFUSED, "No role reads")
    connect(access).close()


def test_an_administrator_who_is_no_superuser_can_do_it_all(database: Database, admin: Connection) -> None:
    admin.execute("create role dba login createrole")
    admin.execute("grant payments_owner to dba")
    admin.execute(f"alter database {database.name} owner to dba")
    dsn = database.dsn("dba")
    added = consumers(dsn, "add", "fraud", "--events", "#")
    assert added.returncode == 0, added.stderr
    with connect(json.loads(added.stdout)):
        assert consumers(dsn, "password", "fraud").returncode == 0
        assert consumers(dsn, "list").returncode == 0
        removed = consumers(dsn, "remove", "fraud")
        assert removed.returncode == 0, removed.stderr
    assert traces(admin, "fraud") == NOTHING


def test_a_database_that_is_closed_to_the_public_opens_to_its_consumers(database: Database, admin: Connection) -> None:
    admin.execute(f"revoke all on database {database.name} from public")
    access = add(database, "fraud", "--events", "#")
    connect(access).close()
    assert consumers(database.admin_dsn(), "remove", "fraud").returncode == 0
    assert traces(admin, "fraud") == NOTHING
