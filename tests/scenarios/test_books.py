"""The comparison at the end of every scenario finds what it is there to find."""

from collections.abc import Callable
from typing import Any
from uuid import UUID

import pytest

from tests.scenarios.books import Allowed, Books, find_differences

PAYMENT, REFUND, EVENTS = "p-1", UUID(int=1), [UUID(int=number) for number in range(10, 14)]


def agreeing() -> Books:
    """A payment of 100, of which 30 went back."""
    kinds = ["payment-requested", "payment-succeeded", "refund-requested", "refund-processed"]
    outbox = [
        {
            "payment": PAYMENT,
            "event_id": event_id,
            "event_type": kind,
            "sequence": number,
            "payload": {"refundId": str(REFUND)} if kind.startswith("refund") else {},
        }
        for number, (event_id, kind) in enumerate(zip(EVENTS, kinds, strict=True), start=1)
    ]
    told = [
        {"payment": PAYMENT, "headers": {"ce-id": str(row["event_id"]), "ce-sequence": f"{row['sequence']:010}"}}
        for row in outbox
        if not str(row["event_type"]).endswith("requested")
    ]
    payment = {
        "payment": PAYMENT,
        "status": "SUCCEEDED",
        "amount": 100,
        "currency": "EUR",
        "amount_authorized": 100,
        "amount_captured": 100,
        "amount_refunded": 30,
        "processor_payment_intent": "pi_1",
    }
    refund = {
        "payment": PAYMENT,
        "refund_id": REFUND,
        "amount": 30,
        "status": "PROCESSED",
        "processor_reference": "re_1",
    }
    acts = [("authorize", None), ("capture", None), ("refund", "re_1")]
    intent = {
        "id": "pi_1",
        "status": "succeeded",
        "amount": 100,
        "currency": "eur",
        "metadata": {"paymentId": PAYMENT},
        "amount_captured": 100,
        "amount_refunded": 30,
        "refunds": [{"id": "re_1", "amount": 30, "status": "succeeded", "metadata": {"refundId": str(REFUND)}}],
        "entries": [{"act": act, "refund": refund_id} for act, refund_id in acts],
    }
    nothing: dict[str, Any] = {"queued": [], "unweighed": [], "dead_letters": [], "imbalances": [], "ledger_faults": []}
    return Books(
        payments=[payment],
        refunds=[refund | {"external": False}],
        disputes=[],
        outbox=outbox,
        undispatched=0,
        told=told,
        intents=[intent],
        **nothing,
    )


def test_books_that_agree_have_no_difference() -> None:
    assert find_differences(agreeing(), Allowed()) == []


SPOILT: dict[str, Callable[[Books], Any]] = {
    "charged twice": lambda books: books.intents.append(books.intents[0] | {"id": "pi_2"}),
    "captured twice": lambda books: books.intents[0]["entries"].append({"act": "capture", "refund": None}),
    "refunded twice": lambda books: (
        books.intents[0]["refunds"].append(books.intents[0]["refunds"][0] | {"id": "re_2"}),
        books.intents[0]["entries"].append({"act": "refund", "refund": "re_2"}),
    ),
    "captured another amount": lambda books: books.payments[0].update(amount_captured=99),
    "refunded another amount": lambda books: books.intents[0].update(amount_refunded=31),
    "asked for another amount": lambda books: books.intents[0].update(amount=101),
    "money kept though voided": lambda books: books.payments[0].update(status="VOIDED"),
    "held, though we say taken": lambda books: books.intents[0].update(status="requires_capture"),
    "unknown to Stripe": lambda books: books.intents.clear(),
    "unknown to us": lambda books: (
        books.payments.clear(),
        books.refunds.clear(),
        books.outbox.clear(),
        books.told.clear(),
    ),
    "outcome published twice": lambda books: books.outbox.append(books.outbox[1] | {"sequence": 5, "event_id": REFUND}),
    "outcome not published": lambda books: books.outbox.pop(1),
    "refund not published": lambda books: (books.outbox.pop(), books.told.pop()),
    "gap in the sequence": lambda books: books.outbox[3].update(sequence=5),
    "told twice": lambda books: books.told.append(books.told[0]),
    "not told": lambda books: books.told.pop(),
    "told with another number": lambda books: books.told[0]["headers"].update({"ce-sequence": "0000000009"}),
    "dead letter": lambda books: books.dead_letters.append({"origin": "inbox", "error": "?"}),
    "imbalance": lambda books: books.imbalances.append({"payment": PAYMENT, "imbalance": "?"}),
    "in conflict": lambda books: books.payments[0].update(status="CONFLICTED"),
    "command left": lambda books: books.queued.append({"queue": "void_requested", "payment": PAYMENT}),
    "dispute not published": lambda books: books.disputes.append({"payment": PAYMENT, "closed_at": None}),
}


@pytest.mark.parametrize("how", SPOILT)
def test_books_that_differ_are_found_out(how: str) -> None:
    books = agreeing()
    SPOILT[how](books)
    assert find_differences(books, Allowed())
