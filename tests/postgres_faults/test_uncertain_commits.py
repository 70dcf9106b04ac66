"""A commit whose wait for the synchronous standby was cut short is unknown, and so is all that is read of it."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeVar

import pytest

from payments.api.accept import accept
from payments.api.accept_outcomes import Accepted, Outcome, Replayed, Unknown
from payments.api.turns import Turns
from payments.api.wish_record import Repeated, WishOutcome, WishRequest, record_wish
from payments.database.connections import CommitUncertain, Pool, confirm, open_pool, statements, transaction
from payments.domain.wishes import VoidWish
from payments.errors import DatabaseUnsuitable
from payments.webhooks.deliveries import DatabaseAway, Received
from tests.api.test_accept import ask, same
from tests.commands.test_operator_commands import assert_said_in_words, payments
from tests.development.databases import Database
from tests.postgres_faults.missing_standby import cancel_waits, missing_standby
from tests.webhooks.test_deliveries import deliver, encode

pytestmark = pytest.mark.anyio
API = "payments_api"
ADMIN = "postgres"

T = TypeVar("T")


@pytest.fixture
async def pool(database: Database, anyio_backend: str) -> AsyncIterator[Pool]:
    async with open_pool(database.dsn(API), API, 4) as opened:
        yield opened


async def cut_short(database: Database, work: Awaitable[T], role: str = API) -> T:
    """The result of work whose commits never reach a standby: each wait is cancelled, and there must be one."""
    task = asyncio.ensure_future(work)
    waits = 0
    while not task.done():
        waits += await asyncio.to_thread(cancel_waits, database, role)
        await asyncio.sleep(0.02)
    result = await task
    assert waits > 0, f"nothing waited for the standby: {result}"
    return result


def chatty(database: Database) -> None:
    """A server whose defaults are not ours."""
    with database.connect() as conn:
        for setting in ("datestyle = 'German, DMY'", "intervalstyle = 'iso_8601'", "client_min_messages = 'error'"):
            conn.execute(f'alter database "{database.name}" set {setting}')


async def test_the_servers_defaults_hide_no_doubt_and_no_time(database: Database) -> None:
    chatty(database)
    async with open_pool(database.dsn(API), API, 2) as pool:

        async def write() -> None:
            async with transaction(pool) as conn:
                await conn.execute("insert into payments.customers values (gen_random_uuid(), 'cus_1', 'pm_1')")

        with missing_standby(database), pytest.raises(CommitUncertain):
            await cut_short(database, write())
        async with transaction(pool) as conn:
            row: Any = await (await conn.execute("select now(), interval '1 day 1 second'")).fetchone()
        assert row[0].tzinfo is not None
        assert row[1].total_seconds() == 86401


async def test_warning_of_anything_else_leaves_no_commit_in_doubt(pool: Pool, database: Database) -> None:
    """PostgreSQL warns at every transaction id once they run short."""
    with database.connect() as conn:
        conn.execute(
            "create function warn() returns trigger language plpgsql as"
            " $$ begin raise warning 'database must be vacuumed'; return null; end $$;"
            "create trigger warn after insert on payments.customers execute function warn()"
        )
    async with transaction(pool) as writing:
        await writing.execute("insert into payments.customers values (gen_random_uuid(), 'cus_1', 'pm_1')")
    with database.connect() as conn:
        assert conn.execute("select count(*) from payments.customers").fetchone() == (1,)


@pytest.mark.parametrize("lend", [transaction, statements])
async def test_every_way_to_commit_tells_of_a_doubt(
    pool: Pool, database: Database, lend: Callable[[Pool], Any]
) -> None:
    async def write() -> None:
        async with lend(pool) as conn:
            await conn.execute("insert into payments.customers values (gen_random_uuid(), 'cus_1', 'pm_1')")

    with missing_standby(database), pytest.raises(CommitUncertain):
        await cut_short(database, write())
    await write()
    with database.connect() as conn:
        assert conn.execute("select count(*) from payments.customers").fetchone() == (2,), (
            "it is committed all the same"
        )


async def test_payment_is_neither_promised_nor_replayed_before_the_standby_has_it(
    pool: Pool, database: Database
) -> None:
    request = ask(key="k1")

    async def send() -> Outcome:
        (outcome,) = await accept(pool, [same(request)])
        return outcome

    with missing_standby(database):
        assert isinstance(await cut_short(database, send()), Unknown)
        assert isinstance(await cut_short(database, send()), Unknown), "the stored answer proves nothing"
    assert isinstance(await send(), Replayed)


async def test_wish_is_neither_promised_nor_repeated_before_the_standby_has_it(pool: Pool, database: Database) -> None:
    (accepted,) = await accept(pool, [ask()])
    assert isinstance(accepted, Accepted)
    turns = Turns(2)

    async def send() -> WishOutcome:
        request = WishRequest(
            payment_id=accepted.payment_id,
            client_id="shop",
            idempotency_key="k1",
            fingerprint=b"f" * 32,
            traceparent="00-" + "1" * 32 + "-" + "1" * 16 + "-01",
            wish=VoidWish(),
        )
        return await record_wish(pool, turns, request)

    with missing_standby(database):
        assert isinstance(await cut_short(database, send()), Unknown)
        assert isinstance(await cut_short(database, send()), Unknown)
    assert isinstance(await send(), Repeated)


async def test_delivery_is_not_acknowledged_before_the_standby_has_it(pool: Pool, database: Database) -> None:
    body = encode(id="evt_1")
    with missing_standby(database):
        assert isinstance(await cut_short(database, deliver(pool, body)), DatabaseAway)
        assert isinstance(await cut_short(database, deliver(pool, body)), DatabaseAway), (
            "delivered again, still in doubt"
        )
    assert await deliver(pool, body) == Received("evt_1", "payment_intent.succeeded", is_new=False)


@pytest.mark.parametrize("words", [("dead-letters", "discard", "1", "--reason=known"), ("inbox", "retry", "1")])
async def test_operator_is_told_that_what_they_did_may_be_undone(database: Database, words: tuple[str, ...]) -> None:
    with database.connect() as conn:
        conn.execute(
            "insert into payments.inbox (source, message_id, message_type, payload, processed_at, outcome)"
            " values ('stripe-webhook', 'evt_1', 'x', '{}', now(), 'dead')"
        )
        conn.execute(
            "insert into payments.dead_letters (origin, message_id, payload, attempts, error)"
            " values ('inbox', '1', '{}', 1, 'x')"
        )
        assert conn.info.user == ADMIN
    chatty(database)
    dsn = database.admin_dsn()
    with missing_standby(database):
        finished = await cut_short(database, asyncio.to_thread(payments, *words, DATABASE_URL=dsn), ADMIN)
    assert_said_in_words(finished, DatabaseUnsuitable.exit_code, "A failover may undo it")


async def test_who_migrates_is_told_that_it_may_be_undone(empty_database: Database) -> None:
    chatty(empty_database)
    dsn = empty_database.admin_dsn()
    with missing_standby(empty_database):
        finished = await cut_short(empty_database, asyncio.to_thread(payments, "migrate", DATABASE_URL=dsn), ADMIN)
    assert_said_in_words(finished, DatabaseUnsuitable.exit_code, "A failover may undo it")


async def test_reading_costs_no_commit_where_no_standby_is_waited_for(pool: Pool, database: Database) -> None:
    async with transaction(pool) as conn:
        await confirm(conn)
        row = await (await conn.execute("select pg_current_xact_id_if_assigned()")).fetchone()
    assert row == (None,)
