"""The comparison that every scenario ends with: Stripe's ledger, our tables, the outbox and the queue of Ordering."""

from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple

import psycopg
from psycopg.rows import dict_row

Row = dict[str, Any]

# What a PaymentIntent at rest leaves a payment as. Ended payments may also face a charge that went back in full.
OURS_BY_STRIPES = {
    "succeeded": {"SUCCEEDED"},
    "canceled": {"VOIDED", "EXPIRED", "FAILED"},
    "requires_capture": {"AUTHORIZED"},
    "requires_action": {"ACTION_REQUIRED"},
    "requires_confirmation": {"ACTION_REQUIRED"},
    "requires_payment_method": {"ACTION_REQUIRED"},
    "processing": {"PROCESSING"},
}
ENDED_WITHOUT_MONEY = {"FAILED", "VOIDED", "EXPIRED"}
FINAL_EVENTS = {"payment-succeeded", "payment-failed", "payment-voided", "payment-expired"}
UNDER_WAY = {"REQUESTED", "CAPTURING", "VOIDING"}
REFUND_BY_STRIPES = {"succeeded": "PROCESSED", "pending": "PENDING", "failed": "FAILED", "canceled": "FAILED"}


class Known(NamedTuple):
    """What was there before a scenario began: the leftovers of others are not its business."""

    payments: set[str]
    intents: set[str]
    dead_letters: set[int]


class Allowed(NamedTuple):
    """What a scenario may leave behind, and therefore names."""

    dead_letters: int = 0
    conflicted: tuple[str, ...] = ()
    waiting: tuple[str, ...] = ()  # payments that rightly stay REQUESTED
    foreign: tuple[str, ...] = ()  # PaymentIntents that are not ours


class Books(NamedTuple):
    """Both sides' books since the scenario began."""

    payments: list[Row]
    refunds: list[Row]
    disputes: list[Row]
    outbox: list[Row]
    undispatched: int
    told: list[Row]
    queued: list[Row]
    unweighed: list[Row]
    dead_letters: list[Row]
    imbalances: list[Row]
    intents: list[Row]
    ledger_faults: list[str]


def read_known(conn: psycopg.Connection[Any], ledger: Row) -> Known:
    """What is there already."""
    payments = conn.execute("select payment_id::text from payments.payments").fetchall()
    dead = conn.execute("select dead_letter_id from payments.dead_letters").fetchall()
    intents = {one["id"] for one in ledger["payment_intents"]}
    return Known({row[0] for row in payments}, intents, {row[0] for row in dead})


_OF_PAYMENTS = {
    "refunds": "select *, payment_id::text as payment from payments.refunds",
    "disputes": "select *, payment_id::text as payment from payments.disputes",
    "outbox": "select *, aggregate_id::text as payment from payments.outbox order by outbox_id",
    "told": """
        select message, headers, message ->> 'paymentId' as payment from pgmq.q_ordering
        union all select message, headers, message ->> 'paymentId' from pgmq.a_ordering""",
    "queued": """
        select 'payment_requested' as queue, message, message ->> 'paymentId' as payment from pgmq.q_payment_requested
        union all select 'capture_requested', message, message ->> 'paymentId' from pgmq.q_capture_requested
        union all select 'void_requested', message, message ->> 'paymentId' from pgmq.q_void_requested
        union all select 'refund_requested', message, message ->> 'paymentId' from pgmq.q_refund_requested""",
    "unweighed": "select *, payment_id::text as payment from payments.inbox_pending",
    "imbalances": "select *, payment_id::text as payment from payments.audit_imbalances",
}


def read_books(conn: psycopg.Connection[Any], ledger: Row, known: Known) -> Books:
    """Everything that has come since; our side in one snapshot."""
    cursor = conn.cursor(row_factory=dict_row)
    with conn.transaction():
        cursor.execute("set transaction isolation level repeatable read, read only")
        payments = cursor.execute("select *, payment_id::text as payment from payments.payments").fetchall()
        found = {name: cursor.execute(query).fetchall() for name, query in _OF_PAYMENTS.items()}
        dead = cursor.execute("select * from payments.dead_letters where resolved_at is null").fetchall()
        lag = cursor.execute("select count(*) as waiting from payments.outbox_status where not dispatched").fetchone()
    assert lag is not None
    return Books(
        payments=[row for row in payments if row["payment"] not in known.payments],
        undispatched=lag["waiting"],
        dead_letters=[row for row in dead if row["dead_letter_id"] not in known.dead_letters],
        intents=[
            one
            for one in ledger["payment_intents"]
            if one["id"] not in known.intents and one["metadata"].get("paymentId") not in known.payments
        ],
        ledger_faults=ledger["imbalances"],
        **{name: [row for row in rows if row["payment"] not in known.payments] for name, rows in found.items()},
    )


