"""The comparison of the demo must find every way in which two books can disagree."""

from typing import Any

import pytest

from payments.demo.books import compare_books


def payment(**changes: Any) -> dict[str, Any]:
    return {
        "paymentId": "p1",
        "status": "SUCCEEDED",
        "currency": "EUR",
        "amountAuthorized": 500,
        "amountCaptured": 500,
        "amountRefunded": 0,
    } | changes


def intent(**changes: Any) -> dict[str, Any]:
    return {
        "metadata": {"paymentId": "p1"},
        "currency": "eur",
        "amount_authorized": 500,
        "amount_captured": 500,
        "amount_refunded": 0,
    } | changes


def test_equal_books_agree() -> None:
    foreign = intent(metadata={})
    assert compare_books([payment()], {"payment_intents": [intent(), foreign]}) == []


@pytest.mark.parametrize(
    ("ours", "theirs", "what"),
    [
        (payment(), [], "SUCCEEDED: we say 500 authorized, Stripe 0"),
        (payment(), [intent(), intent()], "2 PaymentIntents for one payment"),
        (payment(), [intent(amount_captured=501)], "SUCCEEDED: we say 500 captured, Stripe 501"),
        (payment(), [intent(amount_refunded=1)], "SUCCEEDED: we say 0 refunded, Stripe 1"),
        (payment(), [intent(currency="usd")], "we say EUR, Stripe usd"),
        (
            payment(status="FAILED", amountAuthorized=0, amountCaptured=0),
            [intent()],
            "FAILED: we say 0 captured, Stripe 500",
        ),
    ],
)
def test_every_disagreement_is_found(ours: dict[str, Any], theirs: list[dict[str, Any]], what: str) -> None:
    assert what in [difference.what for difference in compare_books([ours], {"payment_intents": theirs})]
