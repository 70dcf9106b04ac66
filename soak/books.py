"""The verdict: what callers were told, our books, our queues and Stripe's truth, each held against the others.

Words of the closing line. Lost: somebody was told of it, or Stripe has it, and our books or a queue do not. Doubled:
money moved, or news went out, more often than wished. Unbalanced: two books name different sums or states.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable
from typing import Any, NamedTuple

from soak.lives import ALTERED, Told
from soak.system import Json, System

LOST, DOUBLED, UNBALANCED = "lost", "doubled", "unbalanced"
# Where a payment may stand when Stripe's PaymentIntent stands so, and nothing is under way any more.
MAY_STAND = {
    "succeeded": {"SUCCEEDED", "FAILED", "VOIDED", "EXPIRED"},  # the last three: late money, which went back
    "requires_capture": {"AUTHORIZED"},
    "canceled": {"VOIDED", "FAILED", "EXPIRED"},
    "requires_action": {"ACTION_REQUIRED"},
    "requires_confirmation": {"ACTION_REQUIRED"},
    "requires_payment_method": {"ACTION_REQUIRED"},
}
REFUND_STANDS: dict[str, set[str | None]] = {
    "PROCESSED": {"succeeded"},
    "PENDING": {"pending", "requires_action"},
    "FAILED": {"failed", "canceled", None},  # None: it was refused, which needs a reason
}
PAYMENTS = """
select
  payment_id::text, status, amount, currency, amount_captured, amount_refunded, processor_payment_intent,
  metadata ->> 'soak'
