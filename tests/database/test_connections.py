"""Where a process may connect, as whom, what it refuses, and how it outlives a server that is away."""

import asyncio
import socket
import sys
import time

import psycopg
import pytest
from psycopg_pool import PoolTimeout

from payments.database.connections import DATABASE_AWAY, Pool, connect, open_pool, statements, transaction
from payments.errors import ClusterMoved, DatabaseUnreachable, DatabaseUnsuitable, SchemaTooNew, SchemaTooOld
from tests.database.rows import insert_payment
from tests.development.databases import Database

pytestmark = [pytest.mark.anyio, pytest.mark.every_postgres]
on_linux = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere these socket options have other names")
API = "payments_api"


async def who_am_i(dsn: str, role: str) -> str:
    async with open_pool(dsn, role, 2) as pool, transaction(pool) as conn:
        row = await (await conn.execute("select current_user::text")).fetchone()
        assert row is not None
        return str(row[0])


async def test_a_login_of_its_own_is_used_as_it_is(database: Database) -> None:
    assert await who_am_i(database.dsn(API), API) == API


async def test_a_common_login_becomes_the_role_of_the_process(database: Database) -> None:
    assert await who_am_i(database.admin_dsn(), API) == API


async def test_a_login_that_may_not_act_as_the_role_is_refused(database: Database) -> None:
    with pytest.raises(DatabaseUnsuitable, match="may not act as payments_api"):
        await who_am_i(database.dsn("payments_readonly"), API)


async def test_no_server_is_named_so() -> None:
    with pytest.raises(DatabaseUnreachable):
        await who_am_i("postgresql://nobody@127.0.0.1:1/nothing", API)


async def test_a_database_without_schema_wants_migrate(empty_database: Database) -> None:
    with pytest.raises(SchemaTooOld) as refused:
        await who_am_i(empty_database.dsn(API), API)
    assert "payments migrate" in refused.value.advice


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ("delete from payments.schema_migrations", SchemaTooOld),
        ("insert into payments.schema_migrations values (9999, 'from the future')", SchemaTooNew),
        ("update payments.cluster set system_identifier = '1'", ClusterMoved),
        ("delete from payments.cluster", ClusterMoved),
    ],
)
async def test_a_database_that_is_not_ours_to_write_is_refused(
    database: Database, change: str, error: type[Exception]
) -> None:
    with database.connect() as admin:
        admin.execute(change)
    with pytest.raises(error):
        await who_am_i(database.dsn(API), API)


async def test_the_cluster_is_checked_again_at_every_new_connection(database: Database) -> None:
    async with open_pool(database.dsn(API), API, 2) as pool:
        with database.connect() as admin:
            admin.execute("update payments.cluster set system_identifier = '1'")
            admin.execute("select pg_terminate_backend(pid) from pg_stat_activity where usename = %s", (API,))
        with pytest.raises(PoolTimeout):
            async with pool.connection(timeout=1.0):
                pass


async def test_a_transaction_is_whole_or_nothing(database: Database) -> None:
    with database.connect() as admin:
        payment_id = insert_payment(admin)
    add = """insert into payments.payment_history (payment_id, signal, source, to_status, decision, why)
        values (%s, 'x', 'api', 'REQUESTED', 'ignored', 'x')"""
    async with open_pool(database.dsn(API), API, 2) as pool:

        async def break_off() -> None:
            async with transaction(pool) as conn:
                await conn.execute(add, (payment_id,))
                await conn.execute("select 1 / 0")

        with pytest.raises(psycopg.errors.DivisionByZero):
            await break_off()
        async with transaction(pool) as conn:
            await conn.execute(add, (payment_id,))
    with database.connect() as admin:
        assert admin.execute("select count(*) from payments.payment_history").fetchone() == (1,)


async def test_no_default_of_server_or_role_changes_the_isolation(database: Database) -> None:
    with database.connect() as admin:
        admin.execute(f"alter database {database.name} set default_transaction_isolation = 'repeatable read'")
    for behind_pooler in (False, True):  # whose sessions keep no setting for us
        async with (
            open_pool(database.dsn(API), API, 2, behind_pooler=behind_pooler) as pool,
            transaction(pool) as conn,
        ):
            row = await (await conn.execute("show transaction_isolation")).fetchone()
        assert row == ("read committed",)


async def test_session_that_hangs_in_a_transaction_is_ended_and_its_locks_are_free(database: Database) -> None:
    """A process that is frozen must not keep a payment, or its lane, for long."""
    for behind_pooler in (False, True):
        async with (
            open_pool(database.dsn(API), API, 2, behind_pooler=behind_pooler) as pool,
            transaction(pool) as conn,
        ):
            row = await (await conn.execute("show idle_in_transaction_session_timeout")).fetchone()
        assert row == ("15s",)


