"""Many wishes for one payment at once, on two processes: one effect, or none, and never too much money."""

import asyncio
import uuid
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest

from tests.api.driving import ApiProcess, running_api
from tests.api.staging import columns_of, effects_of, payment_in
from tests.development.databases import Database

Wish = tuple[str, dict[str, Any], str | None]


@pytest.fixture(scope="module")
def two(module_database: Database, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[ApiProcess]]:
    logs = tmp_path_factory.mktemp("two")
    with (
        running_api(module_database, logs / "one.log") as one,
        running_api(module_database, logs / "other.log") as other,
    ):
        yield [one, other]


@pytest.fixture(scope="module")
def asker(two: list[ApiProcess]) -> Iterator[httpx.Client]:
    with two[0].client() as client:
        yield client


@pytest.fixture(scope="module")
def looker(module_database: Database) -> Iterator[psycopg.Connection[Any]]:
    with module_database.connect() as conn:
        yield conn


def at_once(apis: list[ApiProcess], wishes: list[Wish]) -> list[httpx.Response]:
    """All wishes at once, spread over the processes."""

    async def send() -> list[httpx.Response]:
        clients = [api.async_client() for api in apis]
        try:
            calls = [
                clients[number % len(clients)].post(path, json=body, headers={"Idempotency-Key": key} if key else {})
                for number, (path, body, key) in enumerate(wishes)
            ]
            return await asyncio.gather(*calls)
        finally:
            for client in clients:
                await client.aclose()

    return asyncio.run(send())


def statuses(answers: list[httpx.Response]) -> Counter[int]:
    return Counter(answer.status_code for answer in answers)


def is_whole(looker: psycopg.Connection[Any], payment_id: str) -> bool:
    """Events are numbered without gap, and each refund has its event and its line of history."""
    row = looker.execute(
        "select p.last_sequence = (select count(*) from payments.outbox where aggregate_id = p.payment_id), "
        "(select count(*) from payments.refunds where payment_id = p.payment_id) = "
        "(select count(*) from payments.outbox where aggregate_id = p.payment_id and event_type = 'refund-requested'), "
        "(select count(*) from payments.refunds where payment_id = p.payment_id) = "
        "(select count(*) from payments.payment_history where payment_id = p.payment_id and signal = 'refund-payment') "
        "from payments.payments p where p.payment_id = %s",
        (payment_id,),
    ).fetchone()
    return row == (True, True, True)


def test_refunds_at_once_never_exceed_what_was_captured(
    two: list[ApiProcess], asker: httpx.Client, looker: psycopg.Connection[Any]
) -> None:
    payment_id = payment_in(asker, looker, "SUCCEEDED")
    answers = at_once(two, [(f"/payments/{payment_id}/refunds", {"amount": 150}, None)] * 30)
    assert statuses(answers) == {201: 6, 409: 24}
    assert {a.json()["code"] for a in answers if a.status_code == 409} == {"amount_exceeds_captured"}
    assert columns_of(looker, payment_id, "amount_reserved") == (900,)
    assert effects_of(looker, payment_id) == {"refund-requested": 6, "refunds": 6}
    assert is_whole(looker, payment_id)


def test_refunds_of_all_that_is_left_are_one(
    two: list[ApiProcess], asker: httpx.Client, looker: psycopg.Connection[Any]
) -> None:
    payment_id = payment_in(asker, looker, "SUCCEEDED")
    answers = at_once(two, [(f"/payments/{payment_id}/refunds", {}, str(number)) for number in range(20)])
    assert statuses(answers) == {201: 1, 409: 19}
    assert effects_of(looker, payment_id) == {"refund-requested": 1, "refunds": 1, "idempotency_keys": 1}


def test_the_same_capture_many_times_is_one(
    two: list[ApiProcess], asker: httpx.Client, looker: psycopg.Connection[Any]
) -> None:
    payment_id = payment_in(asker, looker, "AUTHORIZED")
    answers = at_once(two, [(f"/payments/{payment_id}/capture", {"amount": 700}, None)] * 20)
    assert statuses(answers) == {202: 20}
    assert len({answer.content for answer in answers}) == 1
    assert effects_of(looker, payment_id) == {"capture-requested": 1}