def find_differences(books: Books, allowed: Allowed) -> list[str]:
    """Whatever is not as it must be, in words; empty when both sides agree and nothing is under way."""
    return [
        *_under_way(books, allowed),
        *books.ledger_faults,
        *(f"imbalance of {row['payment']}: {row['imbalance']}" for row in books.imbalances),
        *_dead(books, allowed),
        *_ownership(books, allowed),
        *(line for payment in books.payments for line in _payment(payment, books, allowed)),
        *_published_once(books),
    ]


def _under_way(books: Books, allowed: Allowed) -> Iterator[str]:
    if books.undispatched:
        yield f"{books.undispatched} events are not dispatched"
    yield from (f"in the inbox: {row['message_type']} {row['last_error'] or ''}" for row in books.unweighed)
    for row in books.queued:
        if row["payment"] not in allowed.waiting:
            yield f"in {row['queue']}: a command for {row['payment']}"
    for payment in books.payments:
        if payment["status"] in UNDER_WAY and payment["payment"] not in allowed.waiting:
            yield f"{payment['payment']} is {payment['status']}"
    for refund in books.refunds:
        if refund["status"] == "REQUESTED":
            yield f"refund {refund['refund_id']} is REQUESTED"


def _dead(books: Books, allowed: Allowed) -> Iterator[str]:
    if len(books.dead_letters) != allowed.dead_letters:
        yield f"{len(books.dead_letters)} dead letters, not {allowed.dead_letters}"
        yield from (f"dead letter from {row['origin']}: {row['error']}" for row in books.dead_letters)


def _ownership(books: Books, allowed: Allowed) -> Iterator[str]:
    """Every PaymentIntent belongs to a payment, and no payment has two."""
    ours = {payment["payment"] for payment in books.payments}
    owners = Counter(one["metadata"].get("paymentId") for one in books.intents if one["id"] not in allowed.foreign)
    yield from (f"payment {owner} has {count} PaymentIntents" for owner, count in owners.items() if count > 1)
    yield from (
        f"Stripe has a PaymentIntent of {owner}, we have no such payment" for owner in owners if owner not in ours
    )


def _payment(payment: Row, books: Books, allowed: Allowed) -> Iterator[str]:
    name = payment["payment"]
    outbox = [row for row in books.outbox if row["payment"] == name]
    final = [row["event_type"] for row in outbox if row["event_type"] in FINAL_EVENTS]
    if (payment["status"] == "CONFLICTED") != (name in allowed.conflicted):
        yield f"{name} is {payment['status']}"
    if payment["status"] == "CONFLICTED":
        yield from (f"{name} is in conflict, but {event} was published" for event in final)
        return
    expected = [event] if (event := f"payment-{payment['status'].lower()}") in FINAL_EVENTS else []
    if final != expected:
        yield f"{name} is {payment['status']}, published was {final}"
    intents = [one for one in books.intents if one["metadata"].get("paymentId") == name]
    for intent in intents:
        yield from _intent(payment, intent, books)
    if not intents and (payment["amount_authorized"] or payment["status"] in OURS_BY_STRIPES["succeeded"]):
        yield f"{name} is {payment['status']}, and Stripe has no PaymentIntent"
    yield from _refunds(payment, intents, books)
    yield from _disputes(payment, books)


