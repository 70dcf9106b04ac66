"""Payments, refunds and disputes as the recorder reads and writes them. All functions join the caller's transaction.

Whoever changes a refund or a dispute holds the lock of its payment, so theirs need none.
"""

from collections.abc import Iterable
from typing import Any
from uuid import UUID

import msgspec

from payments.database.connections import Connection
from payments.database.queries import load_queries
from payments.domain.adoption import LostPayment
from payments.domain.declines import Failure, FailureReason
from payments.domain.disputes import Dispute
from payments.domain.payment import NextAction, Payment
from payments.domain.refunds import Refund, RefundStatus, find_refund
from payments.domain.states import PaymentStatus

_QUERIES = load_queries("inbox")


class Locked(msgspec.Struct):
    """A payment under its row lock, as it changes while one batch is weighed."""

    payment: Payment
    last_sequence: int
    refunds: dict[UUID, Refund] = msgspec.field(default_factory=dict)
    disputes: dict[str, Dispute] = msgspec.field(default_factory=dict)  # by Stripe's id

    def find_refund(self, refund_id: UUID | None, processor_reference: str | None) -> Refund | None:
        """The refund that is known to be Stripe's, else that of our id."""
        return find_refund(self.refunds, refund_id, processor_reference)

    def keep_refund(self, after: Refund) -> None:
        """Takes over a refund as it is now, and what that leaves reserved; SQL's trigger keeps the same sum."""
        before = self.refunds.get(after.refund_id)
        reserved = self.payment.amount_reserved + _reserved(after) - (_reserved(before) if before else 0)
        self.refunds[after.refund_id] = after
        self.payment = msgspec.structs.replace(self.payment, amount_reserved=reserved)


def _reserved(refund: Refund) -> int:
    return 0 if refund.status is RefundStatus.FAILED else refund.amount


async def lock_payments(conn: Connection, payment_ids: Iterable[UUID]) -> dict[UUID, Locked]:
    """Locks payments, always in the order of their ids, and reads them; unknown ids are left out."""
    ids = {"payment_ids": sorted(payment_ids)}
    if not ids["payment_ids"]:
        return {}
    rows: list[Any] = await (await conn.execute(_QUERIES["lock_payments"], ids)).fetchall()
    recalled: list[Any] = await (await conn.execute(_QUERIES["recall"], ids)).fetchall()
    history = {payment_id: (last_id, was_asked) for payment_id, last_id, was_asked in recalled}
    return {row[0]: _read(row, *history.get(row[0], (0, False))) for row in rows}


def _read(row: tuple[Any, ...], last_history_id: int, was_asked: bool) -> Locked:  # noqa: FBT001 - a column
    (
        payment_id,
        order_id,
        amount,
        currency,
        capture_method,
        payment_method,
        status,
        authorized,
        captured,
        intent,
        reference,
        failure_reason,
        decline_code,
        failure_message,
        next_action,
        capture_before,
        capture_id,
        amount_to_capture,
        amount_reserved,
        disputed,
        last_sequence,
    ) = row
    failure = Failure(FailureReason(failure_reason), decline_code, failure_message) if failure_reason else None
    payment = Payment(
        payment_id=payment_id,
        order_id=order_id,
        amount=amount,
        currency=currency,
        capture_method=capture_method,
        payment_method=payment_method,
        status=PaymentStatus(status),
        amount_authorized=authorized,
        amount_captured=captured,
        processor_payment_intent=intent,
        processor_reference=reference,
        failure=failure,
        next_action=msgspec.convert(next_action, NextAction) if next_action else None,
        capture_before=capture_before,
        capture_id=capture_id,
        amount_to_capture=amount_to_capture,
        amount_reserved=amount_reserved,
        disputed=disputed,
        last_history_id=last_history_id,
        was_customer_asked=was_asked,
    )
    return Locked(payment, last_sequence)


async def read_refunds_and_disputes(conn: Connection, books: dict[UUID, Locked]) -> None:
    """Adds to locked payments what is known of their refunds and disputes."""
    ids = {"payment_ids": sorted(books)}
    if not books:
        return
    refunds: list[Any] = await (await conn.execute(_QUERIES["read_refunds"], ids)).fetchall()
    for refund_id, payment_id, amount, currency, reason, status, reference, failure_reason, external in refunds:
        books[payment_id].refunds[refund_id] = Refund(
            refund_id=refund_id,
            payment_id=payment_id,
            amount=amount,
            currency=currency,
            reason=reason,
            status=RefundStatus(status),
            processor_reference=reference,
            failure_reason=failure_reason,
            external=external,
        )
    disputes: list[Any] = await (await conn.execute(_QUERIES["read_disputes"], ids)).fetchall()
    for dispute_id, payment_id, reference, amount, currency, reason, status, opened_at, closed_at in disputes:
        books[payment_id].disputes[reference] = Dispute(
            dispute_id=dispute_id,
            payment_id=payment_id,
            processor_reference=reference,
            amount=amount,
            currency=currency,
            reason=reason,
            status=status,
            opened_at=opened_at,
            closed_at=closed_at,
        )


async def adopt_payment(conn: Connection, lost: LostPayment) -> bool:
    """Inserts a payment that we had lost, and the call that made its PaymentIntent; False when it or its cart is taken.

    The caller publishes its first event, of sequence 1.
    """
    if not (await conn.execute(_QUERIES["adopt_payment"], msgspec.structs.asdict(lost))).rowcount:
        return False
    await conn.execute(_QUERIES["adopt_call"], {"payment_id": lost.payment_id})
    return True


async def add_refund(conn: Connection, refund: Refund) -> None:
    """Writes a refund that is new to us."""
    await conn.execute(_QUERIES["add_refund"], msgspec.structs.asdict(refund) | {"status": refund.status.value})


async def change_refund(conn: Connection, refund: Refund) -> None:
    """Writes a refund as it now is."""
    await conn.execute(_QUERIES["change_refund"], msgspec.structs.asdict(refund) | {"status": refund.status.value})


async def add_dispute(conn: Connection, dispute: Dispute) -> None:
    """Writes a dispute that is new to us."""
    await conn.execute(_QUERIES["add_dispute"], msgspec.structs.asdict(dispute))


async def change_dispute(conn: Connection, dispute: Dispute) -> None:
    """Writes a dispute as it now is."""
    await conn.execute(_QUERIES["change_dispute"], msgspec.structs.asdict(dispute))


async def change_payment(conn: Connection, locked: Locked) -> None:
    """Writes a locked payment as it now is."""
    payment = locked.payment
    failure = payment.failure
    values = {
        "payment_id": payment.payment_id,
        "status": payment.status.value,
        "amount_authorized": payment.amount_authorized,
        "amount_captured": payment.amount_captured,
        "processor_payment_intent": payment.processor_payment_intent,
        "processor_reference": payment.processor_reference,
        "failure_reason": failure.reason.value if failure else None,
        "failure_decline_code": failure.decline_code if failure else None,
        "failure_message": failure.message if failure else None,
        "next_action": msgspec.json.encode(payment.next_action).decode() if payment.next_action else None,
        "capture_before": payment.capture_before,
        "disputed": payment.disputed,
        "last_sequence": locked.last_sequence,
    }
    await conn.execute(_QUERIES["change_payment"], values)