def test_of_different_captures_one_wins(
    two: list[ApiProcess], asker: httpx.Client, looker: psycopg.Connection[Any]
) -> None:
    payment_id = payment_in(asker, looker, "AUTHORIZED")
    answers = at_once(two, [(f"/payments/{payment_id}/capture", {"amount": 500 + n}, None) for n in range(20)])
    assert statuses(answers) == {202: 1, 409: 19}
    assert {a.json()["code"] for a in answers if a.status_code == 409} == {"not_capturable"}
    assert effects_of(looker, payment_id) == {"capture-requested": 1}


@pytest.mark.parametrize("first", ["capture", "void"])
def test_of_capture_and_void_exactly_one_wins(
    two: list[ApiProcess], asker: httpx.Client, looker: psycopg.Connection[Any], first: str
) -> None:
    second = {"capture": "void", "void": "capture"}[first]
    for _ in range(5):
        payment_id = payment_in(asker, looker, "AUTHORIZED")
        answers = at_once(two, [(f"/payments/{payment_id}/{what}", {}, None) for what in (first, second) * 4])
        won = {what for what, answer in zip((first, second) * 4, answers, strict=True) if answer.status_code == 202}
        assert len(won) == 1
        assert statuses(answers) == {202: 4, 409: 4}
        assert effects_of(looker, payment_id) == {f"{won.pop()}-requested": 1}
        assert is_whole(looker, payment_id)


@pytest.mark.parametrize(
    ("what", "status"), [("capture", "AUTHORIZED"), ("void", "AUTHORIZED"), ("refunds", "SUCCEEDED")]
)
def test_many_with_the_same_key_get_the_same_bytes(
    two: list[ApiProcess], asker: httpx.Client, looker: psycopg.Connection[Any], what: str, status: str
) -> None:
    payment_id, key = payment_in(asker, looker, status), str(uuid.uuid4())
    answers = at_once(two, [(f"/payments/{payment_id}/{what}", {}, key)] * 30)
    assert len({(answer.status_code, answer.content, answer.headers.get("location")) for answer in answers}) == 1
    assert sum("idempotency-replayed" in answer.headers for answer in answers) == 29
    effects = effects_of(looker, payment_id)
    assert effects.pop("idempotency_keys") == 1
    assert set(effects.values()) == {1}


def test_one_key_for_many_wishes_stands_for_one_of_them(
    two: list[ApiProcess], asker: httpx.Client, looker: psycopg.Connection[Any]
) -> None:
    key = str(uuid.uuid4())
    ids = [payment_in(asker, looker, "SUCCEEDED") for _ in range(6)]
    wishes = [(f"/payments/{each}/refunds", {"amount": amount}, key) for each in ids for amount in (1, 2, 3)]
    # One cart, or one of these would be told of another cart's payment.
    wishes += [("/payments/authorize", {"cartId": str(uuid.uuid4()), "amount": 500, "currency": "EUR"}, key)] * 2
    answers = at_once(two, wishes)
    assert statuses(answers)[422] >= 18
    assert sum(answer.is_success and "idempotency-replayed" not in answer.headers for answer in answers) == 1
    row = looker.execute("select count(*) from payments.refunds where payment_id = any(%s)", (ids,)).fetchone()
    made = looker.execute("select count(*) from payments.payments where idempotency_key = %s", (key,)).fetchone()
    assert row is not None
    assert made is not None
    assert row[0] + made[0] == 1


def test_what_was_answered_before_a_kill_is_there_and_nothing_is_half_there(database: Database, tmp_path: Path) -> None:
    api = ApiProcess(database, tmp_path / "api.log")
    answered: set[str] = set()

    async def refund_until_it_dies(payment_id: str, kill_after: int) -> None:
        async def ask(client: httpx.AsyncClient) -> None:
            try:
                while True:
                    answer = await client.post(f"/payments/{payment_id}/refunds", json={"amount": 1})
                    assert answer.status_code == 201
                    answered.add(answer.json()["refundId"])
                    if len(answered) == kill_after:
                        api.kill()
            except httpx.TransportError:
                return

        async with api.async_client() as client:
            await asyncio.gather(*(ask(client) for _ in range(8)))

    with database.connect() as conn:
        ids = []
        for round_number in range(1, 4):
            with api.start().client() as client:
                ids.append(payment_in(client, conn, "SUCCEEDED"))
            asyncio.run(refund_until_it_dies(ids[-1], kill_after=20 * round_number))
        kept = {str(row[0]) for row in conn.execute("select refund_id from payments.refunds").fetchall()}
        assert answered <= kept
        assert len(answered) >= 60
        assert all(is_whole(conn, payment_id) for payment_id in ids)
