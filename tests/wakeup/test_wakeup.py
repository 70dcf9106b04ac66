import asyncio
import re
from pathlib import Path
from uuid import uuid4

import psycopg
import pytest

from payments.database.connections import Connection, connect
from payments.wakeup import OUTBOX, QUEUE, Listener, Notifier, PollInterval
from payments.wakeup.payloads import ANYTHING, BYTES_MAX, GATHERED_MAX, gather, pack, unpack
from tests.development.databases import Database

LONG_S = 15.0  # bounds a hang, not a speed
pytestmark = pytest.mark.anyio
RELAY = "payments_relay"
ROOT = Path(__file__).parents[2]


async def test_notification_carries_its_payloads_to_every_subscriber(database: Database) -> None:
    dsn = database.dsn(RELAY)
    async with Listener(dsn, RELAY) as listener, Notifier(dsn, RELAY) as notifier:
        first, second, other = listener.subscribe(QUEUE), listener.subscribe(QUEUE), listener.subscribe(OUTBOX)
        for bell in (first, second, other):
            assert await bell.wait(LONG_S) == {ANYTHING}  # the server listens from here on
        wanted = {str(uuid4()) for _ in range(1_000)}  # more than one notification holds
        for payload in wanted:
            notifier.notify(QUEUE, payload)
        for bell in (first, second):
            got: set[str] = set()
            while got != wanted:
                payloads = await bell.wait(LONG_S)
                assert payloads is not None
                got |= payloads
        notifier.notify(OUTBOX)
        assert await other.wait(LONG_S) == {ANYTHING}
        assert await first.wait(0.01) is None


async def test_notifier_sends_the_trailing_edge_and_what_is_pending_at_the_end(database: Database) -> None:
    dsn = database.dsn(RELAY)
    async with Listener(dsn, RELAY) as listener:
        bell = listener.subscribe(QUEUE)
        await bell.wait(LONG_S)
        async with Notifier(dsn, RELAY) as notifier:
            notifier.notify(QUEUE, "first")
            assert await bell.wait(LONG_S) == {"first"}
            notifier.notify(QUEUE, "second")
            assert await bell.wait(LONG_S) == {"second"}
            notifier.notify(QUEUE, "last")
        assert await bell.wait(LONG_S) == {"last"}


async def test_listener_and_notifier_survive_a_terminated_connection(database: Database) -> None:
    dsn = database.dsn(RELAY)
    async with Listener(dsn, RELAY) as listener, Notifier(dsn, RELAY) as notifier:
        bell = listener.subscribe(QUEUE)
        assert await bell.wait(LONG_S) == {ANYTHING}
        with database.connect() as admin:
            ended = admin.execute(
                "select count(pg_terminate_backend(pid)) from pg_stat_activity"
                " where datname = current_database() and pid <> pg_backend_pid()"
            ).fetchone()
        assert ended is not None
        assert ended[0] >= 1
        assert await bell.wait(LONG_S) == {ANYTHING}, "rung once after the reconnect"
        notifier.notify(QUEUE, "after")
        got: set[str] = set()
        while not got & {"after", ANYTHING}:
            got |= await bell.wait(LONG_S) or set()


async def test_listener_and_notifier_survive_whatever_the_server_refuses(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A missing grant is mended one day, a standby is promoted: both must then work again, not only after a restart."""
    dsn = database.dsn(RELAY)
    refusals = iter([psycopg.errors.InsufficientPrivilege("no"), psycopg.errors.ReadOnlySqlTransaction("in recovery")])

    async def refuse_first(*where: str) -> Connection:
        for error in refusals:
            raise error
        return await connect(*where)

    monkeypatch.setattr("payments.wakeup.listener.connect", refuse_first)
    with database.connect() as admin:
        admin.execute("revoke execute on function pg_notify from public")
    async with Listener(dsn, RELAY) as listener, Notifier(dsn, RELAY) as notifier:
        bell = listener.subscribe(QUEUE)
        assert await bell.wait(LONG_S) == {ANYTHING}
        notifier.notify(QUEUE, "refused at first")
        assert await bell.wait(0.5) is None
        with database.connect() as admin:
            admin.execute("grant execute on function pg_notify to public")
        assert await bell.wait(LONG_S) in ({ANYTHING}, {"refused at first"})


async def test_notify_without_a_database_neither_blocks_nor_raises(database: Database) -> None:
    nowhere = "postgresql://nobody@127.0.0.1:1/none"
    async with Notifier(nowhere, RELAY) as notifier:
        for number in range(3 * GATHERED_MAX):
            notifier.notify(QUEUE, str(number))
        await asyncio.sleep(0)
        assert sum(len(payloads) for payloads in notifier._pending.values()) <= GATHERED_MAX


def test_only_the_notifiers_own_statement_notifies() -> None:
    """In a working transaction, or a trigger of one, NOTIFY would serialise all commits of the cluster."""
    notifying = re.compile(
        r"^[^-#]*?\b(?:pg_notify|enable_notify_insert|(?-i:notify)\s+\"?[a-z])", re.MULTILINE | re.IGNORECASE
    )
    sources = [*(ROOT / "sql").rglob("*.sql"), *(ROOT / "payments").rglob("*.py")]
    statements = [f"{path.name}: {found}" for path in sources for found in notifying.findall(_said(path))]
    assert statements == ["wakeup.sql: select pg_notify"]


def _said(path: Path) -> str:
    """A file without what Python's docstrings say."""
    return re.sub(r'""".*?"""', "", path.read_text(), flags=re.DOTALL)


def test_pack_keeps_every_payload_within_the_limit() -> None:
    payloads = {str(uuid4()) for _ in range(1_000)} | {ANYTHING}
    packed = list(pack(payloads))
    assert all(len(one.encode()) <= BYTES_MAX for one in packed)
    assert {payload for one in packed for payload in unpack(one)} == payloads


def test_gather_turns_too_many_particulars_into_anything() -> None:
    gathered: set[str] = set()
    gather(gathered, map(str, range(GATHERED_MAX)))
    assert len(gathered) == GATHERED_MAX
    gather(gathered, ["one more"])
    assert gathered == {ANYTHING}


def test_poll_interval_quickens_for_a_while_after_unannounced_work() -> None:
    now = 0.0
    interval = PollInterval(0.5, clock=lambda: now)
    assert interval.timeout_s == 0.5
    interval.note(announced=True, found_work=True)
    interval.note(announced=False, found_work=False)
    assert interval.timeout_s == 0.5
    interval.note(announced=False, found_work=True)
    assert interval.timeout_s == 0.05
    now = 31.0
    assert interval.timeout_s == 0.5
