"""Holding our books against Stripe's truth, payment by payment. Pure."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

Json = Mapping[str, Any]

# A payment that ended without money shows none as captured; what came too late, and went back, only Stripe shows.
ENDED_WITHOUT_MONEY = frozenset({"FAILED", "VOIDED", "EXPIRED"})
# How a refund of ours may stand when Stripe's stands so.
REFUND_STANDS = {
    "succeeded": {"PROCESSED"},
    "pending": {"PENDING"},
    "requires_action": {"PENDING"},
    "failed": {"FAILED"},
    "canceled": {"FAILED"},
}


class Sums(msgspec.Struct, frozen=True):
    """Money of some payments, in minor units: still held, charged, given back, and in a dispute open or lost."""

    held: int = 0
    charged: int = 0
    returned: int = 0
    disputed: int = 0

    def __add__(self, other: "Sums") -> "Sums":
        """Both together."""
        return Sums(
            self.held + other.held,
            self.charged + other.charged,
            self.returned + other.returned,
            self.disputed + other.disputed,
        )


class Difference(msgspec.Struct, frozen=True):
    """One payment on which the two books disagree, and how."""

    payment_id: str
    what: str


class Books(msgspec.Struct, frozen=True):
    """Both books of some payments, by payment id, and every point on which they disagree."""

    ours: dict[str, Sums]
    stripes: dict[str, Sums]
    differences: list[Difference]


def compare_books(ours: Iterable[tuple[Json, Sequence[Json]]], ledger: Json) -> Books:
    """Our payments with their refunds, as the API shows them, against the sandbox's ledger.

    Money at Stripe that no payment of ours accounts for counts as well, among the payments given.
    """
    truth: dict[str, list[Json]] = {}
    for intent in ledger["payment_intents"]:
        truth.setdefault(intent["metadata"].get("paymentId", ""), []).append(intent)
    books = Books({}, {}, [])
    for payment, refunds in ours:
        payment_id = payment["paymentId"]
        intents = truth.get(payment_id, [])
        books.ours[payment_id] = _our_sums(payment)
        books.stripes[payment_id] = sum(map(_stripes_sums, intents), Sums())
        books.differences.extend(Difference(payment_id, what) for what in _disagreements(payment, refunds, intents))
    return books


def _our_sums(payment: Json) -> Sums:
    is_held = payment["status"] in {"AUTHORIZED", "CAPTURING"}
    captured = payment["amountCaptured"]
    return Sums(
        held=payment["amountAuthorized"] if is_held else 0,
        charged=captured,
        returned=payment["amountRefunded"],
        disputed=captured if payment["disputed"] else 0,
    )


def _stripes_sums(intent: Json) -> Sums:
    captured = intent["amount_captured"]
    return Sums(
        held=intent["amount_authorized"] - captured - intent["amount_released"],
        charged=captured,
        returned=intent["amount_refunded"],
        disputed=intent["amount_disputed"],
    )


def _disagreements(payment: Json, refunds: Sequence[Json], intents: list[Json]) -> Iterable[str]:
    status = payment["status"]
    if len(intents) > 1:
        yield f"{len(intents)} PaymentIntents for one payment"
    ours, theirs = _our_sums(payment), sum(map(_stripes_sums, intents), Sums())
    if status in ENDED_WITHOUT_MONEY:
        theirs = msgspec.structs.replace(theirs, charged=theirs.charged - theirs.returned, returned=0)
    for name in Sums.__struct_fields__:
        if getattr(ours, name) != getattr(theirs, name):
            yield f"{status}: we say {getattr(ours, name)} {name}, Stripe {getattr(theirs, name)}"
    for intent in intents:
        if intent["amount_captured"] and intent["currency"].upper() != payment["currency"]:
            yield f"we say {payment['currency']}, Stripe {intent['currency']}"
    yield from _disagreements_on_refunds(refunds, [refund for intent in intents for refund in intent["refunds"]])


def _disagreements_on_refunds(ours: Sequence[Json], theirs: list[Json]) -> Iterable[str]:
    wished = Counter(one["metadata"].get("refundId") for one in theirs)
    yield from (f"refund {one} was made {count} times" for one, count in wished.items() if one and count > 1)
    known = {one["processorReference"]: one for one in ours if one["processorReference"]}
    yield from (f"Stripe does not know our refund {one}" for one in known.keys() - {one["id"] for one in theirs})
    for their in theirs:
        our = known.get(their["id"])
        if our is None:
            yield f"we do not know Stripe's refund {their['id']}"
        elif our["amount"] != their["amount"]:
            yield f"refund {their['id']}: we say {our['amount']}, Stripe {their['amount']}"
        elif our["status"] not in REFUND_STANDS.get(their["status"], set()):
            yield f"refund {their['id']}: we say {our['status']}, Stripe {their['status']}"
    yield from (f"refund {one['refundId']} is still {one['status']}" for one in ours if one["status"] == "REQUESTED")
