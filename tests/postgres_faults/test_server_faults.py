"""Scenarios 52 and 53: what befalls one PostgreSQL while customers shop. Nothing is lost or doubled, and no 500."""

import contextlib
from collections.abc import Iterator

import psycopg
import pytest

from tests.conftest import wait_until
from tests.postgres_faults.customers import Customers, shopping
from tests.postgres_faults.running import system_on
from tests.postgres_faults.servers import CONNECTIONS_MAX, Server, server
from tests.scenarios.world import World
from tests.system.running import System

SEEN_S = 60.0  # a fault is there as soon as somebody met it; the rest is for a busy machine
OURS = "application_name ~ '^payments '"
CHANNELS = ("payments_outbox", "payments_queue", "payments_inbox", "payments_settled")


@pytest.fixture(scope="module")
def postgres() -> Iterator[Server]:
    with server() as running:
        yield running


@pytest.fixture(scope="module")
def system(postgres: Server) -> Iterator[System]:
    with system_on(postgres.admin_dsn()) as running:
        yield running


def seen_503(customers: Customers) -> None:
    """Wait until somebody is told to come again."""
    before = customers.answers[503]
    wait_until(lambda: customers.answers[503] > before, SEEN_S)


def test_52_backends_are_terminated(world: World, postgres: Server) -> None:
    with shopping(world) as customers:
        for _ in range(5):
            cut = postgres.execute(f"select pg_terminate_backend(pid) from pg_stat_activity where {OURS}")
            assert len(cut) > 10, "all five processes have connections"
            customers.see_more(2)


def test_52_server_is_restarted_immediately(world: World, postgres: Server) -> None:
    with shopping(world) as customers:
        for _ in range(2):
            postgres.restart_immediately()
            customers.see_more(2)


def test_52_no_connection_is_left(world: World, postgres: Server) -> None:
    with shopping(world) as customers, contextlib.ExitStack() as taken:
        holder = psycopg.connect(postgres.admin_dsn(), autocommit=True)
        taken.callback(holder.close)

        def all_are_taken() -> bool:
            """Nobody of ours has one any more; whoever is quick gets one back, and loses it in the next round."""
            with contextlib.suppress(psycopg.OperationalError):
                for _ in range(CONNECTIONS_MAX):
                    taken.callback(psycopg.connect(postgres.admin_dsn()).close)
            return not holder.execute(f"select pg_terminate_backend(pid) from pg_stat_activity where {OURS}").fetchall()

        wait_until(all_are_taken, SEEN_S)
        seen_503(customers)


def test_52_server_only_reads(world: World, postgres: Server) -> None:
    with shopping(world) as customers:
        postgres.execute("alter system set default_transaction_read_only = on")
        postgres.execute("select pg_reload_conf()")
        try:
            seen_503(customers)
        finally:
            postgres.execute("alter system reset default_transaction_read_only")
            postgres.execute("select pg_reload_conf()")


@contextlib.contextmanager
def full(postgres: Server, table: str) -> Iterator[None]:
    """Every write to a table ends as if its disk were full.

    By a trigger: filling a disk for real takes a mount, and so root. What reaches the processes is the same, SQLSTATE
    53100 out of the statement that writes.
    """
    postgres.execute(f"create trigger disk_full before insert or update on {table} execute function public.disk_full()")
    try:
        yield
    finally:
        postgres.execute(f"drop trigger disk_full on {table}")


@pytest.fixture
def filling(postgres: Server) -> Iterator[None]:
    postgres.execute("""
        create function public.disk_full() returns trigger language plpgsql as $$ begin
          raise exception 'could not extend file: No space left on device' using errcode = 'disk_full';
        end $$""")
    yield
    postgres.execute("drop function public.disk_full()")


@pytest.mark.usefixtures("filling")
def test_52_disk_is_full(world: World, postgres: Server) -> None:
    with shopping(world) as customers:
        with full(postgres, "payments.outbox"):
            seen_503(customers)
            wait_until(lambda: world.logged("recorder.database_away", "No space left"), SEEN_S)
        with full(postgres, "payments.inbox"):
            wait_until(lambda: world.logged("answer.waiting", "DiskFull"), SEEN_S)
        with full(postgres, "payments.stripe_requests"):
            wait_until(lambda: world.logged("command.interrupted", "DiskFull"), SEEN_S)
        with full(postgres, "payments.relay_batches"):
            wait_until(lambda: world.logged("lane.stopped", "53100"), SEEN_S)
        customers.see_more(2)


def test_53_nobody_is_notified(world: World, postgres: Server) -> None:
    """The notifiers may not notify, so that only looking finds work: between each two steps of each payment."""
    postgres.execute("revoke execute on function pg_notify(text, text) from public")
    try:
        wait_until(lambda: world.authorize().status_code == 201 and world.logged("notifier.disconnected"), SEEN_S)
        with psycopg.connect(postgres.admin_dsn(), autocommit=True) as conn:
            for channel in CHANNELS:
                conn.execute(f"listen {channel}")
            with shopping(world):
                pass
            assert list(conn.notifies(timeout=0)) == []
    finally:
        postgres.execute("grant execute on function pg_notify(text, text) to public")
