"""What somebody may have done to sound books past all guards, and what the audit calls that."""

from typing import Any, NamedTuple
from uuid import UUID

from tests.audit.sound_books import DISPUTES, PAYMENTS, REFUNDS, dispute_id, id_of, refund_id


class Spoilt(NamedTuple):
    """The payment that is off by it, the kind of imbalance, and the statements, with places of PLACES."""

    payment: str
    kind: str
    statements: tuple[str, ...]


PLACES: dict[str, Any] = {
    **{name: id_of(name) for name in PAYMENTS},
    "nobody": UUID(int=9 << 120),
    **{f"refund_{number}": refund_id(number) for number in REFUNDS},
    **{f"dispute_{number}": dispute_id(number) for number in DISPUTES},
}


def gone(table: str, where: str) -> str:
    return f"delete from {table} where {where}"


def changed(payment: str, columns: str) -> str:
    return f"update payments.payments set {columns} where payment_id = %({payment})s"


def told(payment: str, event_type: str, subject: str = "", place: str = "null", *, status: str = "") -> tuple[str, ...]:
    """One more event, well numbered."""
    event = (
        "insert into payments.outbox (event_id, event_type, aggregate_id, sequence, payload, headers)"
        f" select gen_random_uuid(), '{event_type}', payment_id, last_sequence + 1,"
        f" jsonb_build_object('{subject}', {place}::uuid, 'status', '{status}'), '{{}}'"
        f" from payments.payments where payment_id = %({payment})s"
    )
    return event, changed(payment, "last_sequence = last_sequence + 1")


def last_call_was(outcome: str) -> str:
    return f"update payments.stripe_requests set outcome = '{outcome}' where payment_id = %(held)s and generation = 2"


def first_key_was(outcome: str) -> str:
    return f"update payments.stripe_requests set outcome = '{outcome}' where payment_id = %(paid)s and generation = 1"


def left_in_doubt(payment: str, subject: str, operation: str) -> str:
    """An attempt of which nobody knows the end, and for which the worker's command would have to come again."""
    return (
        "insert into payments.stripe_requests"
        " (payment_id, subject_id, operation, idempotency_key, parameters, attempts, state)"
        f" values (%({payment})s, %({subject})s, '{operation}', %({subject})s::text, '{{}}', 1, 'in_doubt')"
    )


def untold(event_type: str, payment: str) -> str:
    return gone("payments.outbox", f"event_type = '{event_type}' and aggregate_id = %({payment})s")


def moved(payment: str, about: str, source: str, amount: int) -> str:
    """One more line of Stripe's balance."""
    return (
        "insert into payments.balance_transactions"
        " (transaction_id, kind, about, source, payment_id, amount, fee, currency, moved, moved_currency,"
        " created_at)"
        f" values ('txn_1', '{about}', '{about}', '{source}', %({payment})s, {amount}, 9, 'EUR', {amount}, 'EUR',"
        " now())"
    )


def moved_otherwise(source: str, columns: str) -> str:
    return f"update payments.balance_transactions set {columns} where source = '{source}'"


def unheard(payment: str) -> str:
    return gone("payments.inbox", f"payment_id = %({payment})s")


def unwatched(payment: str) -> str:
    return gone("payments.watches", f"payment_id = %({payment})s")


def unsent(payment: str) -> str:
    return gone("pgmq.q_payment_requested", f"message ->> 'paymentId' = %({payment})s::text")


def without_letter(payment: str) -> str:
    return gone("payments.dead_letters", f"payment_id = %({payment})s")


