"""The commands of operators: an id can be copied from a table, and every fault of the surroundings is said in words."""

import os
import socket
import subprocess
import sys
from uuid import UUID

import pytest
from psycopg.conninfo import make_conninfo

from payments.database import migrate
from payments.database.api_keys import ensure_development_key, hash_key
from payments.errors import ConfigurationError, DatabaseUnreachable, DatabaseUnsuitable, SchemaTooOld
from tests.development.databases import Database

LOOKING = (("keys", "list"), ("inbox", "status"), ("outbox", "status"))


def payments(*words: str, **settings: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "payments", *words],
        env={**os.environ, "COLUMNS": "80", **settings},
        capture_output=True,
        text=True,
        check=False,
    )


def assert_said_in_words(finished: subprocess.CompletedProcess[str], exit_code: int, advice: str) -> None:
    assert finished.returncode == exit_code, finished.stderr
    assert finished.stderr.startswith("error: ")
    assert advice in finished.stderr
    assert "Traceback" not in finished.stderr


@pytest.mark.parametrize("words", LOOKING)
def test_command_without_a_database_says_so(words: tuple[str, ...]) -> None:
    finished = payments(*words, DATABASE_URL="postgresql://postgres:secret@127.0.0.1:1/payments")
    assert_said_in_words(finished, DatabaseUnreachable.exit_code, "Check DATABASE_URL")
    assert "secret" not in finished.stderr


@pytest.mark.parametrize("words", LOOKING)
def test_command_without_a_schema_sends_to_migrate(database: Database, words: tuple[str, ...]) -> None:
    finished = payments(*words, DATABASE_URL=make_conninfo(database.admin_dsn(), dbname="postgres"))
    assert_said_in_words(finished, SchemaTooOld.exit_code, "payments migrate")


def test_command_without_the_rights_asks_for_an_administrator(database: Database) -> None:
    finished = payments("keys", "list", DATABASE_URL=database.dsn("payments_relay"))
    assert_said_in_words(finished, DatabaseUnsuitable.exit_code, "administrator")


def test_server_that_never_greets_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(migrate, "CONNECT_TIMEOUT_S", 2)  # the least that libpq knows
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(DatabaseUnreachable, match="timeout"):
        migrate.migrate(f"postgresql://postgres@127.0.0.1:{silent.getsockname()[1]}/payments")


def test_keys_are_listed_with_ids_that_can_be_revoked(database: Database) -> None:
    settings = {"DATABASE_URL": database.admin_dsn()}
    made = payments("keys", "create", "a-shop-with-a-long-name", "--scope", "payments:write", **settings)
    assert made.stdout.startswith("pay_")
    with database.connect() as admin:
        (key_id,) = admin.execute("select key_id from payments.api_keys").fetchone() or (UUID(int=0),)
    assert str(key_id) in payments("keys", "list", **settings).stdout
    assert payments("keys", "revoke", str(key_id), **settings).returncode == 0
    assert payments("keys", "revoke", str(key_id), **settings).returncode == 1


def test_one_key_is_revoked_and_no_other(database: Database) -> None:
    settings = {"DATABASE_URL": database.admin_dsn()}
    for client in ("shop", "other"):
        payments("keys", "create", client, "--scope", "viewer", "--days", "2", **settings)
    with database.connect() as admin:
        ((key_id,),) = admin.execute("select key_id from payments.api_keys where client_id = 'shop'").fetchall()
        assert payments("keys", "revoke", str(key_id), **settings).returncode == 0
        left = admin.execute(
            "select client_id, expires_at - created_at between '47 hours' and '49 hours' from payments.api_keys"
            " where revoked_at is null"
        ).fetchall()
    assert left == [("other", True)]


def test_development_key_of_the_last_start_ends(database: Database) -> None:
    keys = [ensure_development_key(database.admin_dsn()) for _ in range(2)]
    with database.connect() as admin:
        good = admin.execute("select key_hash from payments.api_keys where revoked_at is null").fetchall()
    assert good == [(hash_key(keys[1]),)]


