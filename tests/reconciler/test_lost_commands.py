"""A wish that stands and that nobody works on is sent again; one that somebody works on never is."""

import json
from typing import Any
from uuid import uuid4

import pytest

from tests.database.rows import insert_event
from tests.reconciler.table import QUEUES, Table

pytestmark = pytest.mark.anyio


async def test_lost_request_is_sent_again_once(table: Table) -> None:
    payment_id = table.payment()
    table.dispatch_and_lose()
    assert await table.run() == {"lost commands sent again": 1}
    ((message, headers),) = table.messages("payment_requested")
    assert message["paymentId"] == str(payment_id)
    assert set(message) >= {"orderId", "amount", "currency", "requestedAt"}
    assert (headers["ce-type"], headers["x-pgmq-group"]) == ("payment-requested", str(payment_id))
    assert table.notices.sent == [("payments_queue", "payment_requested")]
    assert await table.run() == {}, "now it is in its queue"


async def test_a_payment_that_somebody_keeps_locked_holds_up_no_other_command(table: Table) -> None:
    locked, other = table.payment(), table.payment()
    held = {"capture_method": "manual", "amount_authorized": 1000, "processor_payment_intent": "pi_1"}
    captured = table.payment("CAPTURING", **held, capture_id=uuid4(), amount_to_capture=600)
    table.dispatch_and_lose()
    with table.database.connect(autocommit=False) as operator:
        operator.execute("select from payments.payments where payment_id = %s for update", (locked,))
        assert await table.run() == {"lost commands sent again": 2, "commands of locked payments": 1}
    assert [message["paymentId"] for message, _ in table.messages("payment_requested")] == [str(other)]
    assert [message["paymentId"] for message, _ in table.messages("capture_requested")] == [str(captured)]
    assert await table.run() == {"lost commands sent again": 1}


@pytest.mark.parametrize("state", ["intended", "in_flight", "in_doubt"])
async def test_lost_request_of_a_call_under_way_is_sent_again(table: Table, state: str) -> None:
    payment_id = table.payment()
    table.call(payment_id, payment_id, "create_payment_intent", state)
    table.dispatch_and_lose()
    assert await table.run() == {"lost commands sent again": 1}


@pytest.mark.parametrize(
    "why",
    ["young", "not dispatched", "queued", "inbox", "dead letter", "to_reconcile", "parked", "answered", "settled"],
)
async def test_request_that_somebody_works_on_is_left_alone(table: Table, why: str) -> None:
    payment_id = table.payment()
    if why != "not dispatched":
        table.dispatch_and_lose()
    match why:
        case "young":
            table.change(payment_id, updated_at="now()")
        case "queued":
            table.conn.execute(
                "select pgmq.send('payment_requested', %s::jsonb)", (json.dumps({"paymentId": str(payment_id)}),)
            )
        case "inbox":
            table.conn.execute(
                "insert into payments.inbox (source, message_id, message_type, payment_id, payload)"
                " values ('stripe-api', 'x', 'x', %s, '{}')",
                (payment_id,),
            )
        case "dead letter":
            table.conn.execute(
                "insert into payments.dead_letters (origin, message_id, payment_id, payload, attempts, error)"
                " values ('queue:payment_requested', 'x', %s, '{}', 1, 'x')",
                (payment_id,),
            )
        case "to_reconcile" | "parked":
            table.call(payment_id, payment_id, "create_payment_intent", why)
        case "answered":
            table.call(payment_id, payment_id, "create_payment_intent", "answered", "answered")
        case "settled":
            table.change(payment_id, status="FAILED", failure_reason="CARD_DECLINED")
        case _:
            pass
    before = len(table.messages("payment_requested"))
    assert await table.run() == {}
    assert len(table.messages("payment_requested")) == before