def _intent(payment: Row, intent: Row, books: Books) -> Iterator[str]:
    name, status = payment["payment"], payment["status"]
    acts = Counter(entry["act"] for entry in intent["entries"])
    yield from (f"{name}: {acts[act]} times {act}" for act in ("authorize", "capture") if acts[act] > 1)
    went_back = status in ENDED_WITHOUT_MONEY and intent["amount_captured"] == intent["amount_refunded"]
    if status not in OURS_BY_STRIPES[intent["status"]] and not (intent["status"] == "succeeded" and went_back):
        yield f"{name} is {status}, the PaymentIntent is {intent['status']}"
    if payment["processor_payment_intent"] not in (intent["id"], None):
        yield f"{name} has {payment['processor_payment_intent']}, Stripe {intent['id']}"
    if (intent["amount"], intent["currency"].upper()) != (payment["amount"], payment["currency"]):
        yield f"{name}: Stripe was asked for {intent['amount']} {intent['currency']}"
    if status == "SUCCEEDED" and payment["amount_captured"] != intent["amount_captured"]:
        yield f"{name}: captured are {payment['amount_captured']}, at Stripe {intent['amount_captured']}"
    given_back = sum(
        row["amount"] for row in books.refunds if row["payment"] == name and row["status"] in ("PENDING", "PROCESSED")
    )
    if given_back != intent["amount_refunded"]:
        yield f"{name}: refunds of {given_back}, at Stripe {intent['amount_refunded']}"
    if status in ENDED_WITHOUT_MONEY and intent["amount_captured"] != intent["amount_refunded"]:
        yield f"{name} is {status}, and Stripe keeps {intent['amount_captured'] - intent['amount_refunded']}"


def _refunds(payment: Row, intents: list[Row], books: Books) -> Iterator[str]:
    name = payment["payment"]
    # Only what moved money: Stripe may call the release of a hold a refund, too.
    moved = {entry["refund"] for intent in intents for entry in intent["entries"] if entry["act"] == "refund"}
    theirs = {one["id"]: one for intent in intents for one in intent["refunds"] if one["id"] in moved}
    wishes = Counter(one["metadata"].get("refundId") for one in theirs.values() if one["metadata"].get("refundId"))
    yield from (f"refund {wish} was made {count} times" for wish, count in wishes.items() if count > 1)
    ours = [row for row in books.refunds if row["payment"] == name]
    processed = sum(row["amount"] for row in ours if row["status"] == "PROCESSED")
    if payment["amount_captured"] and payment["amount_refunded"] != processed:
        yield f"{name}: refunded are {payment['amount_refunded']}, its refunds make {processed}"
    known = {row["processor_reference"] for row in ours}
    yield from (f"{name}: Stripe's refund {one} is not in our books" for one in theirs if one not in known)
    for row in ours:
        their = theirs.get(row["processor_reference"])
        if their is None and row["status"] != "FAILED":
            yield f"refund {row['refund_id']} is {row['status']}, and Stripe does not have it"
        if their and (REFUND_BY_STRIPES[their["status"]], their["amount"]) != (row["status"], row["amount"]):
            yield f"refund {row['refund_id']}: {row['status']} of {row['amount']}, Stripe: {their['status']}"
        told = Counter(
            event["event_type"] for event in books.outbox if event["payload"].get("refundId") == str(row["refund_id"])
        )
        wanted = {
            "refund-requested": (1, 0)[row["external"]],
            "refund-failed": int(row["status"] == "FAILED"),
            "refund-processed": {"PROCESSED": 1, "FAILED": min(told["refund-processed"], 1)}.get(row["status"], 0),
        }
        yield from (
            f"refund {row['refund_id']} is {row['status']}: {told[kind]} times {kind}"
            for kind, count in wanted.items()
            if told[kind] != count
        )


def _disputes(payment: Row, books: Books) -> Iterator[str]:
    name = payment["payment"]
    ours = [row for row in books.disputes if row["payment"] == name]
    told = Counter(row["event_type"] for row in books.outbox if row["payment"] == name)
    closed = sum(row["closed_at"] is not None for row in ours)
    if (told["dispute-opened"], told["dispute-closed"]) != (len(ours), closed):
        yield f"{name}: {len(ours)} disputes, {closed} closed, but published: {dict(told)}"


def _published_once(books: Books) -> Iterator[str]:
    """A payment's events are numbered without gap, and each outcome stands in Ordering's queue exactly once."""
    sequences: dict[str, list[int]] = {}
    for row in books.outbox:
        sequences.setdefault(row["payment"], []).append(row["sequence"])
    for name, numbers in sequences.items():
        if sorted(numbers) != list(range(1, len(numbers) + 1)):
            yield f"{name}: events are numbered {numbers}"
    told = Counter((row["headers"]["ce-id"], int(row["headers"]["ce-sequence"])) for row in books.told)
    outcomes = Counter(
        (str(row["event_id"]), row["sequence"]) for row in books.outbox if not row["event_type"].endswith("-requested")
    )
    if told != outcomes:
        yield f"Ordering was not told: {outcomes - told}; told too often, or of nothing: {told - outcomes}"
