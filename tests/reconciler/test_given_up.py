"""What an operator has given up, by discarding its dead letter, ends as Stripe has it."""

import json
from uuid import UUID, uuid4

import pytest

from payments.domain.refunds import DOES_NOT_FIT
from tests.reconciler.table import Table

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    ("state", "outcome", "found"),
    [
        ("parked", None, "parked calls to look for"),
        ("in_doubt", None, "parked calls to look for"),
        ("to_reconcile", None, None),
        ("answered", "answered", None),
        ("answered", "settled", None),
        ("answered", "absent", "refunds given up"),
    ],
)
@pytest.mark.parametrize(
    "why_not", [None, "another letter is open", "queued", "young", "tried again since", "in conflict", "news"]
)
async def test_refund_that_was_given_up_ends_once_it_is_certain_that_stripe_has_not_made_it(
    table: Table, state: str, outcome: str | None, found: str | None, why_not: str | None
) -> None:
    payment_id, refund_id = given_up_refund(table, letter_at="now()" if why_not == "young" else "'-infinity'")
    table.call(payment_id, refund_id, "create_refund", state, outcome)
    message = json.dumps({"paymentId": str(payment_id), "refundId": str(refund_id)})
    match why_not:
        case "another letter is open":
            table.letter(payment_id, "{}", "null", "null", origin="queue:x")
        case "tried again since":
            table.letter(payment_id, message, "now()", "'tried again'")
        case "queued":
            table.conn.execute("select pgmq.send('refund_requested', %s::jsonb)", (message,))
        case "in conflict" if found == "refunds given up":
            table.change(payment_id, status="CONFLICTED")
        case "news" if found == "refunds given up":
            table.news(payment_id, "the payment is locked")
        case "in conflict" | "news":
            found = None if state == "answered" else found
    is_free = why_not is None or (why_not in {"in conflict", "news"} and found == "parked calls to look for")
    assert await table.run() == ({found: 1} if found is not None and is_free else {})


def given_up_refund(table: Table, reason: str | None = None, letter_at: str = "'-infinity'") -> tuple[UUID, UUID]:
    payment_id = table.payment("SUCCEEDED", amount_authorized=1000, amount_captured=1000, processor_payment_intent="pi")
    refund_id = uuid4()
    table.conn.execute(
        "insert into payments.refunds (refund_id, payment_id, amount, currency, reason, updated_at)"
        " values (%s, %s, 300, 'EUR', %s, '-infinity')",
        (refund_id, payment_id, reason),
    )
    table.dispatch_and_lose()
    message = json.dumps({"paymentId": str(payment_id), "refundId": str(refund_id)})
    table.letter(payment_id, message, letter_at, "'discarded: x'")
    return payment_id, refund_id


@pytest.mark.parametrize(("reason", "is_given_up"), [(None, True), ("compensation", False)])
async def test_compensation_is_given_up_only_for_a_refund_that_waits_for_its_room(
    table: Table, reason: str | None, *, is_given_up: bool
) -> None:
    """Late money must go back. A refund in the Dashboard that does not fit is no news of the one that is in its way."""
    payment_id, _ = given_up_refund(table, reason)
    assert await table.run() == ({"refunds given up": 1} if is_given_up else {})
    table.conn.execute("delete from payments.inbox")
    table.news(payment_id, f"a refund of 300 {DOES_NOT_FIT}: 1000 of 1000 are spoken for")
    assert await table.run() == {"refunds given up": 1}


async def test_refund_whose_look_at_stripe_was_discarded_as_well_is_left_alone(table: Table) -> None:
    """Stripe does not show its PaymentIntent: looking once more would leave one more letter."""
    payment_id, refund_id = given_up_refund(table)
    table.call(payment_id, refund_id, "create_refund", "parked")
    (call_id,) = table.conn.execute("select call_id from payments.stripe_requests").fetchone() or (0,)
    message = json.dumps({"paymentId": str(payment_id), "refundId": str(refund_id)})
    table.letter(payment_id, message, "'-infinity'", "'discarded: x'", message_id=f"call/{call_id}")
    assert await table.run() == {}


@pytest.mark.parametrize(
    ("status", "intent", "letter", "is_looked_for"),
    [
        ("VOIDING", None, "discarded: x", True),
        ("VOIDING", None, "none", True),
        ("VOIDING", None, "open", False),
        ("VOIDING", "pi_1", "discarded: x", False),
        ("REQUESTED", None, "discarded: x", False),
    ],
)
async def test_parked_call_of_a_void_is_left_to_the_sweep_once_no_operator_has_it(
    table: Table, status: str, intent: str | None, letter: str, *, is_looked_for: bool
) -> None:
    """While the letter is open, what is done about the call is the operator's."""
    payment_id = table.payment(status, processor_payment_intent=intent)
    table.call(payment_id, payment_id, "create_payment_intent", "parked")
    table.conn.execute("update payments.stripe_requests set attempts = 1, swept_to = now()")
    table.dispatch_and_lose()
    if letter != "none":
        table.conn.execute(
            "insert into payments.dead_letters (origin, message_id, payment_id, payload, attempts, error)"
            " values ('queue:payment_requested', 'x', %s, '{}', 5, 'x')",
            (payment_id,),
        )
    if letter.startswith("discarded"):
        table.conn.execute("update payments.dead_letters set resolved_at = now(), resolution = %s", (letter,))
    found = await table.run()
    assert found.get("parked calls to look for", 0) == is_looked_for
    calls = "select state, swept_to is null from payments.stripe_requests where operation = 'create_payment_intent'"
    assert table.conn.execute(calls).fetchall() == [("to_reconcile", True) if is_looked_for else ("parked", False)]
    assert table.messages("payment_requested") == []


async def test_parked_call_of_a_void_that_somebody_keeps_locked_has_its_turn_later(table: Table) -> None:
    locked, other = table.payment("VOIDING"), table.payment("VOIDING")
    for payment_id in (locked, other):
        table.call(payment_id, payment_id, "create_payment_intent", "parked")
    table.dispatch_and_lose()
    with table.database.connect(autocommit=False) as somebody:
        somebody.execute("select from payments.payments where payment_id = %s for update", (locked,))
        assert await table.run() == {"parked calls to look for": 1}
    parked = "select payment_id from payments.stripe_requests where state = 'parked'"
    assert table.conn.execute(parked).fetchall() == [(locked,)]
    assert await table.run() == {"parked calls to look for": 1}
