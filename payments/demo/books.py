"""Holding our books against Stripe's truth, payment by payment. Pure."""

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

Json = Mapping[str, Any]


class Difference(msgspec.Struct, frozen=True):
    """One payment on which the two books disagree, and how."""

    payment_id: str
    what: str


def compare_books(ours: Iterable[Json], ledger: Json) -> list[Difference]:
    """Every disagreement between our payments (as the API shows them) and the sandbox's ledger.

    Money at Stripe that no payment of ours accounts for counts as well, among the payments given.
    """
    truth: dict[str, list[Json]] = {}
    for intent in ledger["payment_intents"]:
        truth.setdefault(intent["metadata"].get("paymentId", ""), []).append(intent)
    return [
        Difference(payment["paymentId"], what)
        for payment in ours
        for what in _disagreements(payment, truth.get(payment["paymentId"], []))
    ]


def _disagreements(payment: Json, intents: list[Json]) -> Iterable[str]:
    if len(intents) > 1:
        yield f"{len(intents)} PaymentIntents for one payment"
    for name in ("Authorized", "Captured", "Refunded"):
        ours = payment[f"amount{name}"]
        theirs = sum(intent[f"amount_{name.lower()}"] for intent in intents)
        if ours != theirs:
            yield f"{payment['status']}: we say {ours} {name.lower()}, Stripe {theirs}"
    for intent in intents:
        if intent["amount_captured"] and intent["currency"].upper() != payment["currency"]:
            yield f"we say {payment['currency']}, Stripe {intent['currency']}"
