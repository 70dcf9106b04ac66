"""Books that agree with themselves: payments in every state, refunds, disputes, what is parked and dead; by hand."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from uuid import UUID

import psycopg

Connection = psycopg.Connection[Any]
LANES = ("payment_requested", "capture_requested", "void_requested", "refund_requested", "ordering")

# name: status, columns beside it, its events after payment-requested
PAYMENTS: dict[str, tuple[str, dict[str, Any], tuple[str, ...]]] = {
    "waiting": ("REQUESTED", {}, ()),
    "parked": ("REQUESTED", {}, ()),
    "held": ("AUTHORIZED", {"amount_authorized": 1000}, ("payment-authorized",)),
    "asking": ("ACTION_REQUIRED", {"next_action": "{}"}, ("payment-action-required",)),
    "voiding": ("VOIDING", {}, ("void-requested",)),
    "paid": (
        "SUCCEEDED",
        {"amount_authorized": 1000, "amount_captured": 1000, "amount_reserved": 600, "amount_refunded": 200},
        ("payment-succeeded",),
    ),
    "disputed": (
        "SUCCEEDED",
        {"amount_authorized": 1000, "amount_captured": 1000, "disputed": True},
        ("payment-succeeded",),
    ),
    "failed": ("FAILED", {"failure_reason": "CARD_DECLINED"}, ("payment-failed",)),
    "late": ("VOIDED", {"amount_reserved": 1000}, ("payment-voided",)),
    "odd": ("CONFLICTED", {}, ()),
    "lost": (
        "SUCCEEDED",
        {"amount_authorized": 1000, "amount_captured": 1000, "disputed": True},
        ("payment-succeeded",),
    ),
}
# number: payment, status, amount, and how often it was told of; the rest of what can be told follows from the status
REFUNDS: dict[int, tuple[str, str, int, tuple[str, ...]]] = {
    1: ("paid", "PROCESSED", 200, ("refund-requested", "refund-processed")),
    2: ("paid", "FAILED", 500, ("refund-requested", "refund-processed", "refund-failed")),
    3: ("paid", "REQUESTED", 300, ("refund-requested",)),
    4: ("paid", "PENDING", 100, ()),  # made elsewhere
    5: ("late", "PROCESSED", 1000, ("refund-requested", "refund-processed")),
}
# number: payment, status, told
DISPUTES: dict[int, tuple[str, str, tuple[str, ...]]] = {
    1: ("disputed", "lost", ("dispute-opened", "dispute-closed")),
    2: ("disputed", "needs_response", ("dispute-opened",)),
    3: ("paid", "won", ("dispute-opened", "dispute-closed")),
    4: ("lost", "lost", ("dispute-opened", "dispute-closed")),
}
# source: payment, what it is about, what Stripe moved
BALANCE: dict[str, tuple[str, str, tuple[int, ...]]] = {
    "ch_1": ("paid", "charge", (1000,)),
    "ch_2": ("disputed", "charge", (1000,)),
    "ch_3": ("late", "charge", (1000,)),
    "re_1": ("paid", "refund", (-200,)),
    "re_2": ("paid", "refund", (-500, 500)),
    "re_5": ("late", "refund", (-1000,)),
    "dp_1": ("disputed", "dispute", (-1000,)),
    "dp_2": ("disputed", "dispute", (-1000,)),
    "dp_3": ("paid", "dispute", (-1000, 1000)),
}
WATCHED = ("held", "asking", "voiding", "paid")


def id_of(name: str) -> UUID:
    """The payment's id; ids grow in the order of PAYMENTS."""
    return UUID(int=(1 << 120) + list(PAYMENTS).index(name))


def refund_id(number: int) -> UUID:
    return UUID(int=(2 << 120) + number)


def dispute_id(number: int) -> UUID:
    return UUID(int=(3 << 120) + number)


@contextmanager
def past_the_triggers(conn: Connection) -> Iterator[None]:
    """As a superuser who means no good, or well, and whom no guard holds."""
    conn.execute("set session_replication_role = replica")
    yield
    conn.execute("set session_replication_role = origin")


def keep_sound_books(conn: Connection) -> None:
    """Writes all of the above, dispatched to every lane."""
    with past_the_triggers(conn), conn.transaction():
        for name in PAYMENTS:
            _payment(conn, name)
        for number, (name, status, amount, _) in REFUNDS.items():
            conn.execute(
                "insert into payments.refunds"
                " (refund_id, payment_id, amount, currency, status, processor_reference, failure_reason, external,"
                " reason)"
                " values (%s, %s, %s, 'EUR', %s, %s, %s, %s, %s)",
                (
                    refund_id(number),
                    id_of(name),
                    amount,
                    status,
                    None if status == "REQUESTED" else f"re_{number}",
                    "lost" if status == "FAILED" else None,
                    status == "PENDING",
                    "compensation" if name == "late" else None,
                ),
            )
        for number, (name, status, _) in DISPUTES.items():
            conn.execute(
                "insert into payments.disputes"
                " (dispute_id, payment_id, processor_reference, amount, currency, status, opened_at, closed_at)"
                " values (%s, %s, %s, 1000, 'EUR', %s, now(), case when %s in ('won', 'lost') then now() end)",
                (dispute_id(number), id_of(name), f"dp_{number}", status, status),
            )
        _balance(conn)
        conn.execute(
            "insert into payments.dead_letters (origin, message_id, payment_id, payload, attempts, error, resolved_at)"
            " select 'inbox', inbox_id::text, payment_id, '{}', 1, 'what is this?', now()"
            " from payments.inbox where outcome = 'dead'"
        )
    for lane in LANES:
        conn.execute("select payments.dispatch(%s, 1000)", (lane,))


