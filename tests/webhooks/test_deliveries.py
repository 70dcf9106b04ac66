"""Deliveries on a real database: a row for what is signed, once, and none for anything else."""

import asyncio
import hmac
import json
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any

import pytest
from structlog.testing import capture_logs

from payments.database.connections import Pool, open_pool
from payments.settings import Settings
from payments.webhooks.deliveries import DatabaseAway, Delivery, Forged, Malformed, Received, TooLarge, accept_delivery
from tests.development.databases import Database
from tests.domain.stripe_objects import event, intent
from tests.domain.test_facts import PAYMENT
from tests.webhooks.test_events import nested
from tests.webhooks.test_signature import HOSTILE

pytestmark = pytest.mark.anyio

SECRETS = ("whsec_tests", "whsec_before_the_rotation")
SETTINGS = Settings.load({"STRIPE_API_KEY": "sk_test_x", "STRIPE_WEBHOOK_SECRETS": ",".join(SECRETS)})
NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
ROLE = "payments_api"


def sign(body: bytes, secret: str = SECRETS[0], at: int = int(NOW.timestamp())) -> bytes:
    signature = hmac.new(secret.encode(), f"{at}.".encode() + body, sha256).hexdigest()
    return f"t={at},v1={signature}".encode()


def encode(**fields: Any) -> bytes:
    return json.dumps({**event("payment_intent.succeeded", intent(PAYMENT, "succeeded")), **fields}).encode()


@pytest.fixture
async def pool(database: Database, anyio_backend: str) -> AsyncIterator[Pool]:
    async with open_pool(database.dsn(ROLE), ROLE, 8) as pool:
        yield pool


async def deliver(pool: Pool, body: bytes, header: bytes | None = None) -> Delivery:
    return await accept_delivery(pool, SETTINGS, sign(body) if header is None else header, body, NOW)


def rows(database: Database) -> list[tuple[Any, ...]]:
    with database.connect() as conn:
        query = "select source, message_id, message_type, payment_id, payload, processed_at from payments.inbox"
        return conn.execute(query).fetchall()


@pytest.mark.every_postgres
async def test_signed_event_becomes_a_row(pool: Pool, database: Database) -> None:
    body = encode(id="evt_1")
    assert await deliver(pool, body) == Received("evt_1", "payment_intent.succeeded", is_new=True)
    ((source, message_id, message_type, payment_id, payload, processed_at),) = rows(database)
    assert (source, message_id, message_type) == ("stripe-webhook", "evt_1", "payment_intent.succeeded")
    assert (payment_id, payload, processed_at) == (PAYMENT, json.loads(body), None)


@pytest.mark.every_postgres
async def test_same_event_again_is_one_row_also_at_the_same_moment(pool: Pool, database: Database) -> None:
    body = encode(id="evt_1")
    deliveries = await asyncio.gather(*(deliver(pool, body, sign(body, secret)) for secret in SECRETS * 10))
    assert sorted(delivery.is_new for delivery in deliveries if isinstance(delivery, Received)) == [False] * 19 + [True]
    assert len(rows(database)) == 1


@pytest.mark.every_postgres
async def test_genuine_event_with_nul_and_surrogates_is_kept(pool: Pool, database: Database) -> None:
    body = encode(id="evt_1", data={"object": {"a\x00b": "\ud800\x00", "c": ["\udfff", "😀"]}})
    assert isinstance(await deliver(pool, body), Received)
    assert rows(database)[0][4]["data"]["object"] == {"a\ufffdb": "\ufffd\ufffd", "c": ["\ufffd", "😀"]}


async def test_every_signed_event_is_kept_for_the_recorder_to_sort(pool: Pool, database: Database) -> None:
    kinds: list[dict[str, Any]] = [
        {"livemode": True},
        {"account": "acct_other"},
        {"api_version": None},
        {"type": "a.type.of.tomorrow"},
        {"data": {"object": {"id": "cus_1", "object": "customer"}}},
        {"created": 10**400},
        {"extra": 1e300},
    ]
    for fields in kinds:
        assert isinstance(await deliver(pool, encode(**fields)), Received)
    assert len(rows(database)) == len(kinds)


async def test_hostile_delivery_leaves_no_row(pool: Pool, database: Database) -> None:
    body = encode()
    for header in HOSTILE:
        if header is not None:
            assert isinstance(await deliver(pool, body, header), Forged)
    for text in (b"", b"[]", b"{}", b"\xff", nested(100_000), body[:-1], encode(id="evt_\x00")):
        assert isinstance(await deliver(pool, text), Malformed), "signed, and still no event"
        assert isinstance(await deliver(pool, text, sign(body)), Forged)
    resaid = json.dumps(json.loads(body), separators=(",", ":")).encode()
    assert isinstance(await deliver(pool, resaid, sign(body)), Forged)
    assert rows(database) == []


async def test_body_above_the_limit_is_refused_before_it_is_hashed(pool: Pool, database: Database) -> None:
    body = encode(padding="x" * SETTINGS.webhook_bytes_max)
    assert await deliver(pool, body) == TooLarge(SETTINGS.webhook_bytes_max)
    assert rows(database) == []


async def test_unsigned_garbage_costs_no_parsing(pool: Pool, database: Database) -> None:
    body = nested(SETTINGS.webhook_bytes_max // 2 - 100)
    started_s = time.perf_counter()
    for _ in range(50):
        assert isinstance(await deliver(pool, body, sign(b"another body")), Forged)
    assert (time.perf_counter() - started_s) / 50 < 0.02, "hashing half a megabyte twice takes a millisecond or two"


async def test_delivery_signed_afresh_days_later_is_taken_and_a_replayed_one_is_not(pool: Pool) -> None:
    body = encode()
    days_ago = int(NOW.timestamp()) - 3 * 86_400
    assert isinstance(await deliver(pool, body, sign(body, at=days_ago)), Forged)
    assert isinstance(await deliver(pool, body), Received)


async def test_database_away_is_said_and_nothing_is_promised(database: Database, eventually_async: Any) -> None:
    body = encode(id="evt_1")
    async with open_pool(database.dsn(ROLE), ROLE, 2) as pool:
        pool.timeout = 0.5
        database.server.postgres.stop()
        try:
            assert isinstance(await deliver(pool, body), DatabaseAway)
        finally:
            database.server.postgres.start()

        async def is_received() -> bool:
            return isinstance(await deliver(pool, body), Received)

        await eventually_async(is_received)
        assert len(rows(database)) == 1


async def test_database_that_refuses_to_write_is_away_too(pool: Pool, database: Database) -> None:
    columns = "source, message_id, message_type, payment_id, payload"
    with database.connect() as conn:
        conn.execute(f"revoke insert ({columns}) on payments.inbox from payments_api")
    assert isinstance(await deliver(pool, encode()), DatabaseAway)


QUOTING = """
create function public.refuse() returns trigger language plpgsql as $$
begin
  raise exception 'refused' using errcode = '{errcode}', detail = 'Failing row: ' || new.payload::text;
end $$;
create trigger refuse before insert on payments.inbox for each row execute function public.refuse();
"""


@pytest.mark.parametrize(("errcode", "said"), [("check_violation", DatabaseAway), ("data_exception", Malformed)])
async def test_what_postgresql_quotes_of_a_row_is_not_logged(
    pool: Pool, database: Database, errcode: str, said: type
) -> None:
    with database.connect() as conn:
        conn.execute(QUOTING.format(errcode=errcode))
    with capture_logs() as logs:
        assert isinstance(await deliver(pool, encode()), said)
    assert [line["error"] for line in logs] == ["refused"]
    assert "exc_info" not in logs[0]
