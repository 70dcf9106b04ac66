"""The comparison of the demo must find every way in which two books can disagree."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from payments.demo.books import Sums, compare_books

Json = dict[str, Any]


def payment(**changes: Any) -> Json:
    return {
        "paymentId": "p1",
        "status": "SUCCEEDED",
        "currency": "EUR",
        "amountAuthorized": 500,
        "amountCaptured": 500,
        "amountRefunded": 0,
        "disputed": False,
    } | changes


def refund(**changes: Any) -> Json:
    return {"refundId": "r1", "processorReference": "re_1", "amount": 100, "status": "PROCESSED"} | changes


def at_stripe(**changes: Any) -> Json:
    return {"id": "re_1", "amount": 100, "status": "succeeded", "metadata": {"refundId": "r1"}} | changes


def intent(**changes: Any) -> Json:
    return {
        "metadata": {"paymentId": "p1"},
        "currency": "eur",
        "amount_authorized": 500,
        "amount_captured": 500,
        "amount_released": 0,
        "amount_refunded": 0,
        "amount_disputed": 0,
        "refunds": [],
    } | changes


REFUNDED = {"amountRefunded": 100}
GAVE_BACK = {"amount_refunded": 100}
HELD = intent(amount_captured=0)
RELEASED = intent(amount_captured=0, amount_released=500)


@pytest.mark.parametrize(
    ("ours", "refunds", "theirs"),
    [
        (payment(), [], [intent(), intent(metadata={})]),
        (payment(status="REQUESTED", amountAuthorized=0, amountCaptured=0), [], []),
        (payment(status="AUTHORIZED", amountCaptured=0), [], [HELD]),
        (payment(status="VOIDED", amountCaptured=0), [], [RELEASED]),
        (payment(amountCaptured=200), [], [intent(amount_captured=200, amount_released=300)]),
        (payment(**REFUNDED), [refund()], [intent(**GAVE_BACK, refunds=[at_stripe()])]),
        (payment(), [refund(status="FAILED")], [intent(refunds=[at_stripe(status="failed")])]),
        (payment(), [refund(status="FAILED", processorReference=None)], [intent()]),
        (payment(disputed=True), [], [intent(amount_disputed=500)]),
        # Money that came after the end went back.
        (
            payment(status="VOIDED", amountCaptured=0),
            [refund(amount=500)],
            [intent(amount_refunded=500, refunds=[at_stripe(amount=500)])],
        ),
    ],
)
def test_equal_books_agree(ours: Json, refunds: list[Json], theirs: list[Json]) -> None:
    assert compare_books([(ours, refunds)], {"payment_intents": theirs}).differences == []


@pytest.mark.parametrize(
    ("ours", "refunds", "theirs", "what"),
    [
        (payment(), [], [], "SUCCEEDED: we say 500 charged, Stripe 0"),
        (payment(), [], [intent(), intent()], "2 PaymentIntents for one payment"),
        (payment(), [], [intent(amount_captured=501)], "SUCCEEDED: we say 500 charged, Stripe 501"),
        (payment(), [], [intent(amount_refunded=1)], "SUCCEEDED: we say 0 returned, Stripe 1"),
        (payment(), [], [intent(currency="usd")], "we say EUR, Stripe usd"),
        (payment(status="AUTHORIZED", amountCaptured=0), [], [RELEASED], "AUTHORIZED: we say 500 held, Stripe 0"),
        (payment(status="VOIDED", amountCaptured=0), [], [HELD], "VOIDED: we say 0 held, Stripe 500"),
        (payment(status="FAILED", amountCaptured=0), [], [intent()], "FAILED: we say 0 charged, Stripe 500"),
        (payment(), [], [intent(amount_disputed=500)], "SUCCEEDED: we say 0 disputed, Stripe 500"),
        (payment(disputed=True), [], [intent()], "SUCCEEDED: we say 500 disputed, Stripe 0"),
        (payment(), [], [intent(refunds=[at_stripe()])], "we do not know Stripe's refund re_1"),
        (payment(), [refund()], [intent()], "Stripe does not know our refund re_1"),
        (payment(), [refund(amount=99)], [intent(refunds=[at_stripe()])], "refund re_1: we say 99, Stripe 100"),
        (
            payment(),
            [refund()],
            [intent(refunds=[at_stripe(status="pending")])],
            "refund re_1: we say PROCESSED, Stripe pending",
        ),
        (
            payment(),
            [refund()],
            [intent(refunds=[at_stripe(), at_stripe(id="re_2")])],
            "refund r1 was made 2 times",
        ),
        (payment(), [refund(status="REQUESTED", processorReference=None)], [intent()], "refund r1 is still REQUESTED"),
    ],
)
def test_every_disagreement_is_found(ours: Json, refunds: list[Json], theirs: list[Json], what: str) -> None:
    books = compare_books([(ours, refunds)], {"payment_intents": theirs})
    assert what in [difference.what for difference in books.differences]


AMOUNTS = st.integers(0, 3)


@given(held=AMOUNTS, charged=AMOUNTS, returned=AMOUNTS, disputed=st.booleans(), other=st.tuples(*[AMOUNTS] * 3))
def test_books_of_a_charge_agree_exactly_when_their_sums_do(
    held: int, charged: int, returned: int, *, disputed: bool, other: tuple[int, int, int]
) -> None:
    ours = payment(
        status="SUCCEEDED", amountAuthorized=held, amountCaptured=charged, amountRefunded=returned, disputed=disputed
    )
    theirs = intent(
        amount_authorized=other[0] + other[1],
        amount_captured=other[1],
        amount_refunded=other[2],
        amount_disputed=charged if disputed else 0,
    )
    books = compare_books([(ours, [])], {"payment_intents": [theirs]})
    equal = (0, charged, returned) == other
    assert (books.differences == []) == equal
    assert (books.ours == books.stripes) == equal
    assert books.ours == {"p1": Sums(0, charged, returned, charged if disputed else 0)}
