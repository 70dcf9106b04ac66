"""What `payments up` gives its processes: whatever keeps it from that is said in words."""

import pytest
from psycopg.conninfo import make_conninfo

from payments.development.surroundings import development_key, prepare_databases
from payments.errors import DatabaseUnsuitable
from payments.settings import Settings
from tests.development.databases import Database


def test_login_without_the_rights_is_told_in_words(database: Database) -> None:
    dsn = database.dsn("payments_relay")
    with pytest.raises(DatabaseUnsuitable, match="may not do this"):
        prepare_databases(Settings.load({"DATABASE_URL": dsn}), None)
    with pytest.raises(DatabaseUnsuitable, match="may not do this"):
        development_key(dsn)


def test_table_that_somebody_keeps_locked_is_told_in_words(database: Database) -> None:
    dsn = make_conninfo(database.admin_dsn(), options="-c lock_timeout=100ms")
    with database.connect(autocommit=False) as somebody:
        somebody.execute("lock table payments.cluster, payments.api_keys")
        with pytest.raises(DatabaseUnsuitable, match="at work on the same"):
            prepare_databases(Settings.load({"DATABASE_URL": dsn}), None)
        with pytest.raises(DatabaseUnsuitable, match="at work on the same"):
            development_key(dsn)