from payments.payments
"""
REFUNDS = (
    "select refund_id::text, payment_id::text, amount, status, processor_reference, external from payments.refunds"
)
OUTBOX = """
select event_id::text from payments.outbox
where payments.routing_key(event_type) ~ any(
  array(select compiled_regex from pgmq.topic_bindings where queue_name = %s)
)
order by outbox_id
"""
DOUBLE_NEWS = """
select aggregate_id::text, string_agg(event_type, ', ') from payments.outbox
where event_type in ('payment-succeeded', 'payment-failed', 'payment-voided', 'payment-expired')
group by aggregate_id having count(*) > 1
union all
select payload ->> 'refundId', string_agg(event_type, ', ') from payments.outbox
where event_type in ('refund-processed', 'refund-failed')
group by payload ->> 'refundId', event_type having count(*) > 1
union all
select payload ->> 'disputeId', string_agg(event_type, ', ') from payments.outbox
where event_type in ('dispute-opened', 'dispute-closed')
group by payload ->> 'disputeId', event_type having count(*) > 1
"""


class Fault(NamedTuple):
    """One disagreement."""

    kind: str
    what: str


class Payment(NamedTuple):
    """A row of ours."""

    payment_id: str
    status: str
    amount: int
    currency: str
    captured: int
    refunded: int
    intent: str | None
    spoiled: str | None


class Refund(NamedTuple):
    """A row of ours."""

    refund_id: str
    payment_id: str
    amount: int
    status: str
    reference: str | None
    external: bool


async def compare(system: System, told: dict[str, Told], queues: Iterable[str]) -> list[Fault]:
    """Every disagreement between all books; asked when nothing is under way."""
    _, ledger = await system.sandbox("GET", "/ledger")
    payments = {row[0]: Payment(*row) for row in system.rows(PAYMENTS)}
    refunds = [Refund(*row) for row in system.rows(REFUNDS)]
    intents: dict[str, list[Json]] = defaultdict(list)
    for intent in ledger["payment_intents"]:
        intents[intent["metadata"].get("paymentId", "")].append(intent)
    return [
        *(Fault(UNBALANCED, f"the sandbox's own books: {one}") for one in ledger["imbalances"]),
        *(Fault(LOST, f"Stripe has payment {one}, we have not") for one in set(intents) - set(payments)),
        *(fault for one, story in told.items() for fault in _against_callers(one, story, payments, refunds)),
        *(fault for one in payments.values() for fault in _against_stripe(one, intents[one.payment_id], refunds)),
        *(fault for queue in queues for fault in _against_queue(system, queue)),
        *_against_themselves(system),
    ]


def _against_callers(
    payment_id: str, told: Told, payments: dict[str, Payment], refunds: list[Refund]
) -> Iterable[Fault]:
    row = payments.get(payment_id)
    if row is None:
        yield Fault(LOST, f"payment {payment_id} was answered and is gone")
        return
    if (row.amount, row.currency) != (told.body["amount"], told.body["currency"]):
        yield Fault(UNBALANCED, f"payment {payment_id} was asked for with {told.body['amount']}, is {row.amount}")
    if row.status not in told.may_end:
        yield Fault(UNBALANCED, f"payment {payment_id} ({told.life.name}) ended as {row.status}")
    yield from _against_accepted(row, told)
    ours = {one.refund_id: one.amount for one in refunds if one.payment_id == payment_id and not one.external}
    for wish in told.refunds:
        if ours.get(wish.refund_id) != wish.amount:
            yield Fault(LOST, f"refund {wish.refund_id} of {wish.amount} was answered, is {ours.get(wish.refund_id)}")
    unasked = set(ours) - {wish.refund_id for wish in told.refunds}
    if not told.is_voided:  # else it is what came too late, and goes back
        yield from (Fault(DOUBLED, f"payment {payment_id}: nobody asked for the refund {one}") for one in unasked)


def _against_accepted(row: Payment, told: Told) -> Iterable[Fault]:
    """What a 202 promised: it comes true, for no life has Stripe refuse a capture, or lets a hold expire."""
    name, kept = f"payment {row.payment_id} ({told.life.name}, {row.status})", row.captured - row.refunded
    if told.is_voided and told.captures:
        yield Fault(LOST, f"{name}: capture and void were both accepted")
    if told.is_voided and kept:
        yield Fault(LOST, f"{name}: a void was accepted, and {kept} are kept")
    for amount in set(told.captures):
        if row.status != "SUCCEEDED":
            yield Fault(LOST, f"{name}: a capture of {amount} was accepted")
        elif row.captured != amount:
            yield Fault(UNBALANCED, f"{name}: a capture of {amount} was accepted, {row.captured} were captured")


def _against_stripe(payment: Payment, intents: list[Json], refunds: list[Refund]) -> Iterable[Fault]:
    name = f"payment {payment.payment_id} ({payment.status})"
    if len(intents) > 1:
        yield Fault(DOUBLED, f"{name} has {len(intents)} PaymentIntents")
    if payment.spoiled == ALTERED["soak"] and payment.status == "CONFLICTED":
        return
    mine = [one for one in refunds if one.payment_id == payment.payment_id]
    captured = sum(one["amount_captured"] for one in intents)
    given_back = sum(one["amount_refunded"] for one in intents)
    if payment.captured - payment.refunded != captured - given_back:
        yield Fault(
            UNBALANCED,
            f"{name}: we keep {payment.captured} - {payment.refunded}, Stripe {captured} - {given_back}",
        )
    for intent in intents:
        if sum(one["status"] == "succeeded" for one in intent["charges"]) > 1:
            yield Fault(DOUBLED, f"{name} was charged more than once")
        if payment.status not in MAY_STAND.get(intent["status"], set()):
            yield Fault(UNBALANCED, f"{name}: Stripe's PaymentIntent is {intent['status']}")
        if payment.intent != intent["id"]:
            yield Fault(LOST, f"{name} knows {payment.intent}, Stripe has {intent['id']}")
        yield from _against_refunds(name, intent["refunds"], mine)


def _against_refunds(name: str, theirs: list[Json], ours: list[Refund]) -> Iterable[Fault]:
    wishes = Counter(one["metadata"].get("refundId") for one in theirs if one["metadata"].get("refundId"))
    yield from (
        Fault(DOUBLED, f"{name}: refund {one} was made {count} times") for one, count in wishes.items() if count > 1
    )
    by_reference = {one["id"]: one for one in theirs}
    known = {one.reference for one in ours}
    is_made_elsewhere = any(one.external for one in ours)  # so that there may have been too little left for ours
    yield from (Fault(LOST, f"{name}: we do not know Stripe's refund {one}") for one in set(by_reference) - known)
    for refund in ours:
        their = by_reference.get(refund.reference or "")
        status = their["status"] if their else None
        if status not in REFUND_STANDS.get(refund.status, set()):
            yield Fault(UNBALANCED, f"{name}: refund {refund.refund_id} is {refund.status}, Stripe's {status}")
        elif their is None and not is_made_elsewhere:
            yield Fault(LOST, f"{name}: refund {refund.refund_id} was never made, and nothing stood in its way")
        if their and their["amount"] != refund.amount:
            yield Fault(UNBALANCED, f"{name}: refund {refund.refund_id} of {refund.amount}, Stripe's {their['amount']}")


def _against_queue(system: System, queue: str) -> Iterable[Fault]:
    wanted = [row[0] for row in system.rows(OUTBOX, queue)]
    # The name is one of our own constants.
    got = [row[0] for row in system.rows(f"select headers ->> 'ce-id' from pgmq.q_{queue} order by msg_id")]
    doubled = [one for one, count in Counter(got).items() if count > 1]
    missing, strange = set(wanted) - set(got), set(got) - set(wanted)
    if doubled:
        yield Fault(DOUBLED, f"queue {queue} holds {len(doubled)} events twice, e.g. {doubled[0]}")
    if missing:
        yield Fault(LOST, f"queue {queue} lacks {len(missing)} events, e.g. {min(missing)}")
    if strange:
        yield Fault(UNBALANCED, f"queue {queue} holds {len(strange)} events that no outbox row tells of")
    broken = system.rows(
        f"""
        select aggregate_id::text from (
          select
            o.aggregate_id, o.sequence, lag(o.sequence) over (partition by o.aggregate_id order by q.msg_id) as last
          from pgmq.q_{queue} q join payments.outbox o on o.event_id = (q.headers ->> 'ce-id')::uuid
        ) s where last >= sequence limit 3
        """
    )
    yield from (Fault(UNBALANCED, f"queue {queue} is out of order for payment {row[0]}") for row in broken)


def _against_themselves(system: System) -> Iterable[Fault]:
    checks: dict[str, tuple[str, str]] = {
        "audit_imbalances": (UNBALANCED, "select payment_id::text || ': ' || imbalance from payments.audit_imbalances"),
        "told twice": (DOUBLED, f"select string_agg || ' of ' || aggregate_id from ({DOUBLE_NEWS}) twice"),
        "not weighed": (LOST, "select message_type || ' ' || message_id from payments.inbox_pending"),
        "dead letters": (
            LOST,
            "select origin || ' ' || message_id || ': ' || error from payments.dead_letters where resolved_at is null",
        ),
    }
    for name, (kind, query) in checks.items():
        for row in system.rows(query)[:5]:
            yield Fault(kind, f"{name}: {_shown(row)}")


def _shown(row: tuple[Any, ...]) -> str:
    return " ".join(str(value) for value in row)[:300]
