"""What the lists tell, by which a payment is found that no answer and no webhook told of: https://docs.stripe.com/api/pagination."""

import uuid
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest

from tests.sandbox.documented import documented
from tests.sandbox.driver import DEADLINE_S, Driver, Receiver, Steer, eventually

NOUNS = ("payment_intents", "charges", "refunds", "events", "balance_transactions")


@documented("https://docs.stripe.com/api/payment_intents/list", "https://docs.stripe.com/search", lines=(9, 45))
@pytest.mark.parametrize("noun", [*NOUNS, "disputes"])
def test_lists_know_no_metadata(api: Driver, noun: str) -> None:
    """Search does, but it is not for reading what was just written."""
    reply = api.raw("GET", f"/v1/{noun}", "metadata[paymentId]=p-1")
    assert (reply.status, reply.body["error"]["code"]) == (400, "parameter_unknown")


@documented(
    "https://docs.stripe.com/api/pagination", "https://docs.stripe.com/api/payment_intents/list", lines=(9, 33, 46, 58)
)
@pytest.mark.parametrize("noun", NOUNS)
def test_every_list_pages_through_a_span_of_created(api: Driver, noun: str) -> None:
    """Newest first, none twice, none left out, both ends of the span included."""
    paid = [api.pay(capture_method="automatic") for _one in range(3)]
    refunds = [api.refund(payment_intent=one.id) for one in paid]
    made = {
        "payment_intents": {one.id for one in paid},
        "charges": {one.latest_charge for one in paid},
        "refunds": {one.id for one in refunds},
        "events": {api.events_of(one.id)[0].id for one in paid},
        "balance_transactions": {one.balance_transaction for one in refunds},
    }[noun]
    seen = list(pages(getattr(api.v1, noun), api, gte=paid[0].created, lte=refunds[-1].created + 60))
    assert made <= {one.id for one in seen}
    assert len({one.id for one in seen}) == len(seen)
    assert all(newer.created >= older.created for newer, older in pairwise(seen))


def pages(service: Any, api: Driver, **created: int) -> Iterator[Any]:
    """Everything of a list, two at a time."""
    given: dict[str, Any] = {"created": created, "limit": 2}
    while True:
        page = api.run(service.list_async(given))
        yield from page.data
        if not page.has_more:
            return
        given["starting_after"] = page.data[-1].id


@documented("https://docs.stripe.com/webhooks/process-undelivered-events", lines=(45, 46))
def test_events_since_a_known_one(api: Driver) -> None:
    """What ending_before an event lists came after it."""
    known = api.events_of(api.pay(confirm=False).id)[-1].id
    later = api.events_of(api.pay(confirm=False).id)[0].id
    listed = [one.id for one in api.run(api.events.list_async({"ending_before": known, "limit": 100})).data]
    assert later in listed
    assert known not in listed


@documented("https://docs.stripe.com/webhooks/process-undelivered-events", lines=(45, 46))
def test_events_that_were_not_delivered_can_be_listed(api: Driver, steer: Steer, receiver: Receiver) -> None:
    """By delivery_success: what at least one endpoint has not acknowledged, or what all have."""
    arrived = api.pay(confirm=False).id
    eventually(lambda: receiver.types(arrived))
    eventually(lambda: steer.get("webhooks", status="delivered")["deliveries"])
    steer.post("webhooks", mode="drop")
    lost = api.pay(confirm=False).id

    def about(*, delivered: bool) -> list[str]:
        page = api.run(api.events.list_async({"delivery_success": delivered}))
        return [one.data.object.id for one in page.data]

    assert (about(delivered=True), about(delivered=False)) == ([arrived], [lost])


@documented("https://docs.stripe.com/api/events/list", lines=(46,))
def test_objects_are_listed_when_their_events_no_longer_are(api: Driver, steer: Steer) -> None:
    """Only events are limited to 30 days."""
    intent = api.pay()
    refund = api.refund(payment_intent=intent.id)
    steer.advance(31 * 24 * 3600)
    assert api.events_of(intent.id) == []
    span = {"created": {"gte": intent.created, "lte": refund.created}}
    assert [one.id for one in api.run(api.intents.list_async(span)).data] == [intent.id]
    assert [one.id for one in api.run(api.refunds.list_async(span)).data] == [refund.id]


@documented("https://docs.stripe.com/api/pagination", lines=(9, 46))
def test_list_is_newest_first_and_pages(api: Driver) -> None:
    customer = api.customer()
    made = [api.pay(confirm=False, customer=customer.id).id for _one in range(5)]
    expected = made[::-1]
    first = api.run(api.intents.list_async({"customer": customer.id, "limit": 2}))
    assert ([one.id for one in first.data], first.has_more) == (expected[:2], True)
    rest = api.run(api.intents.list_async({"customer": customer.id, "limit": 3, "starting_after": expected[1]}))
    assert ([one.id for one in rest.data], rest.has_more) == (expected[2:], False)
    back = api.run(api.intents.list_async({"customer": customer.id, "limit": 2, "ending_before": expected[3]}))
    assert ([one.id for one in back.data], back.has_more) == (expected[1:3], True)

    async def every() -> list[str]:
        page = await api.intents.list_async({"customer": customer.id, "limit": 2})
        return [one.id async for one in page.auto_paging_iter()]

    assert api.run(every()) == expected


@documented("https://docs.stripe.com/api/payment_intents/list#list_payment_intents-created", lines=(9, 46))
def test_list_filters_by_created(api: Driver) -> None:
    customer = api.customer()
    intent = api.pay(confirm=False, customer=customer.id)

    def found(**created: int) -> list[str]:
        page = api.run(api.intents.list_async({"customer": customer.id, "created": created}))
        return [one.id for one in page.data]

    assert found(gte=intent.created, lte=intent.created) == [intent.id]
    assert found(gt=intent.created) == []
    assert found(lt=intent.created) == []


@documented("https://docs.stripe.com/api/pagination")
def test_list_limit_is_bounded(api: Driver) -> None:
    """Between 1 and 100."""
    assert api.raw("GET", "/v1/payment_intents", "limit=0").status == 400
    assert api.raw("GET", "/v1/payment_intents", "limit=101").status == 400


@documented("https://docs.stripe.com/api/balance_transactions/list", lines=(58,))
def test_balance_transactions_can_be_listed_by_source(api: Driver) -> None:
    intent = api.pay(capture_method="automatic", metadata={"paymentId": str(uuid.uuid4())})
    lines = eventually(
        lambda: api.run(api.v1.balance_transactions.list_async({"source": intent.latest_charge})).data,
        deadline_s=DEADLINE_S,
    )
    assert [(line.amount, line.type) for line in lines] == [(1000, "charge")]