async def test_lost_capture_cancel_and_refund_are_sent_again(table: Table) -> None:
    capture_id, refund_id = uuid4(), uuid4()
    held = {"amount_authorized": 1000, "processor_payment_intent": "pi_1", "capture_method": "manual"}
    capturing = table.payment("CAPTURING", **held, capture_id=capture_id, amount_to_capture=600)
    voiding = table.payment("VOIDING", **{**held, "processor_payment_intent": "pi_2"})
    unasked = table.payment("VOIDING")
    paid = table.payment("SUCCEEDED", amount_authorized=1000, amount_captured=1000, processor_payment_intent="pi_3")
    table.conn.execute(
        "insert into payments.refunds (refund_id, payment_id, amount, currency, updated_at)"
        " values (%s, %s, 300, 'EUR', '-infinity')",
        (refund_id, paid),
    )
    insert_event(table.conn, capturing, "capture-requested", 2)
    insert_event(table.conn, paid, "refund-requested", 2)
    table.dispatch_and_lose()
    assert await table.run() == {"lost commands sent again": 4}
    (((capture, _),), ((cancel, _),), ((refund, _),), ((create, _),)) = (
        table.messages(queue)
        for queue in ("capture_requested", "void_requested", "refund_requested", "payment_requested")
    )
    assert (capture["captureId"], capture["amount"]) == (str(capture_id), 600)
    assert (cancel["paymentId"], cancel["cancellationReason"]) == (str(voiding), "requested_by_customer")
    assert (refund["refundId"], refund["amount"]) == (str(refund_id), 300)
    assert create["paymentId"] == str(unasked), "nothing was asked of Stripe: the worker voids it without a call"
    assert await table.run() == {}


@pytest.mark.parametrize("wish", ["REQUESTED", "CAPTURING", "VOIDING", "refund"])
async def test_wish_that_was_given_up_to_an_operator_is_left_alone(table: Table, wish: str) -> None:
    columns: dict[str, Any] = {"processor_payment_intent": "pi_1", "amount_authorized": 1000}
    match wish:
        case "REQUESTED":
            payment_id = table.payment()
        case "CAPTURING":
            payment_id = table.payment(
                "CAPTURING", **columns, capture_method="manual", capture_id=uuid4(), amount_to_capture=600
            )
        case "VOIDING":
            payment_id = table.payment("VOIDING", **columns, capture_method="manual")
        case _:
            payment_id = table.payment("SUCCEEDED", **columns, amount_captured=1000)
            table.conn.execute(
                "insert into payments.refunds (refund_id, payment_id, amount, currency, updated_at)"
                " values (%s, %s, 300, 'EUR', '-infinity')",
                (uuid4(), payment_id),
            )
    table.dispatch_and_lose()
    table.conn.execute(
        "insert into payments.dead_letters (origin, message_id, payment_id, payload, attempts, error)"
        " values ('queue:x', 'x', %s, '{}', 1, 'x')",
        (payment_id,),
    )
    assert await table.run() == {}
    table.conn.execute("update payments.dead_letters set resolved_at = now(), resolution = 'tried again'")
    assert await table.run() == {"lost commands sent again": 1}


async def test_wish_that_an_operator_has_discarded_is_not_sent_again_nor_called_lost(table: Table) -> None:
    """They have paid by hand, perhaps. Another wish of the same payment is another letter's."""
    held = {"amount_authorized": 1000, "capture_method": "manual"}
    requested = table.payment()
    capturing = table.payment(
        "CAPTURING", **held, capture_id=uuid4(), amount_to_capture=600, processor_payment_intent="pi_1"
    )
    voiding = table.payment("VOIDING", **held, processor_payment_intent="pi_2")
    paid = table.payment("SUCCEEDED", amount_authorized=1000, amount_captured=1000, processor_payment_intent="pi_3")
    for _ in range(2):
        table.conn.execute(
            "insert into payments.refunds (refund_id, payment_id, amount, currency, updated_at)"
            " values (%s, %s, 300, 'EUR', '-infinity')",
            (uuid4(), paid),
        )
    table.dispatch_and_lose()
    assert await table.run() == {"lost commands sent again": 5}
    for queue in QUEUES:
        messages = [message for message, _ in table.messages(queue)]
        for number, message in enumerate(messages[:1] if queue == "refund_requested" else messages):
            table.conn.execute(
                "insert into payments.dead_letters"
                " (origin, message_id, payment_id, payload, attempts, error, resolved_at, resolution)"
                " values (%s, %s, %s, %s::jsonb, 5, 'x', '-infinity', 'discarded: paid by hand')",
                (f"queue:{queue}", f"{queue}/{number}", message["paymentId"], json.dumps(message)),
            )
        if queue == "refund_requested":
            left = messages[1]["refundId"]
        table.conn.execute(f"delete from pgmq.q_{queue}")
    found = table.conn.execute("select kind, subject_id::text from payments.imbalances where kind like '%%unowned'")
    assert found.fetchall() == [("refund_unowned", left)]
    # A void is wished for until it is done: nothing would be gained by a hold that lapses a week later.
    assert await table.run() == {"lost commands sent again": 2, "refunds given up": 1}
    ((cancel, _),) = table.messages("void_requested")
    assert cancel["paymentId"] == str(voiding)
    ((refund, _),) = table.messages("refund_requested")
    assert refund["refundId"] == left
    assert {requested, capturing, voiding} == {
        row[0] for row in table.conn.execute("select payment_id from payments.dead_letters") if row[0] != paid
    }


