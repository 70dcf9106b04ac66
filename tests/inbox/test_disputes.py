"""Disputes are kept, told, and shown on their payment."""

import pytest

from tests.domain.stripe_objects import INTENT, dispute, event
from tests.inbox.conftest import Desk
from tests.inbox.wishes import paid

pytestmark = pytest.mark.anyio
ENDS_TOLD = "select payload ->> 'status' from payments.outbox where event_type = 'dispute-closed' order by sequence"
MISTOLD = "select imbalance from payments.imbalances where kind = 'dispute_mistold'"


async def test_dispute_is_kept_told_and_shown_on_the_payment(desk: Desk) -> None:
    payment_id = await paid(desk)
    desk.webhook(event("charge.dispute.created", dispute(INTENT, "needs_response")))
    await desk.settle()
    assert desk.one("select disputed, status from payments.payments") == (True, "SUCCEEDED")
    desk.webhook(event("charge.dispute.closed", dispute(INTENT, "won")))
    desk.webhook(event("charge.dispute.updated", dispute(INTENT, "under_review")))
    await desk.settle()
    assert desk.one("select disputed from payments.payments") == (False,)
    row = desk.one("select status, amount, currency, reason, closed_at is not null from payments.disputes")
    assert row == ("won", 1000, "EUR", "fraudulent", True)
    assert desk.events(payment_id)[2:] == ["dispute-opened", "dispute-closed"]


async def test_payment_is_disputed_while_any_of_its_disputes_is_open_or_lost(desk: Desk) -> None:
    payment_id = await paid(desk)
    first, second = ({"id": f"dp_{number}", "amount": 300 + number} for number in range(2))
    for one in (first, second):
        desk.webhook(event("charge.dispute.created", dispute(INTENT, "needs_response", **one)))
    desk.webhook(event("charge.dispute.closed", dispute(INTENT, "won", **first)))
    await desk.settle()
    assert desk.one("select disputed from payments.payments") == (True,)
    told = "select payload -> 'amount' from payments.outbox where event_type = 'dispute-opened' order by sequence"
    assert desk.sql(told) == [(300,), (301,)]
    assert {row[0] for row in desk.sql("select payment_id from payments.inbox")} == {payment_id}


async def test_two_ends_of_a_dispute_are_settled_by_the_dispute_itself(desk: Desk) -> None:
    await paid(desk)
    desk.truth.disputes["dp_3Qm4Tests0000000000001"] = dispute(INTENT, "won")
    for status in ("lost", "won", "lost"):
        desk.webhook(event("charge.dispute.closed", dispute(INTENT, status)))
        await desk.settle()
    assert desk.one("select status from payments.disputes") == ("won",)
    assert desk.one("select disputed from payments.payments") == (False,)
    assert desk.sql(ENDS_TOLD) == [("lost",), ("won",)]
    assert desk.sql(MISTOLD) == []


async def test_end_that_is_appealed_is_open_again_until_the_appeal_ends(desk: Desk) -> None:
    await paid(desk)
    for status, is_disputed in (
        *(("needs_response", True), ("won", False), ("appeal_needs_response", True), ("appeal_under_review", True)),
        ("lost", True),
    ):
        desk.truth.disputes["dp_3Qm4Tests0000000000001"] = dispute(INTENT, status)
        desk.webhook(event("charge.dispute.updated", dispute(INTENT, status)))
        await desk.settle()
        assert desk.one("select status from payments.disputes") == (status,)
        assert desk.one("select disputed from payments.payments") == (is_disputed,)
        assert desk.sql(MISTOLD) == []
    assert desk.sql(ENDS_TOLD) == [("won",), ("lost",)]
