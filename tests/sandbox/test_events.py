"""Events: https://docs.stripe.com/api/events, https://docs.stripe.com/api/events/types."""

from collections.abc import Callable
from typing import Any

import pytest

from tests.sandbox.documented import documented
from tests.sandbox.driver import API_VERSION, Driver, Steer, error_of, eventually


def declined(api: Driver) -> Any:
    return error_of(lambda: api.pay(payment_method="pm_card_visa_chargeDeclined")).error.payment_intent


def captured(api: Driver) -> Any:
    return api.capture(api.hold().id)


def released(api: Driver) -> Any:
    return api.cancel(api.hold().id)


def canceled(api: Driver) -> Any:
    return api.cancel(api.pay(confirm=False).id)


def asked(api: Driver) -> Any:
    return api.pay(payment_method="pm_card_authenticationRequired")


def paid(api: Driver) -> Any:
    return api.pay(capture_method="automatic")


PAID = {"payment_intent.created", "charge.succeeded", "payment_intent.succeeded"}
HELD = {"payment_intent.created", "charge.succeeded", "payment_intent.amount_capturable_updated"}


@pytest.mark.parametrize(
    ("life", "expected"),
    [
        (paid, PAID),
        (declined, {"payment_intent.created", "charge.failed", "payment_intent.payment_failed"}),
        (asked, {"payment_intent.created", "payment_intent.requires_action"}),
        (captured, HELD | {"charge.captured", "payment_intent.succeeded"}),
        (released, HELD | {"charge.refunded", "payment_intent.canceled"}),
        (canceled, {"payment_intent.created", "payment_intent.canceled"}),
    ],
    ids=["paid", "declined", "asked", "captured", "released", "canceled"],
)
@documented(
    "https://docs.stripe.com/api/events/types", "https://docs.stripe.com/payments/paymentintents/lifecycle", lines=(32,)
)
def test_each_life_has_its_events(api: Driver, life: Callable[[Driver], Any], expected: set[str]) -> None:
    intent = life(api)

    def types() -> set[str]:
        return set(api.event_types(intent.id))

    eventually(lambda: types() >= expected)
    assert types() - expected <= {"charge.updated"}


@documented("https://docs.stripe.com/payments/paymentintents/lifecycle")
def test_processing_has_its_events(api: Driver, steer: Steer) -> None:
    intent = api.pay(payment_method="pm_usBankAccount_success", allowed_payment_method_types=["us_bank_account"])
    steer.advance(60)
    assert api.event_types(intent.id)[:5] == [
        "payment_intent.created",
        "payment_intent.processing",
        "charge.pending",
        "charge.succeeded",
        "payment_intent.succeeded",
    ]


@documented("https://docs.stripe.com/api/events/object#event_object-data-object")
def test_event_is_a_snapshot(api: Driver) -> None:
    held = api.hold()
    api.capture(held.id)
    shown = {one.type: one.data.object for one in api.events_of(held.id)}
    assert shown["payment_intent.amount_capturable_updated"].status == "requires_capture"
    assert shown["payment_intent.succeeded"].status == "succeeded"
    assert shown["charge.succeeded"].captured is False
    assert shown["charge.captured"].captured is True


@documented("https://docs.stripe.com/api/events/object#event_object-request")
def test_event_names_its_request(api: Driver) -> None:
    key = "event-names-its-request"
    intent = api.pay(key)
    event = api.events_of(intent.id)[0]
    assert (event.object, event.api_version, event.livemode) == ("event", API_VERSION, False)
    assert event.request.idempotency_key == key
    assert event.request.id == intent.last_response.headers["request-id"]


@documented("https://docs.stripe.com/api/events/object#event_object-request")
def test_automatic_event_names_no_request(api: Driver, steer: Steer) -> None:
    """Null when it was automatic."""
    intent = api.pay()
    steer.advance(60)
    event = next(one for one in api.events_of(intent.id) if one.type == "charge.updated")
    assert (event.request.id, event.request.idempotency_key) == (None, None)
    assert event.data.to_dict()["previous_attributes"] == {"balance_transaction": None}


@documented("https://docs.stripe.com/api/idempotent_requests")
def test_replay_makes_no_event(api: Driver) -> None:
    """Nothing happens a second time."""
    intent = api.pay("replay-makes-no-event", capture_method="automatic")
    before = api.event_types(intent.id)
    api.pay("replay-makes-no-event", capture_method="automatic")
    assert api.event_types(intent.id) == before


@documented("https://docs.stripe.com/api/events/list")
def test_events_can_be_filtered_and_retrieved(api: Driver) -> None:
    intent = api.pay()
    one = api.run(api.events.list_async({"type": "payment_intent.succeeded", "limit": 1})).data[0]
    assert one.data.object.id == intent.id
    some = api.run(api.events.list_async({"types": ["charge.succeeded", "payment_intent.created"]})).data
    assert {event.type for event in some} == {"charge.succeeded", "payment_intent.created"}
    assert api.run(api.events.retrieve_async(one.id)).id == one.id


@documented("https://docs.stripe.com/api/events", lines=(46,))
def test_events_go_back_thirty_days(api: Driver, steer: Steer) -> None:
    """The API shows events of up to 30 days ago."""
    intent = api.pay()
    event = api.events_of(intent.id)[0]
    steer.advance(31 * 24 * 3600)
    assert event.id not in {one.id for one in api.run(api.events.list_async({"limit": 100})).data}
    assert error_of(lambda: api.run(api.events.retrieve_async(event.id))).http_status == 404


@documented("https://docs.stripe.com/api/events/object#event_object-created", lines=(38,))
def test_created_has_a_grain_of_one_second(api: Driver) -> None:
    """Seconds since the Unix epoch: what happens within one of them has no order by it."""
    intent = api.pay(capture_method="automatic")
    events = api.events_of(intent.id)
    assert len(events) >= 3
    assert all(type(one.created) is int for one in events)
    assert max(one.created for one in events) - min(one.created for one in events) <= 1


@documented("https://docs.stripe.com/webhooks#handle-duplicate-events", lines=(37,))
def test_one_change_may_have_two_events(api: Driver, steer: Steer) -> None:
    """Under two ids: only the object and the type tell that they are one."""
    steer.post("webhooks", twins=True)
    intent = api.pay(confirm=False)
    first, second = api.events_of(intent.id)
    assert first.id != second.id
    assert (first.type, first.data.to_dict()) == (second.type, second.data.to_dict())


@documented("https://docs.stripe.com/error-low-level#server-errors", lines=(7, 45))
def test_500_may_hide_what_was_done_and_its_events_tell(api: Driver, steer: Steer) -> None:
    """The result is indeterminate; webhooks come for what was created all the same."""
    steer.fault("status", status=500, executed=True, match={"metadata": {"paymentId": "p-500"}})
    assert error_of(lambda: api.pay(metadata={"paymentId": "p-500"})).http_status == 500
    (line,) = steer.ledger("p-500")["payment_intents"]
    assert {"payment_intent.created", "payment_intent.succeeded"} <= set(api.event_types(line["id"]))