async def test_void_of_a_payment_whose_request_was_discarded_is_carried_out(table: Table) -> None:
    payment_id = table.payment("VOIDING")
    table.dispatch_and_lose()
    table.conn.execute(
        "insert into payments.dead_letters"
        " (origin, message_id, payment_id, payload, attempts, error, resolved_at, resolution)"
        " values ('queue:payment_requested', 'x', %s, '{}', 5, 'x', now(), 'discarded: given up')",
        (payment_id,),
    )
    assert await table.run() == {"lost commands sent again": 1}


@pytest.mark.parametrize("outcome", ["absent", "superseded"])
async def test_lost_wish_whose_key_was_given_up_is_sent_again(table: Table, outcome: str) -> None:
    """A command follows on either; while that is lost as well, nobody has the wish."""
    capture_id, refund_id = uuid4(), uuid4()
    held = {"amount_authorized": 1000, "capture_method": "manual"}
    wish = {"capture_id": capture_id, "amount_to_capture": 600}
    paid = {"amount_authorized": 1000, "amount_captured": 1000}
    requested = table.payment()
    capturing = table.payment("CAPTURING", **held, **wish, processor_payment_intent="pi_1")
    voiding = table.payment("VOIDING", **held, processor_payment_intent="pi_2")
    refunding = table.payment("SUCCEEDED", **paid, processor_payment_intent="pi_3")
    table.conn.execute(
        "insert into payments.refunds (refund_id, payment_id, amount, currency, updated_at)"
        " values (%s, %s, 300, 'EUR', '-infinity')",
        (refund_id, refunding),
    )
    table.call(requested, requested, "create_payment_intent", "answered", outcome)
    table.call(capturing, capture_id, "capture_payment_intent", "answered", outcome)
    table.call(voiding, voiding, "cancel_payment_intent", "answered", outcome)
    table.call(refunding, refund_id, "create_refund", "answered", outcome)
    table.dispatch_and_lose()
    assert await table.run() == {"lost commands sent again": 4}
    assert [len(table.messages(queue)) for queue in QUEUES] == [1, 1, 1, 1]


async def test_request_whose_answer_went_by_gets_a_watch(table: Table) -> None:
    payment_id = table.payment(processor_payment_intent="pi_1")
    table.call(payment_id, payment_id, "create_payment_intent", "answered", "answered")
    table.dispatch_and_lose()
    assert await table.run() == {}
    assert table.conn.execute("select payment_id from payments.watches").fetchall() == [(payment_id,)]


async def test_audit_tells_of_lost_wishes_and_no_more_once_they_are_sent_again(table: Table) -> None:
    held = {"amount_authorized": 1000, "processor_payment_intent": "pi_1", "capture_method": "manual"}
    voiding = table.payment("VOIDING", **held)
    paid = table.payment("SUCCEEDED", amount_authorized=1000, amount_captured=1000, processor_payment_intent="pi_2")
    refund_id = uuid4()
    table.conn.execute(
        "insert into payments.refunds (refund_id, payment_id, amount, currency, updated_at)"
        " values (%s, %s, 300, 'EUR', '-infinity')",
        (refund_id, paid),
    )
    table.dispatch_and_lose()
    lost = {(voiding, "VOIDING, and nobody looks after it"), (paid, f"nobody is working on refund {refund_id}")}
    query = "select payment_id, imbalance from payments.audit_imbalances"
    found = set(table.conn.execute(query).fetchall())
    assert lost <= found
    stuck = table.conn.execute("select status from payments.stuck_payments order by status").fetchall()
    assert stuck == [("VOIDING",), ("refund REQUESTED",)]
    await table.run()
    table.conn.execute("insert into payments.watches (payment_id, next_look_at) values (%s, now())", (voiding,))
    assert not lost & set(table.conn.execute(query).fetchall())