CASES = {
    "a command is gone": Spoilt("waiting", "payment_unowned", (unsent("waiting"),)),
    "a parked call is gone": Spoilt(
        "parked",
        "payment_unowned",
        (gone("payments.stripe_requests", "payment_id = %(parked)s"), unsent("parked")),
    ),
    "a hold is not watched": Spoilt("held", "payment_unwatched", (unwatched("held"),)),
    "a customer is not watched": Spoilt("asking", "payment_unwatched", (unwatched("asking"),)),
    "a void is not watched": Spoilt("voiding", "payment_unwatched", (unwatched("voiding"),)),
    "a refund's command is gone": Spoilt(
        "paid",
        "refund_unowned",
        (gone("pgmq.q_refund_requested", "message ->> 'refundId' = %(refund_3)s::text"),),
    ),
    "a refund's command is gone after its first attempt": Spoilt(
        "paid",
        "refund_unowned",
        (
            gone("pgmq.q_refund_requested", "message ->> 'refundId' = %(refund_3)s::text"),
            left_in_doubt("paid", "refund_3", "create_refund"),
        ),
    ),
    "a pending refund is not watched": Spoilt("paid", "refund_unwatched", (unwatched("paid"),)),
    "a dead message's letter is gone": Spoilt("odd", "death_unnoticed", (without_letter("odd"),)),
    "two keys made a PaymentIntent": Spoilt(
        "paid",
        "charged_twice",
        ("update payments.stripe_requests set outcome = 'answered' where payment_id = %(paid)s",),
    ),
    "a key's effect was found, and the next key's": Spoilt("paid", "charged_twice", (first_key_was("settled"),)),
    "a key's effect was adopted, and the next key's": Spoilt("paid", "charged_twice", (first_key_was("adopted"),)),
    "an outcome is not told": Spoilt("failed", "outcome_untold", (untold("payment-failed", "failed"),)),
    "an outcome was another": Spoilt("disputed", "outcome_contradicted", told("disputed", "payment-failed")),
    "a status was changed back": Spoilt(
        "failed",
        "outcome_contradicted",
        (changed("failed", "status = 'CONFLICTED'"), changed("failed", "status = 'REQUESTED', failure_reason = null")),
    ),
    "a status was set": Spoilt("waiting", "outcome_untold", (changed("waiting", "status = 'EXPIRED'"),)),
    "a refund is not told": Spoilt("late", "refund_mistold", (untold("refund-processed", "late"),)),
    "a refund is told twice": Spoilt(
        "late", "refund_mistold", told("late", "refund-processed", "refundId", "%(refund_5)s")
    ),
    "a refund's failure is not told": Spoilt("paid", "refund_mistold", (untold("refund-failed", "paid"),)),
    "a refund was turned round": Spoilt(
        "late",
        "refund_mistold",
        ("update payments.refunds set status = 'FAILED', failure_reason = 'x' where refund_id = %(refund_5)s",),
    ),
    "a refund is told too early": Spoilt(
        "paid", "refund_mistold", told("paid", "refund-processed", "refundId", "%(refund_4)s")
    ),
    "a dispute's end is not told": Spoilt("paid", "dispute_mistold", (untold("dispute-closed", "paid"),)),
    "an open dispute is told to have ended": Spoilt(
        "disputed", "dispute_mistold", told("disputed", "dispute-closed", "disputeId", "%(dispute_2)s", status="won")
    ),
    "another end of a dispute is told": Spoilt(
        "paid", "dispute_mistold", told("paid", "dispute-closed", "disputeId", "%(dispute_3)s", status="lost")
    ),
    "a dispute is told twice": Spoilt(
        "disputed", "dispute_mistold", told("disputed", "dispute-opened", "disputeId", "%(dispute_2)s")
    ),
    "a refund that is not there is told": Spoilt(
        "disputed", "told_of_nothing", told("disputed", "refund-processed", "refundId", "gen_random_uuid()")
    ),
    "a refund is gone": Spoilt("paid", "told_of_nothing", (gone("payments.refunds", "refund_id = %(refund_1)s"),)),
    "an open dispute is gone": Spoilt(
        "disputed", "told_of_nothing", (gone("payments.disputes", "dispute_id = %(dispute_2)s"),)
    ),
    "an answer is gone": Spoilt("held", "answer_lost", (unheard("held"),)),
    "a decline is gone": Spoilt("held", "answer_lost", (unheard("held"), last_call_was("declined"))),
    "a refusal is gone": Spoilt("held", "answer_lost", (unheard("held"), last_call_was("refused"))),
    "all that Stripe said is gone": Spoilt(
        "held",
        "stripe_unasked",
        (unheard("held"), gone("payments.stripe_requests", "payment_id = %(held)s")),
    ),
    "a sum was set": Spoilt("paid", "refunded_off", (changed("paid", "amount_refunded = 201"),)),
    "a reservation was let go": Spoilt("paid", "reserved_off", (changed("paid", "amount_reserved = 300"),)),
    "a refund's amount was set": Spoilt(
        "late", "reserved_off", ("update payments.refunds set amount = 999 where refund_id = %(refund_5)s",)
    ),
    "a dispute is forgotten": Spoilt("disputed", "disputed_off", (changed("disputed", "disputed = false"),)),
    "a number was allotted": Spoilt(
        "disputed", "events_misnumbered", (changed("disputed", "last_sequence = last_sequence + 1"),)
    ),
    "a number is missing in the middle": Spoilt(
        "held",
        "events_misnumbered",
        (
            "update payments.outbox set sequence = 3 where aggregate_id = %(held)s and sequence = 2",
            changed("held", "last_sequence = 3"),
        ),
    ),
    "a conflict is hidden": Spoilt(
        "odd",
        "history_off",
        (changed("odd", "status = 'VOIDING'"), "insert into payments.watches values (%(odd)s, 0, now())"),
    ),
    "money of nobody's": Spoilt("nobody", "balance_of_nobody", (moved("nobody", "charge", "ch_9", 1999),)),
    "Stripe captured less": Spoilt("paid", "balance_captured_off", (moved_otherwise("ch_1", "moved = 999"),)),
    "Stripe captured elsewhere": Spoilt(
        "paid", "balance_captured_off", (moved_otherwise("ch_1", "moved_currency = 'JPY'"),)
    ),
    "we captured less": Spoilt("disputed", "balance_captured_off", (changed("disputed", "amount_captured = 999"),)),
    "a charge of one that is void": Spoilt("late", "balance_captured_off", (moved("late", "charge", "ch_9", 500),)),
    "late money came back, and nobody sent it again": Spoilt(
        "late",
        "balance_captured_off",
        (
            "update payments.refunds set status = 'FAILED', failure_reason = 'x' where refund_id = %(refund_5)s",
            *told("late", "refund-failed", "refundId", "%(refund_5)s"),
            changed("late", "amount_reserved = 0"),
            moved("late", "refund", "re_5", 1000),
        ),
    ),
    "a charge of one that failed": Spoilt("failed", "balance_captured_off", (moved("failed", "charge", "ch_9", 1000),)),
    "a charge was turned round": Spoilt(
        "disputed", "balance_captured_off", (moved("disputed", "charge", "ch_2", -1000),)
    ),
    "a refund unknown to us": Spoilt("disputed", "balance_refunded_off", (moved("disputed", "refund", "re_9", -10),)),
    "a refund came back": Spoilt("paid", "balance_refunded_off", (moved("paid", "refund", "re_1", 200),)),
    "a refund of another amount": Spoilt("late", "balance_refunded_off", (moved_otherwise("re_5", "moved = -900"),)),
    "a dispute unknown to us": Spoilt("paid", "balance_disputed_off", (moved("paid", "dispute", "dp_9", -1000),)),
    "a dispute took less": Spoilt("disputed", "balance_disputed_off", (moved_otherwise("dp_2", "moved = -500"),)),
    "a lost dispute came back": Spoilt(
        "disputed", "balance_disputed_off", (moved("disputed", "dispute", "dp_1", 1000),)
    ),
}
