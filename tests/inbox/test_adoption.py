"""Payments that a restored backup lost are found again in Stripe's metadata; what is somebody else's is left alone."""

from typing import Any
from uuid import UUID, uuid4

import pytest

from payments.database.connections import Connection
from payments.domain.adoption import LostPayment
from payments.domain.identifiers import new_id
from payments.inbox import weighing
from payments.inbox.books import adopt_payment
from payments.inbox.verdicts import OWNER_LOOKS_MAX
from tests.domain.story import expanded
from tests.domain.stripe_objects import INSUFFICIENT_FUNDS, INTENT, dispute, event, intent, refund
from tests.inbox.conftest import Desk
from tests.inbox.rows import insert_message

pytestmark = pytest.mark.anyio

CUSTOMER = uuid4()


def lost(desk: Desk, status: str = "succeeded", **fields: Any) -> tuple[UUID, dict[str, Any]]:
    """A PaymentIntent of a payment that is not in our books."""
    payment_id, cart_id, order_id = new_id(), uuid4(), uuid4()
    metadata = {"paymentId": str(payment_id), "cartId": str(cart_id), "orderId": str(order_id)}
    metadata["customerId"] = str(CUSTOMER)
    thing = intent(payment_id, status, metadata=metadata, **fields)
    desk.truth.intents[thing["id"]] = expanded(thing)
    return payment_id, thing


@pytest.mark.every_postgres
async def test_lost_payment_is_adopted_from_its_metadata_and_then_weighed(desk: Desk) -> None:
    payment_id, thing = lost(desk)
    for _ in range(2):
        desk.webhook(event("payment_intent.succeeded", thing))
    await desk.settle()
    assert desk.status(payment_id) == "SUCCEEDED"
    row = desk.one(
        "select cart_id::text, order_id::text, customer_id, amount, currency, capture_method, client_id"
        " from payments.payments"
    )
    metadata = thing["metadata"]
    assert row == (metadata["cartId"], metadata["orderId"], CUSTOMER, 1000, "EUR", "automatic", "adopted")
    assert desk.events(payment_id) == ["payment-requested", "payment-succeeded"]
    told = desk.one("select payload from payments.outbox where event_type = 'payment-requested'")[0]
    assert (told["customerId"], told["orderId"]) == (str(CUSTOMER), metadata["orderId"])
    call = desk.one("select operation, state, outcome, subject_id from payments.stripe_requests")
    assert call == ("create_payment_intent", "answered", "adopted", payment_id)
    first = desk.history(payment_id)[0]
    assert (first[2], first[3], first[4]) == (None, "REQUESTED", "applied")
    assert sorted(desk.outcomes()) == ["applied", "ignored", "ignored"]
    assert desk.sql("select * from payments.imbalances where kind not like '%%_unowned'") == []


async def test_lost_hold_is_adopted_as_one_that_can_be_captured(desk: Desk) -> None:
    payment_id, thing = lost(desk, "requires_capture", capture_method="manual")
    desk.webhook(event("payment_intent.amount_capturable_updated", thing))
    await desk.settle()
    assert desk.one("select status, capture_method from payments.payments") == ("AUTHORIZED", "manual")
    assert desk.events(payment_id) == ["payment-requested", "payment-authorized"]


@pytest.mark.parametrize("said", [{}, {"api_version": "2019-02-11"}, {"livemode": None}])
@pytest.mark.parametrize("kind", ["refund.created", "charge.dispute.created"])
async def test_refund_or_dispute_of_a_lost_payment_brings_it_back_first(
    desk: Desk, kind: str, said: dict[str, Any]
) -> None:
    """Also one that is only a hint."""
    payment_id, _ = lost(desk)
    make = refund(INTENT, 400, "succeeded") if kind.startswith("refund") else dispute(INTENT, "needs_response")
    desk.truth.refunds[make["id"]] = desk.truth.disputes[make["id"]] = make
    desk.webhook(event(kind, make) | said)
    await desk.settle()
    assert desk.status(payment_id) == "SUCCEEDED"
    told = "refund-processed" if kind.startswith("refund") else "dispute-opened"
    assert desk.events(payment_id) == ["payment-requested", "payment-succeeded", told]


