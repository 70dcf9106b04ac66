"""The address of a consumer leads where the administrator's leads, with nothing of the administrator in it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from psycopg.conninfo import conninfo_to_dict

from payments.consumers.addresses import consumer_dsn

TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=20)


@given(password=TEXT, dbname=TEXT)
def test_address_says_to_libpq_what_went_in(password: str, dbname: str) -> None:
    dsn = consumer_dsn({"host": "127.0.0.1", "port": "5433", "dbname": dbname}, "consumer_fraud", password)
    assert conninfo_to_dict(dsn) == {
        "user": "consumer_fraud",
        "password": password,
        "host": "127.0.0.1",
        "port": "5433",
        "dbname": dbname,
    }


@pytest.mark.parametrize(
    ("host", "port"),
    [("a,b", "5432,5433"), ("a,b", "5433"), ("::1", "5432"), ("/var/run/postgresql", "5432"), ("db", "")],
)
def test_address_leads_to_every_host(host: str, port: str) -> None:
    found = conninfo_to_dict(consumer_dsn({"host": host, "port": port, "dbname": "payments"}, "consumer_x", "p"))
    assert found["host"] == host
    assert set(str(found["port"]).split(",")) == set((port or "5432").split(","))


def test_address_keeps_how_to_reach_the_server_and_nothing_of_the_administrator() -> None:
    admin = {
        "host": "db",
        "dbname": "payments",
        "user": "postgres",
        "password": "admins",
        "sslmode": "verify-full",
        "sslrootcert": "/etc/ca.pem",
        "sslkey": "/etc/admin.key",
        "options": "-c role=payments_owner",
        "target_session_attrs": "primary",
    }
    dsn = consumer_dsn(admin, "consumer_x", "p")
    assert "admin" not in dsn
    assert "options" not in dsn
    assert conninfo_to_dict(dsn).items() >= {"sslmode": "verify-full", "target_session_attrs": "primary"}.items()
