"""Payments that are paid, refunds asked for, and what the worker was told."""

from typing import Any
from uuid import UUID

from payments.domain.identifiers import new_id
from tests.domain.story import expanded
from tests.domain.stripe_objects import INTENT, answered, intent
from tests.inbox.conftest import Desk

COMMANDS = "select message, headers from pgmq.q_void_requested order by msg_id"

REFUNDS = """
select amount, status, external, reason, failure_reason from payments.refunds where payment_id = %s order by 1, 2
"""


def commands(desk: Desk) -> list[str]:
    return [message["cancellationReason"] for message, _ in desk.sql(COMMANDS)]


async def paid(desk: Desk, intent_id: str = INTENT) -> UUID:
    payment_id = desk.payment()
    taken = intent(payment_id, "succeeded", id=intent_id)
    desk.truth.intents[intent_id] = expanded(taken)
    desk.answer(answered(expanded(taken)), payment_id)
    await desk.settle()
    desk.notices.sent.clear()
    return payment_id


def ask_refund(desk: Desk, payment_id: UUID, amount: int = 400) -> UUID:
    refund_id = new_id()
    insert = "insert into payments.refunds (refund_id, payment_id, amount, currency) values (%s, %s, %s, 'EUR')"
    desk.sql(insert, refund_id, payment_id, amount)
    return refund_id


def refund_answer(desk: Desk, payment_id: UUID, refund_id: UUID, payload: dict[str, Any]) -> None:
    desk.answer({**payload, "operation": "create_refund", "subjectId": str(refund_id)}, payment_id, 77)
