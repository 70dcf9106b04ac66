"""The recorder on a real database: what Stripe said becomes payment, history and outbox, in one transaction."""

import pytest

from tests.domain.stripe_objects import CHARGE, INTENT, SECRET, answered, declined, event, intent, refused
from tests.inbox.conftest import Desk

pytestmark = [pytest.mark.anyio, pytest.mark.every_postgres]


async def test_an_answered_call_makes_a_payment_succeed(desk: Desk) -> None:
    payment_id = desk.payment()
    desk.answer(answered(intent(payment_id, "succeeded")), payment_id)
    await desk.settle()
    row = desk.one(
        "select status, amount_authorized, amount_captured, processor_payment_intent, processor_reference, last_sequence,"
        " version from payments.payments where payment_id = %s",
        payment_id,
    )
    assert row == ("SUCCEEDED", 1000, 1000, INTENT, CHARGE, 2, 2)
    assert desk.events(payment_id) == ["payment-requested", "payment-succeeded"]
    assert desk.outcomes() == ["applied"]
    assert desk.history(payment_id) == [
        (
            "api.create_payment_intent",
            "stripe-api",
            "REQUESTED",
            "SUCCEEDED",
            "applied",
            "Stripe has the money",
            "req_tests",
        )
    ]
    assert desk.notices.sent == [("payments_outbox", ""), ("payments_settled", str(payment_id))]
    payload, headers = desk.one(
        "select payload, headers from payments.outbox where aggregate_id = %s and sequence = 2", payment_id
    )
    assert (payload["amount"], payload["currency"], payload["processorReference"]) == (1000, "EUR", CHARGE)
    assert (headers["ce-sequence"], headers["x-pgmq-group"]) == ("0000000002", str(payment_id))