def _payment(conn: Connection, name: str) -> None:
    status, columns, told = PAYMENTS[name]
    payment_id, is_parked = id_of(name), name == "parked"
    events: list[tuple[str, dict[str, str]]] = [("payment-requested", {}), *((event, {}) for event in told)]
    events += [
        (event, {"refundId": str(refund_id(n))}) for n, one in REFUNDS.items() if one[0] == name for event in one[3]
    ]
    events += [
        (event, {"disputeId": str(dispute_id(n)), "status": one[1]})
        for n, one in DISPUTES.items()
        if one[0] == name
        for event in one[2]
    ]
    values = {
        "payment_id": payment_id,
        "cart_id": payment_id,
        "order_id": payment_id,
        "amount": 1000,
        "currency": "EUR",
        "capture_method": "automatic",
        "client_id": "tests",
        "fingerprint": bytes(32),
        "status": status,
        "last_sequence": len(events),
        **columns,
    }
    conn.execute(
        f"insert into payments.payments ({', '.join(values)}) values ({', '.join(f'%({key})s' for key in values)})",
        values,
    )
    for sequence, (event_type, particulars) in enumerate(events, start=1):
        payload = psycopg.types.json.Jsonb({"paymentId": str(payment_id), **particulars})
        conn.execute(
            "insert into payments.outbox (event_id, event_type, aggregate_id, sequence, payload, headers)"
            " values (gen_random_uuid(), %s, %s, %s, %s, '{}')",
            (event_type, payment_id, sequence, payload),
        )
    conn.execute(
        "insert into payments.payment_history (payment_id, signal, source, to_status, decision, why)"
        " values (%(id)s, 'x', 'api', 'REQUESTED', 'applied', 'x'),"
        " (%(id)s, 'x', 'worker', %(status)s, 'applied', 'x')",
        {"id": payment_id, "status": status},
    )
    if name in WATCHED:
        conn.execute("insert into payments.watches values (%s, 0, now())", (payment_id,))
    if status != "REQUESTED":
        _call(conn, name)
    if is_parked:
        _park(conn, payment_id)


def _call(conn: Connection, name: str) -> None:
    """Two generations: the first was proved absent."""
    payment_id = id_of(name)
    conn.execute(
        "insert into payments.stripe_requests"
        " (payment_id, subject_id, operation, generation, idempotency_key, parameters, state, outcome, answered_at)"
        " select %(id)s, %(id)s, 'create_payment_intent', g, %(id)s::text || g, '{}', 'answered', o, now()"
        " from (values (1, 'absent'), (2, 'answered')) c (g, o)",
        {"id": payment_id},
    )
    conn.execute(
        "insert into payments.inbox (source, message_id, message_type, payment_id, payload, processed_at, outcome)"
        " values ('stripe-api', %s, 'create_payment_intent', %s, '{}', now(), %s)",
        (f"req_{name}/1", payment_id, "dead" if name == "odd" else "applied"),
    )


def _park(conn: Connection, payment_id: UUID) -> None:
    conn.execute(
        "insert into payments.stripe_requests"
        " (payment_id, subject_id, operation, idempotency_key, parameters, state)"
        " values (%(id)s, %(id)s, 'create_payment_intent', %(id)s::text, '{}', 'parked')",
        {"id": payment_id},
    )
    conn.execute(
        "insert into payments.dead_letters (origin, message_id, payment_id, payload, attempts, error, resolved_at)"
        " values ('queue:payment_requested', '1', %s, '{}', 1, 'wrong', now())",
        (payment_id,),
    )


def _balance(conn: Connection) -> None:
    """Stripe's list was read long after all of it."""
    for source, (name, about, moves) in BALANCE.items():
        for number, moved in enumerate(moves):
            conn.execute(
                "insert into payments.balance_transactions"
                " (transaction_id, kind, about, source, payment_id, amount, fee, currency, moved, moved_currency,"
                " created_at)"
                " values (%s, %s, %s, %s, %s, %s, 0, 'EUR', %s, 'EUR', now())",
                (f"txn_{source}_{number}", about, about, source, id_of(name), moved, moved),
            )
    conn.execute(
        "insert into payments.reconciler_progress (job, position, updated_at)"
        " values ('balance', now() + interval '1 hour', now() + interval '1 hour')"
    )
