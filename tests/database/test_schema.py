"""The schema against the code that works on it: migrations, queries, states, events, comments."""

import itertools
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from payments.database.migrate import SCHEMA_VERSION, migrate, migrations
from payments.database.queries import SQL_DIRECTORY, load_queries, rooms
from payments.domain.states import TRANSITIONS, EventType, PaymentStatus, may_change
from payments.errors import DatabaseUnsuitable, SchemaTooNew
from tests.commands.test_operator_commands import assert_said_in_words, payments
from tests.development.databases import Database, TestServer

pytestmark = pytest.mark.every_postgres


def dump(database: Database) -> str:
    """The whole structure of a database as text, without what differs at every run."""
    binary = Path(database.server.postgres.bin_dir) / "pg_dump"
    command = [str(binary), "--schema-only", "--schema=payments", database.admin_dsn()]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return "\n".join(
        line for line in text.splitlines() if line and not line.startswith(("--", "\\restrict", "\\unrestrict"))
    )


@pytest.fixture
def first_release(postgres_server: TestServer) -> Iterator[Database]:
    """A database as the first migration left it."""
    with postgres_server.fresh_database(migrated=False) as old:
        migrate(old.admin_dsn())  # prepares roles and pgmq
        with old.connect() as conn:
            conn.execute("drop schema payments cascade")
            for queue in conn.execute("select queue_name from pgmq.meta").fetchall():
                conn.execute("select pgmq.drop_queue(%s)", queue)
            conn.execute("set role payments_owner")
            first = migrations()[0]
            conn.execute(first.script)
            conn.execute("insert into payments.schema_migrations values (%s, %s)", (first.version, first.name))
        yield old


def test_schema_equals_all_migrations(database: Database, first_release: Database) -> None:
    assert migrate(first_release.admin_dsn()) == [migration.name for migration in migrations()[1:]]
    assert dump(first_release) == dump(database)
    assert migrate(first_release.admin_dsn()) == []


def test_migrate_beside_a_transaction_that_stays_open_changes_nothing_and_says_so(first_release: Database) -> None:
    with first_release.connect(autocommit=False) as busy:
        busy.execute("lock table payments.payments in row exclusive mode")
        finished = payments("migrate", DATABASE_URL=first_release.admin_dsn())
    assert_said_in_words(finished, DatabaseUnsuitable.exit_code, "Somebody is at work")
    assert payments("migrate", DATABASE_URL=first_release.admin_dsn()).returncode == 0


def test_migrate_without_the_rights_asks_for_an_administrator(first_release: Database) -> None:
    finished = payments("migrate", DATABASE_URL=first_release.dsn("payments_relay"))
    assert_said_in_words(finished, DatabaseUnsuitable.exit_code, "administrator")


def test_migrate_is_idempotent_and_records_every_version(database: Database) -> None:
    assert migrate(database.admin_dsn()) == []
    with database.connect() as conn:
        versions = [row[0] for row in conn.execute("select version from payments.schema_migrations order by 1")]
    assert versions == list(range(1, SCHEMA_VERSION + 1))


def test_migrate_of_an_older_release_refuses_a_newer_schema(database: Database) -> None:
    with database.connect() as conn:
        conn.execute("insert into payments.schema_migrations values (9999, 'from the future')")
    with pytest.raises(SchemaTooNew):
        migrate(database.admin_dsn())


def test_migrate_runs_from_several_places_at_once(empty_database: Database) -> None:
    script = "import sys; from payments.database.migrate import migrate; print(migrate(sys.argv[1]))"
    command = [sys.executable, "-c", script, empty_database.admin_dsn()]
    started = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(3)]
    answers = sorted((process.communicate(timeout=60), process.returncode) for process in started)
    assert [code for _, code in answers] == [0, 0, 0], answers
    assert sorted(out.strip() for (out, _), _ in answers) == ["['schema']", "[]", "[]"]


