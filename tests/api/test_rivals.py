"""Many at once, on two processes; and a process that is killed while it works."""

import asyncio
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from tests.api.driving import ApiProcess, count_rows, running_api, wish
from tests.development.databases import Database


@pytest.fixture(scope="module")
def two(module_database: Database, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[ApiProcess]]:
    logs = tmp_path_factory.mktemp("two")
    with (
        running_api(module_database, logs / "one.log") as one,
        running_api(module_database, logs / "other.log") as other,
    ):
        yield [one, other]


@pytest.fixture
def grown(module_database: Database) -> Callable[[], dict[str, int]]:
    """By how many rows each table has grown since the test began."""
    before = count_rows(module_database)
    return lambda: {table: count - before[table] for table, count in count_rows(module_database).items()}


async def send_all(
    apis: list[ApiProcess], requests: list[tuple[dict[str, object], str | None]]
) -> list[httpx.Response]:
    """All requests at once, spread over the processes."""
    clients = [api.async_client() for api in apis]
    try:
        calls = [
            clients[number % len(clients)].post(
                "/payments/authorize", json=body, headers={"Idempotency-Key": key} if key else {}
            )
            for number, (body, key) in enumerate(requests)
        ]
        return await asyncio.gather(*calls)
    finally:
        for client in clients:
            await client.aclose()


def whole(payments: int, keys: int) -> dict[str, int]:
    return {"payments": payments, "payment_history": payments, "outbox": payments, "idempotency_keys": keys}


def test_fifty_with_the_same_key_get_the_same_bytes(two: list[ApiProcess], grown: Callable[[], dict[str, int]]) -> None:
    body = wish()
    answers = asyncio.run(send_all(two, [(body, "the-same")] * 50))
    assert {answer.status_code for answer in answers} == {201}
    assert len({answer.content for answer in answers}) == 1
    assert sum("idempotency-replayed" in answer.headers for answer in answers) == 49
    assert grown() == whole(1, 1)


def test_fifty_for_the_same_cart_without_key_get_one_payment(
    two: list[ApiProcess], grown: Callable[[], dict[str, int]]
) -> None:
    answers = asyncio.run(send_all(two, [(wish(cartId=str(uuid.UUID(int=7))), None)] * 50))
    assert sorted(answer.status_code for answer in answers) == [200] * 49 + [201]
    assert len({answer.content for answer in answers}) == 1
    assert grown() == whole(1, 0)


def test_fifty_for_the_same_cart_with_keys_of_their_own_get_one_payment(
    two: list[ApiProcess], grown: Callable[[], dict[str, int]]
) -> None:
    body = wish()
    answers = asyncio.run(send_all(two, [(body, str(number)) for number in range(50)]))
    assert sorted(answer.status_code for answer in answers) == [201] + [409] * 49
    assert len({answer.json()["paymentId"] for answer in answers}) == 1
    assert grown() == whole(1, 1)


def test_fifty_with_the_same_key_and_different_bodies_make_one_payment(
    two: list[ApiProcess], grown: Callable[[], dict[str, int]]
) -> None:
    answers = asyncio.run(send_all(two, [(wish(amount=100 + number), "another") for number in range(50)]))
    assert sorted(answer.status_code for answer in answers) == [201] + [422] * 49
    assert grown() == whole(1, 1)


def test_what_was_answered_before_a_kill_is_there_and_nothing_is_half_there(database: Database, tmp_path: Path) -> None:
    accepted: dict[str, str] = {}

    async def shop_until_it_dies(api: ApiProcess, kill_after: int) -> None:
        async def order(client: httpx.AsyncClient) -> None:
            try:
                while True:
                    answer = await client.post(
                        "/payments/authorize", json=wish(), headers={"Idempotency-Key": str(uuid.uuid4())}
                    )
                    assert answer.status_code == 201
                    accepted[answer.json()["paymentId"]] = answer.json()["cartId"]
                    if len(accepted) == kill_after:
                        api.kill()
            except httpx.TransportError:
                return

        async with api.async_client() as client:
            await asyncio.gather(*(order(client) for _ in range(16)))

    api = ApiProcess(database, tmp_path / "api.log")
    for round_number in range(1, 4):
        asyncio.run(shop_until_it_dies(api.start(), kill_after=60 * round_number))
    with database.connect() as conn:
        kept = dict(conn.execute("select payment_id::text, cart_id::text from payments.payments").fetchall())
        halves = conn.execute(
            "select payment_id from payments.payments p where "
            "(select count(*) from payments.outbox where aggregate_id = p.payment_id) <> 1 "
            "or (select count(*) from payments.payment_history h where h.payment_id = p.payment_id) <> 1 "
            "or (select count(*) from payments.idempotency_keys k where k.payment_id = p.payment_id) <> 1"
        ).fetchall()
    assert len(accepted) >= 180
    assert accepted.items() <= kept.items()
    assert halves == []