@pytest.mark.parametrize("metadata", [{}, {"paymentId": "order-7"}, {"paymentId": str(uuid4())}])
async def test_what_another_user_of_the_account_does_is_counted_and_ignored(
    desk: Desk, metadata: dict[str, str]
) -> None:
    theirs = intent(None, "succeeded", metadata=metadata)
    desk.truth.intents[INTENT] = theirs
    desk.webhook(event("payment_intent.succeeded", theirs))
    desk.webhook(event("refund.created", refund(INTENT, 400, "succeeded")))
    desk.webhook(event("charge.dispute.created", dispute(INTENT, "lost")))
    await desk.settle()
    assert set(desk.outcomes()) == {"foreign"}
    assert desk.sql("select from payments.payments") == []


async def test_refund_of_a_payment_intent_that_stripe_does_not_know_is_foreign(desk: Desk) -> None:
    desk.webhook(event("refund.created", refund("pi_gone", 400, "succeeded")))
    await desk.settle()
    assert desk.outcomes() == ["foreign"]


async def test_lost_payment_whose_cart_has_another_goes_to_an_operator(desk: Desk) -> None:
    payment_id, thing = lost(desk)
    other = desk.payment()
    desk.sql("alter table payments.payments disable trigger guard_payment")
    desk.sql("update payments.payments set cart_id = %s where payment_id = %s", thing["metadata"]["cartId"], other)
    desk.sql("alter table payments.payments enable trigger guard_payment")
    desk.webhook(event("payment_intent.succeeded", thing))
    desk.webhook(event("refund.created", refund(INTENT, 400, "succeeded")))
    await desk.settle()
    assert desk.status(other) == "REQUESTED"
    errors = [row[0] for row in desk.sql("select error from payments.dead_letters order by died_at")]
    assert errors
    assert all("lost" in error or "could not be adopted" in error for error in errors)
    assert len(desk.truth.asked) <= 2 * OWNER_LOOKS_MAX, "one look at a time for each row"
    assert payment_id not in [row[0] for row in desk.sql("select payment_id from payments.payments")]


async def test_lost_payment_that_another_recorder_adopts_at_the_same_moment_is_weighed(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    payment_id, thing = lost(desk)

    async def overtaken(conn: Connection, payment: LostPayment) -> bool:
        if not desk.sql("select from payments.payments"):
            desk.payment(payment_id=payment.payment_id)
        return await adopt_payment(conn, payment)

    monkeypatch.setattr(weighing, "adopt_payment", overtaken)
    desk.webhook(event("payment_intent.succeeded", thing))
    await desk.settle()
    assert desk.status(payment_id) == "SUCCEEDED"
    assert desk.events(payment_id) == ["payment-requested", "payment-succeeded"]
    assert desk.sql("select from payments.dead_letters") == []


async def test_payments_of_one_cart_are_found_again_one_after_the_other(desk: Desk) -> None:
    """The first was declined, the second paid; a restored backup has neither."""
    cart_id = str(uuid4())
    ids = sorted(new_id() for _ in range(2))  # as they were made
    statuses: list[tuple[str, dict[str, Any]]] = [
        ("canceled", {"cancellation_reason": "abandoned", "last_payment_error": INSUFFICIENT_FUNDS}),
        ("succeeded", {}),
    ]
    for number, (payment_id, (status, fields)) in enumerate(zip(ids, statuses, strict=True)):
        metadata = {"paymentId": str(payment_id), "cartId": cart_id, "orderId": str(uuid4())}
        thing = intent(payment_id, status, id=f"pi_{number}", metadata=metadata, **fields)
        desk.truth.intents[thing["id"]] = expanded(thing) if status == "succeeded" else thing
        fetched = {
            "operation": "retrieve_payment_intent",
            "outcome": "answered",
            "object": desk.truth.intents[thing["id"]],
        }
        insert_message(
            desk.admin, "reconciler", f"pi_{number}/req_{number}", "fetched.payment_intent", payment_id, fetched
        )
    await desk.settle()
    found = dict(desk.sql("select payment_id, status from payments.payments"))
    assert [found.get(payment_id) for payment_id in ids] == ["FAILED", "SUCCEEDED"]
    assert desk.sql("select error from payments.dead_letters") == []
