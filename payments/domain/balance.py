"""Stripe's balance transactions as our books keep them: pure.

A transaction is what one charge, refund or dispute did to the balance of the account, in the currency that is settled
in (https://docs.stripe.com/api/balance_transactions/object). Where that is not the currency of the payment, Stripe has
converted by `exchange_rate`; what was moved in the payment's own currency then stands in the source object alone.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import msgspec

from payments.domain.facts import intent_id_of, object_id_of, payment_id_of

# Where the source says what it moved. Payouts, fees and transfers have sources of other kinds: they are no payment's.
_MOVED = {"charge": "amount_captured", "refund": "amount", "dispute": "amount"}
# `reporting_category` of what leaves the account (https://docs.stripe.com/reports/reporting-categories).
_LEAVES = frozenset({"refund", "dispute"})


class Booked(msgspec.Struct, frozen=True, kw_only=True):
    """One transaction. `moved`: gross, signed, in `moved_currency`, the charge's, refund's or dispute's own."""

    transaction_id: str
    kind: str
    about: str
    source: str
    named_payment_id: UUID | None
    intent_id: str | None
    amount: int
    fee: int
    currency: str
    exchange_rate: Decimal | None
    moved: int
    moved_currency: str
    created_at: datetime


def read_booked(transaction: Mapping[str, Any]) -> Booked | None:
    """A transaction with its source expanded; None when it is about no charge, refund or dispute of a payment.

    Raises ValueError when it is about one, and cannot be read.
    """
    source = transaction.get("source")
    if not isinstance(source, dict) or source.get("object") not in _MOVED:
        return None
    named_payment_id, intent_id = payment_id_of(source), intent_id_of(source)
    if named_payment_id is None and intent_id is None:
        return None
    try:
        amount, currency = _whole(transaction["amount"]), str(transaction["currency"]).upper()
        moved, moved_currency = amount, str(source["currency"]).upper()
        rate = transaction.get("exchange_rate")
        if rate is not None or currency != moved_currency:
            moved = _whole(source[_MOVED[source["object"]]]) * (-1 if _has_left(transaction) else 1)
        return Booked(
            transaction_id=_name(transaction),
            kind=str(transaction["type"]),
            about=source["object"],
            source=_name(source),
            named_payment_id=named_payment_id,
            intent_id=intent_id,
            amount=amount,
            fee=_whole(transaction["fee"]),
            currency=currency,
            exchange_rate=None if rate is None else Decimal(str(rate)),
            moved=moved,
            moved_currency=moved_currency,
            created_at=datetime.fromtimestamp(_whole(transaction["created"]), UTC),
        )
    except (KeyError, ArithmeticError, OverflowError, OSError) as error:
        raise ValueError(f"a balance transaction that nobody can read: {error!r}") from error


def _has_left(transaction: Mapping[str, Any]) -> bool:
    """Whether money left the account; the converted amount of a small sum may be 0, which has no sign."""
    return transaction["amount"] < 0 or (transaction["amount"] == 0 and transaction["reporting_category"] in _LEAVES)


def _whole(value: object) -> int:
    if type(value) is not int:
        raise ValueError("an amount or a time is no whole number")
    return value


def _name(thing: Mapping[str, Any]) -> str:
    name = object_id_of(thing)
    if name is None:
        raise ValueError("an object has no id")
    return name
