"""Reading: one payment, its history, lists with filters and cursors."""

import uuid
from collections.abc import Iterator
from typing import Any

import httpx
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from payments.api import cursors
from payments.api.schemas import HistoryPage, Payment, PaymentPage
from tests.api.driving import ApiProcess, settle, wish


def make(shop: httpx.Client, **changes: Any) -> str:
    answer = shop.post("/payments/authorize", json=wish(**changes))
    assert answer.status_code == 201
    return str(answer.json()["paymentId"])


def pages(shop: httpx.Client, **query: Any) -> Iterator[list[str]]:
    cursor = None
    while True:
        answer = shop.get("/payments", params=query | ({"cursor": cursor} if cursor else {}))
        assert answer.status_code == 200
        page = msgspec.json.decode(answer.content, type=PaymentPage)
        yield [str(item.payment_id) for item in page.items]
        cursor = page.next_cursor
        if cursor is None:
            return


@pytest.mark.parametrize("status", ["SUCCEEDED", "FAILED", "ACTION_REQUIRED", "PROCESSING"])
def test_get_shows_a_payment_in_every_state_as_the_page_says(shop: httpx.Client, api: ApiProcess, status: str) -> None:
    payment_id = make(shop)
    with api.database.connect() as conn:
        settle(conn, payment_id, status)
    answer = shop.get(f"/payments/{payment_id}")
    payment = msgspec.json.decode(answer.content, type=Payment)
    assert (payment.status, payment.version, answer.headers["etag"]) == (status, 2, '"2"')
    assert payment.updated_at > payment.created_at
    assert set(answer.json()) == {field.encode_name for field in msgspec.structs.fields(Payment)}


def test_get_takes_the_id_in_capitals(shop: httpx.Client) -> None:
    payment_id = make(shop)
    assert shop.get(f"/payments/{payment_id.upper()}").json()["paymentId"] == payment_id


@pytest.mark.parametrize(
    ("known", "status"),
    [
        ('"1"', 304),
        ('W/"1"', 304),
        ('"7", "1"', 304),
        ("*", 304),
        ('"2"', 200),
        ("1", 200),
        ("", 200),
        ("a" * 2_000, 200),
    ],
)
def test_get_answers_304_to_whoever_knows_the_version(shop: httpx.Client, known: str, status: int) -> None:
    answer = shop.get(f"/payments/{make(shop)}", headers={"If-None-Match": known})
    assert (answer.status_code, answer.headers["etag"]) == (status, '"1"')
    assert bool(answer.content) == (status == 200)


def test_history_tells_why_a_payment_is_where_it_is(shop: httpx.Client, api: ApiProcess) -> None:
    payment_id = make(shop)
    with api.database.connect("payments_worker") as conn:
        conn.execute(
            "insert into payments.payment_history "
            "(payment_id, signal, source, from_status, to_status, decision, why, stripe_request_id) "
            "values (%s, 'intent.succeeded', 'stripe-api', 'REQUESTED', 'SUCCEEDED', 'applied', 'paid', 'req_1')",
            (payment_id,),
        )
    answer = shop.get(f"/payments/{payment_id}/history")
    first, second = msgspec.json.decode(answer.content, type=HistoryPage).items
    assert (first.signal, first.source, first.from_status, first.to_status) == (
        "authorize-payment",
        "api",
        None,
        "REQUESTED",
    )
    assert (second.why, second.stripe_request_id, second.to_status) == ("paid", "req_1", "SUCCEEDED")
    assert set(answer.json()) == {"items"}


@pytest.mark.every_postgres
def test_list_filters_by_each_and_by_all(shop: httpx.Client, api: ApiProcess) -> None:
    customer, order = str(uuid.uuid4()), str(uuid.uuid4())
    mine = [make(shop, customerId=customer, orderId=order if n < 2 else str(uuid.uuid4())) for n in range(4)]
    make(shop)
    with api.database.connect() as conn:
        settle(conn, mine[0], "FAILED")
    assert next(pages(shop, customerId=customer)) == mine[::-1]
    assert next(pages(shop, orderId=order)) == mine[1::-1]
    assert next(pages(shop, customerId=customer, status="FAILED")) == mine[:1]
    assert next(pages(shop, orderId=order, customerId=customer, status="REQUESTED")) == mine[1:2]
    assert next(pages(shop, orderId=order, customerId=str(uuid.uuid4()))) == []
    cart = shop.get(f"/payments/{mine[0]}").json()["cartId"]
    again = make(shop, cartId=cart)
    assert next(pages(shop, cartId=cart)) == [again, mine[0]]
    assert next(pages(shop, cartId=cart, orderId=order)) == [mine[0]]
    assert next(pages(shop, cartId=cart.upper(), status="FAILED")) == [mine[0]]
    assert mine[0] in next(pages(shop, status="FAILED"))


def test_list_pages_through_everything_once_whatever_comes_meanwhile(shop: httpx.Client) -> None:
    customer = str(uuid.uuid4())
    mine = [make(shop, customerId=customer) for _ in range(7)]
    seen = []
    for page in pages(shop, customerId=customer, limit=3):
        assert len(page) <= 3
        seen += page
        make(shop, customerId=customer)
    assert seen == mine[::-1]


def test_list_ends_without_cursor_when_the_last_page_is_full(shop: httpx.Client) -> None:
    customer = str(uuid.uuid4())
    mine = [make(shop, customerId=customer) for _ in range(4)]
    assert list(pages(shop, customerId=customer, limit=2)) == [mine[:1:-1], mine[1::-1]]


def test_list_gives_fifty_unless_asked_for_more(shop: httpx.Client) -> None:
    customer = str(uuid.uuid4())
    for _ in range(53):
        make(shop, customerId=customer)
    assert [len(page) for page in pages(shop, customerId=customer)] == [50, 3]
    assert [len(page) for page in pages(shop, customerId=customer, limit=200)] == [53]


def test_a_cursor_belongs_to_its_filters(shop: httpx.Client) -> None:
    customer = str(uuid.uuid4())
    for _ in range(2):
        make(shop, customerId=customer)
    cursor = shop.get(f"/payments?customerId={customer}&limit=1").json()["nextCursor"]
    answer = shop.get(f"/payments?limit=1&cursor={cursor}")
    assert (answer.status_code, answer.json()["errors"]) == (
        400,
        [{"pointer": "query:cursor", "detail": "belongs to a list with other filters"}],
    )


@given(st.uuids(), st.tuples(st.none() | st.uuids(), st.none() | st.sampled_from(["FAILED", "VOIDED"])))
def test_cursors_lead_back_to_where_they_were_made(below: uuid.UUID, filters: object) -> None:
    assert cursors.decode(cursors.encode(below, filters), filters) == below


@given(st.text(max_size=60))
def test_cursors_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"cursor|filters"):
        cursors.decode(text, ())
