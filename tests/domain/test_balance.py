"""What a balance transaction is read as: what was moved, in the currency of the payment."""

from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest

from payments.domain.balance import Booked, read_booked

PAYMENT = UUID(int=1)


def transaction(source: dict[str, Any] | str | None = None, **changes: Any) -> dict[str, Any]:
    charge = {
        "id": "ch_1",
        "object": "charge",
        "amount": 1999,
        "amount_captured": 1500,
        "currency": "eur",
        "payment_intent": "pi_1",
        "metadata": {"paymentId": str(PAYMENT)},
    }
    return {
        "id": "txn_1",
        "object": "balance_transaction",
        "amount": 1500,
        "fee": 52,
        "currency": "eur",
        "exchange_rate": None,
        "type": "charge",
        "reporting_category": "charge",
        "created": 1_700_000_000,
        "source": charge if source is None else source,
    } | changes


def read(**given: Any) -> Booked:
    booked = read_booked(transaction(**given))
    assert booked is not None
    return booked


def test_a_charge_is_ours_by_its_metadata_and_by_its_intent() -> None:
    booked = read()
    assert (booked.about, booked.source, booked.named_payment_id, booked.intent_id) == (
        "charge",
        "ch_1",
        PAYMENT,
        "pi_1",
    )
    assert (booked.moved, booked.moved_currency, booked.fee, booked.exchange_rate) == (1500, "EUR", 52, None)


@pytest.mark.parametrize(
    ("about", "amount", "moved"), [("charge", 1620, 1500), ("refund", -540, -500), ("dispute", -1620, -1500)]
)
def test_after_a_conversion_the_source_says_what_was_moved(about: str, amount: int, moved: int) -> None:
    source = {"id": "x_1", "object": about, "amount": abs(moved), "currency": "eur", "payment_intent": "pi_1"}
    source |= {"amount": 1999, "amount_captured": 1500} if about == "charge" else {}
    booked = read(source=source, amount=amount, currency="usd", exchange_rate=1.08)
    assert (booked.moved, booked.moved_currency) == (moved, "EUR")
    assert (booked.amount, booked.currency, booked.exchange_rate) == (amount, "USD", Decimal("1.08"))


@pytest.mark.parametrize(
    ("about", "category", "moved"),
    [
        ("charge", "charge", 1),
        ("refund", "refund", -1),
        ("refund", "refund_failure", 1),
        ("dispute", "dispute", -1),
        ("dispute", "dispute_reversal", 1),
    ],
)
def test_a_small_sum_keeps_its_sign_where_the_conversion_leaves_nothing(about: str, category: str, moved: int) -> None:
    source = {"id": "x_1", "object": about, "amount": 1, "amount_captured": 1, "currency": "jpy"}
    booked = read(
        source=source | {"payment_intent": "pi_1"},
        amount=0,
        currency="eur",
        exchange_rate=0.006,
        reporting_category=category,
    )
    assert (booked.amount, booked.moved) == (0, moved)


@pytest.mark.parametrize(
    "source", ["po_1", {"id": "po_1", "object": "payout"}, {"id": "ch_1", "object": "charge", "payment_intent": None}]
)
def test_what_is_about_no_payment_is_passed_by(source: Any) -> None:
    assert read_booked(transaction(source)) is None


@pytest.mark.parametrize(
    "changes", [{"amount": "1500"}, {"fee": 1.5}, {"created": None}, {"exchange_rate": "x"}, {"id": 7}]
)
def test_what_nobody_can_read_is_said_so(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"whole number|can read|no id"):
        read_booked(transaction(**changes))
