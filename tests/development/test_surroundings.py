"""What `payments up` gives its processes: whatever keeps it from that is said in words."""

from pathlib import Path

import pytest
from psycopg.conninfo import make_conninfo

from payments.development.surroundings import development_key, prepare_databases, stripe_of_running_up
from payments.errors import DatabaseUnsuitable
from payments.settings import Settings
from tests.development.databases import Database

OWN = "postgresql://postgres@127.0.0.1:5432/payments"


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


@pytest.mark.parametrize(
    ("given", "is_taken"),
    [
        ({}, True),
        ({"DATABASE_URL": OWN}, True),
        ({"DATABASE_URL": "postgresql://postgres@db.example.com/payments"}, False),
        ({"DATABASE_URL": OWN, "DATABASE_DIRECT_URL": "postgresql://postgres@db.example.com/payments"}, False),
        ({"STRIPE_API_KEY": "sk_test_0123456789abcdef"}, False),
    ],
)
def test_sandbox_that_runs_here_is_asked_for_the_payments_of_its_own_database_only(
    tmp_path: Path, given: dict[str, str], *, is_taken: bool
) -> None:
    """Payments of another's would be proved never to have been made, and charged again."""
    (tmp_path / "dev.env").write_text(f"DATABASE_URL={OWN}\nSTRIPE_API_BASE=http://127.0.0.1:12111\n")
    (tmp_path / "sandbox").mkdir()
    (tmp_path / "sandbox" / "api.key").write_text("sk_test_of_the_sandbox\n")
    settings = Settings.load({"PAYMENTS_DATA_DIR": str(tmp_path), **given})
    found = stripe_of_running_up(settings)
    if is_taken:
        assert (found.stripe_api_key, found.stripe_api_base) == ("sk_test_of_the_sandbox", "http://127.0.0.1:12111")
    else:
        assert found == settings