async def reaches(pool: Pool) -> bool:
    try:
        async with pool.connection(timeout=0.3) as conn:
            await conn.execute("select 1")
    except DATABASE_AWAY:
        return False
    return True


async def test_pool_is_back_soon_after_an_outage_however_long_that_was(database: Database) -> None:
    """Pauses between attempts that grow with the outage would double every outage."""
    outage_s, soon_s = 3.5, 2.2  # pauses of 1, 2 and 4 seconds would end at 7
    async with open_pool(database.dsn(API), API, 2) as pool:
        assert await reaches(pool)
        with database.connect(dbname="postgres") as admin:
            admin.execute(f"alter database {database.name} allow_connections false")
            admin.execute("select pg_terminate_backend(pid) from pg_stat_activity where datname = %s", (database.name,))
            ends_at = time.monotonic() + outage_s
            while time.monotonic() < ends_at:
                assert not await reaches(pool)
            admin.execute(f"alter database {database.name} allow_connections true")
        back_at = time.monotonic()
        while not await reaches(pool):
            assert time.monotonic() < back_at + soon_s
            await asyncio.sleep(0.05)


@on_linux
async def test_host_that_vanished_is_noticed_within_seconds(database: Database) -> None:
    """Without these options the kernel waits a quarter of an hour for what was sent, two hours for an answer."""
    dsn = database.dsn(API)
    async with open_pool(dsn, API, 2) as pool, pool.connection() as pooled, await connect(dsn, API) as single:
        for conn in (pooled, single):
            with socket.socket(fileno=socket.dup(conn.fileno())) as peer:
                assert peer.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
                assert peer.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) <= 10
                assert peer.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL) <= 5
                assert peer.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT) <= 3
                assert 0 < peer.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) <= 20_000


@on_linux
async def test_address_may_say_itself_how_patient_to_be(database: Database) -> None:
    async with await connect(f"{database.dsn(API)}?keepalives_idle=77", API) as conn:
        with socket.socket(fileno=socket.dup(conn.fileno())) as peer:
            assert peer.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 77


async def test_server_that_only_reads_is_away(database: Database) -> None:
    """As one in recovery or one that was demoted: it comes back, or the address leads elsewhere."""
    async with open_pool(database.dsn(API), API, 2) as pool:
        with database.connect() as admin:
            admin.execute(f"alter database {database.name} set default_transaction_read_only = on")
            admin.execute("select pg_terminate_backend(pid) from pg_stat_activity where usename = %s", (API,))
        with pytest.raises(DATABASE_AWAY):
            async with transaction(pool) as conn:
                await conn.execute("delete from payments.idempotency_keys where false")


async def test_session_that_only_reads_is_left_for_one_that_writes(database: Database) -> None:
    """As on a primary that was demoted and lives on: its sessions must not keep us there."""
    write = "insert into payments.customers values (gen_random_uuid(), 'cus_1', 'pm_1')"
    async with open_pool(database.dsn(API), API, 1) as pool:
        async with statements(pool) as conn:
            await conn.execute("set default_transaction_read_only = on")
        with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
            async with transaction(pool) as conn:
                await conn.execute(write)
        async with transaction(pool) as conn:
            await conn.execute(write)


async def test_pooler_that_leads_elsewhere_is_away(database: Database) -> None:
    """The session behind it may be another each time, so each transaction looks where it is."""
    leads = "update payments.cluster set system_identifier = "
    async with open_pool(database.dsn(API), API, 1, behind_pooler=True) as pool:
        for lend in (transaction, statements):
            with database.connect() as admin:
                admin.execute(f"{leads} '1'")
            with pytest.raises(psycopg.OperationalError, match="another PostgreSQL cluster"):
                async with lend(pool):
                    pass
            with database.connect() as admin:
                admin.execute(f"{leads} (select system_identifier::text from pg_control_system())")
            async with lend(pool):
                pass


async def test_host_that_says_nothing_is_passed_by(database: Database) -> None:
    """As one that has vanished, of the hosts that an address names."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        postgres = database.server.postgres
        both = f"127.0.0.1:{silent.getsockname()[1]},127.0.0.1:{postgres.port}"
        dsn = database.dsn(API).replace(f"127.0.0.1:{postgres.port}", both)
        async with open_pool(f"{dsn}?target_session_attrs=read-write", API, 1) as pool, transaction(pool):
            pass
