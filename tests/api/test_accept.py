"""`accept` with lists: each request gets the outcome that it would have got alone, whatever stands beside it."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg_pool import PoolTimeout

from payments.api import accept as accepting
from payments.api.accept import accept
from payments.api.accept_outcomes import (
    Accepted,
    AcceptRequest,
    CartTaken,
    Failed,
    InProgress,
    KeyReused,
    LivePayment,
    Outcome,
    Replayed,
    Rival,
    StoredAnswer,
    Unknown,
    Winners,
    decide_loser,
)
from payments.api.authorize_body import AuthorizePayment
from payments.api.idempotency import fingerprint
from payments.database.connections import Pool, open_pool
from payments.domain.identifiers import new_id
from tests.api.driving import count_rows, settle
from tests.development.databases import Database

pytestmark = pytest.mark.anyio


@pytest.fixture
async def pool(database: Database) -> AsyncIterator[Pool]:
    async with open_pool(database.dsn("payments_api"), "payments_api", 8) as opened:
        yield opened


def ask(
    cart: uuid.UUID | None = None, key: str | None = None, amount: int = 500, client: str = "shop"
) -> AcceptRequest:
    cart_id = cart or uuid.uuid4()
    wish = AuthorizePayment(
        cart_id=cart_id,
        order_id=cart_id,
        customer_id=None,
        amount=amount,
        currency="EUR",
        capture_method="automatic",
        payment_method=None,
        metadata={},
    )
    return AcceptRequest(
        payment_id=new_id(),
        event_id=new_id(),
        client_id=client,
        idempotency_key=key,
        fingerprint=fingerprint("POST", "/payments/authorize", wish),
        traceparent=None,
        wish=wish,
    )


def same(request: AcceptRequest) -> AcceptRequest:
    """The same request once more: other ids, for those are made anew each time."""
    return ask(request.wish.cart_id, request.idempotency_key, request.wish.amount, request.client_id)


async def begin_payment(
    conn: psycopg.AsyncConnection[Any], cart: uuid.UUID, key: str | None, like: AcceptRequest
) -> None:
    """What another process has inserted and not committed yet."""
    await conn.execute(
        "insert into payments.payments (payment_id, cart_id, order_id, amount, currency, capture_method, client_id, "
        "idempotency_key, fingerprint) values (%s, %s, %s, 500, 'EUR', 'automatic', 'shop', %s, %s)",
        (like.payment_id if key else new_id(), cart, cart, key, like.fingerprint),
    )


@pytest.mark.every_postgres
async def test_accept_records_each_of_a_list(pool: Pool, database: Database) -> None:
    requests = [ask(key=str(n) if n % 2 else None) for n in range(40)]
    outcomes = await accept(pool, requests)
    assert [type(outcome) for outcome in outcomes] == [Accepted] * 40
    assert [outcome.payment_id for outcome in outcomes] == [request.payment_id for request in requests]  # type: ignore[union-attr]
    assert count_rows(database) == {"payments": 40, "payment_history": 40, "outbox": 40, "idempotency_keys": 20}


async def test_accept_takes_one_round_trip_when_nobody_loses(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    statements = []
    execute = psycopg.AsyncConnection.execute

    async def counted(self: Any, query: Any, *args: Any, **kwargs: Any) -> Any:
        statements.append(query)
        return await execute(self, query, *args, **kwargs)

    await accept(pool, [ask()])
    monkeypatch.setattr(psycopg.AsyncConnection, "execute", counted)
    await accept(pool, [ask(key="a"), ask(), ask(key="b")])
    assert [query for query in statements if query] == [accepting._QUERIES["accept"]]


@pytest.mark.every_postgres
async def test_accept_tells_duplicates_in_one_list_apart(pool: Pool, database: Database) -> None:
    keyed, keyless = ask(key="k"), ask()
    requests = [
        keyed,
        same(keyed),
        ask(keyed.wish.cart_id, "k", amount=501),
        ask(keyed.wish.cart_id, "other"),
        keyless,
        same(keyless),
        ask(keyless.wish.cart_id, amount=501),
        ask(key="k", client="another"),
        same(keyed),
    ]
    outcomes = await accept(pool, requests)
    winner, loser = sorted((outcomes[0], outcomes[3]), key=lambda each: isinstance(each, CartTaken))
    assert isinstance(winner, Accepted)
    assert loser == CartTaken(winner.payment_id)
    kinds = [type(outcome) for outcome in outcomes]
    assert kinds[4:8] == [Accepted, LivePayment, CartTaken, Accepted]
    assert outcomes[5].payment_id == keyless.payment_id  # type: ignore[union-attr]
    assert count_rows(database)["payments"] == 3


async def test_accept_replays_within_and_across_lists_with_the_same_bytes(pool: Pool) -> None:
    request = ask(key="k")
    within = await accept(pool, [request, same(request), same(request)])
    accepted = [outcome for outcome in within if isinstance(outcome, Accepted)]
    replayed = [outcome for outcome in within if isinstance(outcome, Replayed)]
    (later,) = await accept(pool, [same(request)])
    assert isinstance(later, Replayed)
    assert (len(accepted), len(replayed)) == (1, 2)
    assert {accepted[0].answer} == {each.answer for each in (*replayed, later)}
    assert {accepted[0].payment_id} == {each.payment_id for each in (*replayed, later)}


async def test_accept_in_crossing_lists_ends_with_one_payment_a_cart(pool: Pool, database: Database) -> None:
    carts = [uuid.uuid4() for _ in range(30)]
    lists = [[ask(cart, f"{n}-{cart}") for cart in (carts if n % 2 else reversed(carts))] for n in range(8)]
    found = await asyncio.gather(*(accept(pool, requests) for requests in lists))
    outcomes = [outcome for outcomes in found for outcome in outcomes]
    assert {type(outcome) for outcome in outcomes} <= {Accepted, CartTaken}
    assert sum(isinstance(outcome, Accepted) for outcome in outcomes) == 30
    assert count_rows(database) == {"payments": 30, "payment_history": 30, "outbox": 30, "idempotency_keys": 30}


async def test_accept_in_lists_that_cross_by_key_and_cart_survives_the_deadlock(pool: Pool, database: Database) -> None:
    carts, keys = sorted(uuid.uuid4() for _ in range(12)), [f"k{n}" for n in range(12)]
    forth = [ask(cart, key) for cart, key in zip(carts, keys, strict=True)]
    back = [ask(cart, key) for cart, key in zip(carts, reversed(keys), strict=True)]
    found = await asyncio.gather(*(accept(pool, requests) for requests in (forth, back) * 3))
    outcomes = [outcome for outcomes in found for outcome in outcomes]
    assert not any(isinstance(outcome, Failed | Unknown) for outcome in outcomes)
    rows = count_rows(database)
    assert rows["payments"] == rows["outbox"] == rows["payment_history"] == rows["idempotency_keys"]
    assert sum(isinstance(outcome, Accepted) for outcome in outcomes) == rows["payments"]


async def test_accept_waits_for_the_same_key_and_then_replays(pool: Pool, database: Database) -> None:
    request = ask(key="k")
    async with await psycopg.AsyncConnection.connect(database.admin_dsn()) as other:
        await begin_payment(other, request.wish.cart_id, "k", request)
        asked = asyncio.create_task(accept(pool, [same(request), ask()]))
        await asyncio.sleep(0.2)
        assert not asked.done()
        await other.commit()
        outcomes = await asked
    assert [type(outcome) for outcome in outcomes] == [Replayed, Accepted]
    assert outcomes[0].payment_id == request.payment_id  # type: ignore[union-attr]


async def test_accept_takes_the_cart_when_the_other_request_rolls_back(pool: Pool, database: Database) -> None:
    request = ask(key="k")
    async with await psycopg.AsyncConnection.connect(database.admin_dsn()) as other:
        await begin_payment(other, request.wish.cart_id, None, request)
        asked = asyncio.create_task(accept(pool, [request]))
        await asyncio.sleep(0.1)
        await other.rollback()
        assert [type(outcome) for outcome in await asked] == [Accepted]


@pytest.mark.every_postgres
async def test_accept_gives_up_waiting_for_a_request_that_never_ends(
    pool: Pool, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(accepting, "LOCK_WAIT_MS", 100)
    request = ask(key="k")
    async with await psycopg.AsyncConnection.connect(database.admin_dsn()) as other:
        await begin_payment(other, uuid.uuid4(), "k", request)
        outcomes = await accept(pool, [ask(), request, ask()])
    assert [type(outcome) for outcome in outcomes] == [Accepted, InProgress, Accepted]


async def test_accept_tries_again_when_the_winner_has_ended_meanwhile(
    pool: Pool, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = ask(), ask()
    second = ask(first.wish.cart_id, amount=700)
    await accept(pool, [first])
    resolve = accepting._resolve

    async def resolve_late(pool: Pool, losers: list[AcceptRequest]) -> dict[uuid.UUID, Outcome]:
        with database.connect() as conn:
            settle(conn, str(first.payment_id), "FAILED")
        return await resolve(pool, losers)

    monkeypatch.setattr(accepting, "_resolve", resolve_late)
    assert [type(outcome) for outcome in await accept(pool, [second])] == [Accepted]


async def test_accept_lets_one_that_the_database_refuses_fail_alone(pool: Pool, database: Database) -> None:
    requests = [ask(key="a"), ask(amount=0), ask(key="b")]  # amount 0 passes no CHECK; the parser would have refused it
    outcomes = await accept(pool, requests)
    assert [type(outcome) for outcome in outcomes] == [Accepted, Failed, Accepted]
    assert isinstance(outcomes[1].error, psycopg.errors.CheckViolation)  # type: ignore[union-attr]
    assert count_rows(database)["payments"] == 2


async def test_accept_says_unknown_when_the_connection_breaks(pool: Pool, database: Database) -> None:
    request = ask(key="k")
    async with await psycopg.AsyncConnection.connect(database.admin_dsn()) as other:
        await other.execute("lock table payments.payments in exclusive mode")
        asked = asyncio.create_task(accept(pool, [request]))
        async with await psycopg.AsyncConnection.connect(database.admin_dsn(), autocommit=True) as third:
            killed = 0
            while not killed:
                cursor = await third.execute(
                    "select count(pg_terminate_backend(pid)) from pg_stat_activity "
                    "where datname = current_database() and wait_event_type = 'Lock'"
                )
                killed = (await cursor.fetchone() or (0,))[0]
        (outcome,) = await asked
    assert isinstance(outcome, Unknown)


async def test_accept_says_failed_when_there_is_no_connection(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    held = [await pool.getconn() for _ in range(8)]
    monkeypatch.setattr(pool, "timeout", 0.05)
    try:
        outcomes = await accept(pool, [ask(), ask()])
    finally:
        for conn in held:
            await pool.putconn(conn)
    assert [type(outcome.error) for outcome in outcomes] == [PoolTimeout] * 2  # type: ignore[union-attr]


def test_fingerprint_is_of_what_was_asked_for_and_not_of_the_order_of_its_fields() -> None:
    one, other = ({"a": "1", "b": "2"}, {"b": "2", "a": "1"})
    assert fingerprint("POST", "/x", {"metadata": one}) == fingerprint("POST", "/x", {"metadata": other})
    assert fingerprint("POST", "/x", {"metadata": one}) != fingerprint("POST", "/x", {"metadata": {"a": "1"}})
    assert fingerprint("POST", "/x", one) != fingerprint("POST", "/y", one)


fingerprints = st.sampled_from([b"1" * 32, b"2" * 32])
payment_ids = st.uuids()
answers = st.builds(
    StoredAnswer, st.none() | payment_ids, fingerprints, st.just(201), st.none() | st.just("/x"), st.just("{}")
)
rivals = st.builds(Rival, payment_ids, fingerprints, st.just("{}"))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.none() | st.just("key"),
    fingerprints,
    st.builds(Winners, st.none() | answers, st.none() | rivals, st.none() | rivals),
)
async def test_decide_loser_never_repeats_another_wish_and_never_hides_one(
    key: str | None, mine: bytes, winners: Winners
) -> None:
    template = ask(key=key)
    request = AcceptRequest(
        **{field: getattr(template, field) for field in AcceptRequest.__struct_fields__} | {"fingerprint": mine}
    )
    outcome = decide_loser(request, winners)
    first = winners.stored or winners.under_key or winners.of_cart
    if first is None:
        assert outcome is None
    elif isinstance(outcome, Replayed | LivePayment):
        assert first.fingerprint == mine
        assert outcome.payment_id == first.payment_id
        assert isinstance(outcome, LivePayment) == (first is winners.of_cart)
    elif isinstance(outcome, CartTaken):
        assert first is winners.of_cart
        assert key is not None or first.fingerprint != mine
    else:
        assert isinstance(outcome, KeyReused)
        assert first.fingerprint != mine or first.payment_id is None