def numbered(query: bytes) -> str:
    """A named query as PREPARE takes it: each %(name)s as $1, $2 and so on, and %% as %."""
    names: dict[str, int] = {}

    def number(match: re.Match[str]) -> str:
        return f"${names.setdefault(match[1], len(names) + 1)}" if match[1] else "%"

    return re.sub(r"%\((\w+)\)s|%%", number, query.decode())


UTILITY = re.compile(
    r"(--.*\n)*\s*(do|set|reset|create|alter|drop|grant|listen|notify|lock|begin|commit)\b", re.IGNORECASE
)


@pytest.mark.parametrize(("room", "name"), [(room, name) for room in rooms() for name in load_queries(room)])
def test_every_named_query_can_be_prepared(module_database: Database, room: str, name: str) -> None:
    query = load_queries(room)[name]
    if b"{queue}" in query or UTILITY.match(query.decode()):
        pytest.skip("utility statements and queries with a table's name to fill in are run by their own room's tests")
    with module_database.connect() as conn:
        conn.execute(f"prepare checked as {numbered(query)}")


def test_sql_and_python_agree_on_the_state_machine(module_database: Database) -> None:
    with module_database.connect() as conn:
        rows = conn.execute(
            "select a, b, payments.may_change(a, b) from unnest(%(all)s::text[]) a, unnest(%(all)s::text[]) b",
            {"all": [status.value for status in PaymentStatus]},
        ).fetchall()
    in_sql = {(old, new) for old, new, allowed in rows if allowed}
    pairs = itertools.product(PaymentStatus, PaymentStatus)
    in_python = {(old.value, new.value) for old, new in pairs if may_change(old, new)}
    assert in_sql == in_python
    assert set(TRANSITIONS) == set(PaymentStatus)


@pytest.mark.parametrize(
    ("table", "column", "values"),
    [
        ("payments", "status", [status.value for status in PaymentStatus]),
        ("outbox", "event_type", [event.value for event in EventType]),
    ],
)
def test_sql_and_python_know_the_same_words(
    module_database: Database, table: str, column: str, values: list[str]
) -> None:
    with module_database.connect() as conn:
        row = conn.execute(
            """
            select pg_get_constraintdef(c.oid) from pg_constraint c
            join pg_attribute a on a.attrelid = c.conrelid and c.conkey = array[a.attnum]
            where c.conrelid = ('payments.' || %s)::regclass and c.contype = 'c' and a.attname = %s
            """,
            (table, column),
        ).fetchone()
    assert row is not None
    assert sorted(re.findall(r"'([A-Za-z_-]+)'::text", row[0])) == sorted(values)


def test_every_event_reaches_the_queue_it_is_meant_for(module_database: Database) -> None:
    with module_database.connect() as conn:
        rows = conn.execute(
            """
            select e, array_agg(t.queue_name::text order by t.queue_name) from unnest(%s::text[]) e
            left join pgmq.topic_bindings t on payments.routing_key(e) ~ t.compiled_regex group by e
            """,
            ([event.value for event in EventType],),
        ).fetchall()
    routes = dict(rows)
    for event in EventType:
        expected = event.value.replace("-", "_") if event.value.endswith("-requested") else "ordering"
        assert routes[event.value] == [expected]


def test_every_table_and_view_is_commented(module_database: Database) -> None:
    with module_database.connect() as conn:
        bare = conn.execute(
            """
            select relname from pg_class where relnamespace = 'payments'::regnamespace and relkind in ('r', 'v')
            and obj_description(oid, 'pg_class') is null
            """
        ).fetchall()
    assert bare == []


def test_schema_sql_is_what_the_last_migration_left() -> None:
    if SCHEMA_VERSION == 1:
        assert (SQL_DIRECTORY / "migrations" / "0001_initial.sql").read_bytes() == (
            SQL_DIRECTORY / "schema.sql"
        ).read_bytes()


def test_a_comment_stands_under_every_name() -> None:
    for room in rooms():
        text = (SQL_DIRECTORY / "queries" / f"{room}.sql").read_text()
        for block in text.split("-- name: ")[1:]:
            assert block.splitlines()[1].startswith("-- "), (
                f"sql/queries/{room}.sql: {block.splitlines()[0]} says not what for"
            )
