"""What Ordering is told and asked: each outcome once, clear refusals, one payment for one wish, no card number ever."""

import json
from collections.abc import Callable, Iterator
from uuid import uuid4

import httpx
import psycopg
import pytest
from psycopg import sql

from tests.conftest import wait_until
from tests.scenarios.world import World
from tests.system.running import System, payments_up

CARD = "4242424242424242"  # Stripe's own test number, published in its documentation
CARD_WRITTEN = ("4242 4242 4242 4242", "4242-4242-4242-4242", "card:5555555555554444.", "378282246310005")


@pytest.fixture(scope="module")
def system() -> Iterator[System]:
    with payments_up("--copies", "2") as running:
        yield running


def test_47_crash_around_dispatch(world: World) -> None:
    ids = []
    for number in range(60):
        ids.append(world.accepted()["paymentId"])
        if number % 15 == 7:
            world.system.kill(("relay", "relay.2")[number % 2])
            world.system.kill(("relay.2", "relay")[number % 2])
    for payment_id in ids:
        world.until(payment_id, "SUCCEEDED")
    world.agree()
    # Every queue, not only Ordering's: what all batches of a lane sent is what the outbox has for it.
    sent = """select queue_name, sum(row_count), (
            select count(*) from payments.outbox o where exists (
              select from pgmq.topic_bindings t
              where t.queue_name = b.queue_name and payments.routing_key(o.event_type) ~ t.compiled_regex))
        from payments.relay_batches b group by queue_name"""
    for queue, batched, owed in world.system.rows(sent):
        assert batched == owed, queue


def test_48_row_that_commits_late(world: World) -> None:
    payment_id, event_id = str(uuid4()), str(uuid4())
    values = {"payment_id": payment_id, "event_id": event_id, "fingerprint": b"0" * 32}
    with psycopg.connect(world.system.env["DATABASE_URL"]) as late:
        late.execute(
            """insert into payments.payments
              (payment_id, cart_id, order_id, amount, currency, capture_method, payment_method, client_id, fingerprint)
            values (%(payment_id)s, %(payment_id)s, %(payment_id)s, 1999, 'EUR', 'automatic', 'pm_card_visa',
              'late', %(fingerprint)s)""",
            values,
        )
        row = late.execute(
            """insert into payments.outbox (event_id, event_type, aggregate_id, sequence, payload, headers)
            values (%(event_id)s::uuid, 'payment-requested', %(payment_id)s::uuid, 1,
              jsonb_build_object('paymentId', %(payment_id)s::uuid::text, 'orderId', %(payment_id)s::uuid::text,
                'amount', 1999, 'currency', 'EUR', 'requestedAt', payments.rfc3339(now())),
              payments.event_headers(%(event_id)s::uuid, 'payment-requested', %(payment_id)s::uuid, 1, now(), null))
            returning outbox_id""",
            values,
        ).fetchone()
        assert row is not None
        others = [world.paid()["paymentId"] for _ in range(3)]
        newer = """select min(outbox_id), bool_and(dispatched) from payments.outbox_status s join payments.outbox o
            using (outbox_id) where o.aggregate_id = any(%s::uuid[])"""
        wait_until(lambda: world.system.rows(newer, others)[0][1])
        assert world.system.rows(newer, others)[0][0] > row[0]
        late.commit()
    world.until(payment_id, "SUCCEEDED")
    world.agree()


REFUSED_MONEY: dict[str, tuple[str, str]] = {
    "lower case": ("1999", '"eur"'),
    "unknown code": ("1999", '"ZZZ"'),
    "no money": ("1999", '"XAU"'),
    "code of a number": ("1999", "978"),
    "below the minimum": ("49", '"EUR"'),
    "zero": ("0", '"EUR"'),
    "negative": ("-1999", '"EUR"'),
    "above the maximum": ("100000000", '"EUR"'),
    "above int64": (str(2**63), '"EUR"'),
    "far above int64": ("1" + "0" * 400, '"EUR"'),
    "fraction": ("19.99", '"EUR"'),
    "fraction of nothing": ("1999.0", '"EUR"'),
    "exponent": ("1e3", '"EUR"'),
    "text": ('"1999"', '"EUR"'),
    "bool": ("true", '"EUR"'),
    "null": ("null", '"EUR"'),
    "list": ("[1999]", '"EUR"'),
    "not a number": ("NaN", '"EUR"'),
    "three decimals, not a multiple of ten": ("1234", '"KWD"'),
    "zero decimals, below the minimum": ("49", '"JPY"'),
}