def test_status_of_the_inbox_masks_secrets(database: Database) -> None:
    with database.connect() as admin:
        admin.execute(
            "insert into payments.inbox (source, message_id, message_type, payload, processed_at, outcome)"
            " values ('stripe-webhook', 'evt_1', 'x', '{}', now(), 'dead')"
        )
        admin.execute(
            "insert into payments.dead_letters (origin, message_id, payload, attempts, error)"
            " values ('inbox', '1', '{}', 1, 'broke with sk_test_51abcdefghijk')"
        )
    status = payments("inbox", "status", DATABASE_URL=database.admin_dsn(), COLUMNS="200").stdout
    assert "broke with sk_test_" in status
    assert "51abcdefghijk" not in status


def test_status_of_the_inbox_is_trouble_when_a_row_waits_for_long(database: Database) -> None:
    """As the status of the outbox is, and what doctor says."""

    def status_with(waits: str) -> tuple[int, bool]:
        with database.connect() as admin:
            admin.execute("delete from payments.inbox")
            admin.execute(
                "insert into payments.inbox (source, message_id, message_type, payload, received_at)"
                " values ('stripe-webhook', 'evt_1', 'x', '{}', now() - %s::interval)",
                (waits,),
            )
        finished = payments("inbox", "status", DATABASE_URL=database.admin_dsn())
        return finished.returncode, "is a worker running?" in finished.stdout

    assert status_with("10 s") == (0, False)
    assert status_with("70 s") == (1, True)


def test_inbox_shows_what_others_said_as_it_is(database: Database) -> None:
    said = "payment_method_data[card] [/tmp/log] :bug:"
    with database.connect() as admin:
        admin.execute(
            "insert into payments.inbox"
            " (source, message_id, message_type, payload, processed_at, outcome, attempts, last_error)"
            " values ('stripe-webhook', 'evt_[/1]', '[/x]', jsonb_build_object('note', %(said)s::text), now(), 'dead',"
            " 8, %(said)s)",
            {"said": said},
        )
        admin.execute(
            "insert into payments.dead_letters (origin, message_id, payload, attempts, error)"
            " select 'inbox', inbox_id, '{}', 1, %s from payments.inbox",
            (said,),
        )
    settings = {"DATABASE_URL": database.admin_dsn(), "COLUMNS": "200"}
    assert said in payments("inbox", "status", **settings).stdout
    assert payments("inbox", "show", "evt_[/1]", "--payload", **settings).stdout.count(said) == 2
    nothing = payments("inbox", "show", "[/1]", **settings)
    assert (nothing.returncode, "has '[/1]' as its id" in nothing.stdout) == (1, True)


def test_key_that_was_not_committed_is_not_shown(database: Database) -> None:
    with database.connect() as admin:
        admin.execute(
            "create function refuse() returns trigger language plpgsql as $$ begin raise 'no room'; end $$;"
            "create constraint trigger late after insert on payments.api_keys deferrable initially deferred"
            " for each row execute function refuse()"
        )
    made = payments("keys", "create", "shop", "--scope", "viewer", DATABASE_URL=database.admin_dsn())
    assert made.returncode != 0
    assert "pay_" not in made.stdout + made.stderr


@pytest.mark.parametrize("days", ["0", "-1", "3651", "1.5", "9" * 30])
def test_key_without_a_life_is_refused(days: str) -> None:
    finished = payments("keys", "create", "shop", "--scope", "viewer", f"--days={days}")
    assert finished.returncode == 2
    assert "whole number from 1 to 3650" in finished.stderr


def test_commands_work_with_all_of_dev_env_exported_but_another_up_is_refused(database: Database) -> None:
    exported = {
        "API_URL": "http://127.0.0.1:1",
        "API_KEY": "pay_x",
        "DATABASE_URL": database.admin_dsn(),
        "STRIPE_API_BASE": "http://127.0.0.1:1",
        "STRIPE_WEBHOOK_SECRETS": "whsec_x",
    }
    assert [payments(*words, **exported).returncode for words in LOOKING] == [0, 0, 0]
    assert_said_in_words(payments("up", **exported), ConfigurationError.exit_code, "STRIPE_API_BASE is set without")


@pytest.mark.parametrize("option", ["--checkouts=0", "--checkouts=-5", "--concurrency=0"])
def test_demo_refuses_to_drive_nothing(option: str) -> None:
    finished = payments("demo", option)
    assert finished.returncode == 2
    assert "whole number from 1" in finished.stderr