@pytest.mark.parametrize("kind", REFUSED_MONEY)
def test_49_money_that_is_refused(world: World, kind: str) -> None:
    amount, currency = REFUSED_MONEY[kind]
    body = f'{{"cartId": "{uuid4()}", "amount": {amount}, "currency": {currency}, "paymentMethod": "pm_card_visa"}}'
    answer = world.http.post("/payments/authorize", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 400
    assert answer.headers["Content-Type"].startswith("application/problem+json")
    problem = answer.json()
    assert problem["code"] in {"invalid_request", "malformed_json"}
    if problem["code"] == "invalid_request":
        assert {one["pointer"] for one in problem["errors"]} <= {"/amount", "/currency"}
    world.agree()


@pytest.mark.parametrize(("amount", "currency"), [(500, "JPY"), (1230, "KWD"), (50, "EUR"), (99_999_999, "USD")])
def test_49_money_that_is_taken(world: World, amount: int, currency: str) -> None:
    payment = world.paid(amount=amount, currency=currency)
    intent = world.stripe.intent(payment["paymentId"])
    assert (intent["amount_captured"], intent["currency"]) == (amount, currency.lower())
    world.agree()


def test_50_same_cart(world: World) -> None:
    cart, key = str(uuid4()), str(uuid4())
    first = world.authorize(wait_s=None, cartId=cart, key=key)
    assert first.status_code == 201
    payment_id = first.json()["paymentId"]
    world.until(payment_id, "SUCCEEDED")

    again = world.authorize(wait_s=None, cartId=cart, key=key)
    assert (again.status_code, again.content) == (201, first.content)
    assert again.headers["Idempotency-Replayed"] == "true"
    assert again.headers["Location"] == first.headers["Location"]

    other = world.authorize(wait_s=None, cartId=cart, key=key, amount=2000)
    assert other.status_code == 422
    rival = world.authorize(wait_s=None, cartId=cart)
    assert (rival.status_code, rival.json()["paymentId"]) == (409, payment_id)
    assert len(world.stripe.intents(payment_id)) == 1
    world.agree()


def everywhere(world: World, *words: str) -> list[str]:
    """The tables in which one of these texts stands."""
    tables = """select table_schema || '.' || quote_ident(table_name) from information_schema.tables
        where table_schema in ('payments', 'pgmq') and table_type = 'BASE TABLE'"""
    with world.system.connect() as conn:
        names = [row[0] for row in conn.execute(tables).fetchall()]
        found = "select %s where exists (select from {} t where t::text like any(%s))"
        parts = sql.SQL(" union all ").join(sql.SQL(found).format(sql.SQL(name)) for name in names)
        values = [value for name in names for value in (name, [f"%{word}%" for word in words])]
        return [row[0] for row in conn.execute(parts, values).fetchall()]


CARD_PLACES: dict[str, Callable[[World, str], httpx.Response]] = {
    "metadata": lambda world, number: world.authorize(metadata={"note": f"card {number} please"}),
    "metadata key": lambda world, number: world.authorize(metadata={number: "x"}),
    "payment method": lambda world, number: world.authorize(paymentMethod=number),
    "unknown field": lambda world, number: world.authorize(cardNumber=number),
    "number": lambda world, number: world.authorize(card=int("".join(c for c in number if c.isdigit()))),
    "cart": lambda world, number: world.authorize(cartId=number),
    "idempotency key": lambda world, number: world.authorize(key=number),
    "query": lambda world, number: world.http.get("/payments", params={"cartId": number}),
    "path": lambda world, number: world.http.get(f"/payments/{number}"),
    "no JSON": lambda world, number: world.http.post(
        "/payments/authorize", content=f"card={number}", headers={"Content-Type": "application/json"}
    ),
}


@pytest.mark.parametrize("place", CARD_PLACES)
def test_51_card_number(world: World, place: str) -> None:
    for number in (CARD, *CARD_WRITTEN):
        answer = CARD_PLACES[place](world, number)
        assert 400 <= answer.status_code < 500, number
        assert number not in answer.text
    log = world.system.output.read_text()
    assert world.http.get("/payments").status_code == 200
    for number in (CARD, *CARD_WRITTEN):
        assert number not in log
    assert everywhere(world, CARD, *CARD_WRITTEN) == []
    world.agree()


def test_51_card_number_in_a_refund_reason(world: World) -> None:
    payment_id = world.paid()["paymentId"]
    answer = world.act(payment_id, "refunds", {"reason": f"paid with {CARD}"})
    assert (answer.status_code, answer.json()["code"]) == (400, "card_number_not_allowed")
    assert CARD not in json.dumps(answer.json())
    assert everywhere(world, CARD) == []
    assert everywhere(world, payment_id), "what is there is found"
    world.agree()
