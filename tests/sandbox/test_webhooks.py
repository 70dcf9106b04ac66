"""Webhooks: https://docs.stripe.com/webhooks."""

import itertools
import json
import time
from typing import Any

import pytest
import stripe

from tests.sandbox.documented import documented
from tests.sandbox.driver import API_VERSION, SECRET, Driver, Process, Receiver, Steer, eventually

LIFE = ["payment_intent.created", "charge.succeeded", "payment_intent.succeeded"]


def arrived(receiver: Receiver, identifier: str, count: int) -> list[str]:
    eventually(lambda: len(receiver.types(identifier)) >= count)
    return receiver.types(identifier)


@documented("https://docs.stripe.com/webhooks#verify-official-libraries", lines=(35, 36, 40))
def test_events_are_delivered_signed(api: Driver, receiver: Receiver) -> None:
    intent = api.pay(capture_method="automatic", metadata={"paymentId": "p-1"})
    assert sorted(arrived(receiver, intent.id, 3)) == sorted(LIFE)
    for hit in receiver.hits:
        event = stripe.Webhook.construct_event(hit.body, hit.signature, SECRET)
        assert (event.api_version, event.livemode, event.pending_webhooks) == (API_VERSION, False, 1)
        assert event.request.id == intent.last_response.headers["request-id"]
    shown = {hit.type: hit.event["data"]["object"] for hit in receiver.hits}
    assert shown["payment_intent.succeeded"]["metadata"] == {"paymentId": "p-1"}


@documented("https://docs.stripe.com/webhooks#verify-manually", lines=(40,))
def test_wrong_secret_does_not_verify(api: Driver, receiver: Receiver) -> None:
    intent = api.pay()
    arrived(receiver, intent.id, 1)
    with pytest.raises(stripe.SignatureVerificationError):
        stripe.Webhook.construct_event(receiver.hits[0].body, receiver.hits[0].signature, "whsec_other")


@documented("https://docs.stripe.com/webhooks#retries", lines=(39, 43))
def test_delivery_is_retried_until_2xx_and_signed_afresh(api: Driver, steer: Steer, receiver: Receiver) -> None:
    """A new signature and timestamp for each attempt."""
    steer.post("webhooks", mode="hold")
    api.cancel(api.pay(confirm=False).id)
    steer.post("webhooks", mode="deliver", retry_base_s=1.0)
    receiver.answers.extend([500, 302, 404])
    canceled = steer.get("webhooks", type="payment_intent.canceled")["deliveries"][0]
    steer.post("webhooks/release", deliveries=[canceled["id"]], wait=False)
    eventually(lambda: len(receiver.hits) == 1)
    for attempts in (1, 2, 3):
        reached(steer, attempts)
        steer.advance(10)
    eventually(lambda: delivery(steer, canceled["id"])["status"] == "delivered")
    assert len({hit.event["id"] for hit in receiver.hits}) == 1
    for hit in receiver.hits:
        stripe.Webhook.construct_event(hit.body, hit.signature, SECRET)
        assert abs(int(hit.signature.split(",")[0][2:]) - hit.at) < 3, "the time of the attempt, not of the event"


def reached(steer: Steer, attempts: int) -> Any:
    """The delivery that has had so many attempts."""

    def find() -> Any:
        return next((one for one in steer.get("webhooks")["deliveries"] if one["attempts"] == attempts), None)

    return eventually(find)


def delivery(steer: Steer, identifier: int) -> dict[str, object]:
    found = steer.get("webhooks")["deliveries"]
    return next(dict(one) for one in found if one["id"] == identifier)


@documented("https://docs.stripe.com/webhooks#retries")
def test_retries_back_off(api: Driver, steer: Steer, receiver: Receiver) -> None:
    receiver.answers.extend([500] * 50)
    steer.post("webhooks", retry_base_s=100.0)
    api.pay(confirm=False)
    waits = []
    for attempts in (1, 2, 3):
        found = reached(steer, attempts)
        waits.append(round((found["next_at"] - steer.get("clock")["now"]) / 100))
        steer.post("clock", now=found["next_at"] + 0.1)
    assert waits == [1, 2, 4]


@documented("https://docs.stripe.com/webhooks#retries", lines=(43,))
def test_endpoint_that_is_down_is_retried(api: Driver, steer: Steer, receiver: Receiver) -> None:
    steer.post("webhooks", url="http://127.0.0.1:9/closed", retry_base_s=0.05)
    intent = api.pay(capture_method="automatic")
    eventually(lambda: all(one["attempts"] > 0 for one in steer.get("webhooks")["deliveries"]))
    steer.post("webhooks", url=receiver.url)
    assert sorted(set(arrived(receiver, intent.id, 3))) == sorted(LIFE)


@documented("https://docs.stripe.com/webhooks#event-ordering", lines=(38,))
def test_held_events_are_released_in_any_order(api: Driver, steer: Steer, receiver: Receiver) -> None:
    """The order is not guaranteed."""
    steer.post("webhooks", mode="hold")
    intent = api.pay(capture_method="automatic")
    events = {one["type"]: one["event"] for one in steer.get("webhooks", status="held")["deliveries"]}
    assert set(events) == set(LIFE)
    assert receiver.hits == []
    for order in itertools.permutations(LIFE):
        receiver.hits.clear()
        done = steer.post("webhooks/release", events=[events[kind] for kind in order])
        assert [one["status"] for one in done["deliveries"]] == ["delivered"] * 3
        assert receiver.types(intent.id) == list(order)


@documented("https://docs.stripe.com/api/events/list", lines=(45, 46))
def test_dropped_events_are_only_listed(api: Driver, steer: Steer, receiver: Receiver) -> None:
    """Whatever became of their deliveries."""
    steer.post("webhooks", mode="drop")
    intent = api.pay()
    assert {one["status"] for one in steer.get("webhooks")["deliveries"]} == {"dropped"}
    assert set(api.event_types(intent.id)) >= set(LIFE)
    assert receiver.hits == []
    event = api.events_of(intent.id)[0].id
    steer.post("webhooks/redeliver", event=event, times=2)
    assert [hit.event["id"] for hit in receiver.hits] == [event, event]


@documented("https://docs.stripe.com/webhooks#handle-duplicate-events", lines=(37,))
def test_events_are_duplicated(api: Driver, steer: Steer, receiver: Receiver) -> None:
    steer.post("webhooks", duplicate=2, reorder=True)
    intent = api.pay(capture_method="automatic")
    assert sorted(arrived(receiver, intent.id, 9)) == sorted(LIFE * 3)
    assert len({hit.event["id"] for hit in receiver.hits}) == 3


@documented("https://docs.stripe.com/webhooks#event-delivery-behaviors")
def test_delivery_is_delayed(api: Driver, steer: Steer, receiver: Receiver) -> None:
    steer.post("webhooks", delay_s=300)
    intent = api.pay(capture_method="automatic")
    assert {one["status"] for one in steer.get("webhooks")["deliveries"]} == {"pending"}
    assert receiver.hits == []
    steer.advance(301)
    arrived(receiver, intent.id, 3)


@documented("https://docs.stripe.com/webhooks#roll-endpoint-secrets", lines=(41,))
def test_rolled_secret_signs_twice(api: Driver, steer: Steer, receiver: Receiver) -> None:
    """One signature per active secret."""
    steer.post("webhooks", secrets=[SECRET, "whsec_new"])
    arrived(receiver, api.pay().id, 1)
    hit = receiver.hits[0]
    assert hit.signature.count("v1=") == 2
    for secret in (SECRET, "whsec_new"):
        stripe.Webhook.construct_event(hit.body, hit.signature, secret)


@documented(
    "https://docs.stripe.com/webhooks/versioning", "https://docs.stripe.com/api/webhook_endpoints/object", lines=(42,)
)
def test_endpoint_pins_its_version_and_types(api: Driver, steer: Steer, receiver: Receiver) -> None:
    steer.post(
        "webhooks", api_version="2020-08-27", livemode=True, account="acct_1", enabled_events=["charge.succeeded"]
    )
    intent = api.pay(capture_method="automatic")
    assert arrived(receiver, intent.id, 1) == ["charge.succeeded"]
    event = receiver.hits[0].event
    assert (event["api_version"], event["livemode"], event["account"]) == ("2020-08-27", True, "acct_1")
    assert api.events_of(intent.id)[0].api_version == API_VERSION


@documented("https://docs.stripe.com/webhooks#endpoint-secrets")
def test_several_endpoints_have_secrets_of_their_own(api: Driver, steer: Steer, receiver: Receiver) -> None:
    steer.post("endpoints", name="we_second", url=receiver.url + "2", secret="whsec_second")
    intent = api.pay(capture_method="automatic")
    assert len(arrived(receiver, intent.id, 6)) == 6
    verified = set()
    for hit in receiver.hits:
        for secret in (SECRET, "whsec_second"):
            try:
                stripe.Webhook.construct_event(hit.body, hit.signature, secret)
            except stripe.SignatureVerificationError:
                continue
            verified.add((hit.type, secret))
    assert len(verified) == 6
    assert "whsec" not in json.dumps(steer.get("endpoints"))


@documented("https://docs.stripe.com/webhooks#acknowledge-events-immediately")
def test_slow_endpoint_times_out_and_others_flow(api: Driver, steer: Steer, receiver: Receiver) -> None:
    steer.post("endpoints", name="we_black_hole", url="http://10.255.255.1/none", secret="whsec_x")
    steer.post("webhooks", timeout_s=0.2)
    begun = time.monotonic()
    arrived(receiver, api.pay(capture_method="automatic").id, 3)
    assert time.monotonic() - begun < 5


@documented("https://docs.stripe.com/webhooks#retries")
def test_undelivered_events_survive_a_kill(state: "object", receiver: Receiver) -> None:
    """Retried for days, whatever happens to one of Stripe's machines."""
    process = Process(str(state), receiver.url)
    process.start()
    steer = Steer(process.base_url)
    steer.post("webhooks", mode="hold")
    driver = Driver(process.base_url, "sk_test_x")
    try:
        intent = driver.pay(capture_method="automatic")
        held = steer.get("webhooks", status="held")["deliveries"]
        steer.post("webhooks", delay_s=0)
        process.kill()
        process.start()
        steer.post("webhooks/release", deliveries=[one["id"] for one in held], wait=False)
        assert sorted(set(arrived(receiver, intent.id, 3))) == sorted(LIFE)
    finally:
        driver.close()
        process.stop()


@documented(
    "https://docs.stripe.com/webhooks#retries",
    "https://docs.stripe.com/webhooks/process-undelivered-events",
    lines=(39, 43),
)
def test_retries_end_after_three_days(api: Driver, steer: Steer, receiver: Receiver) -> None:
    """Then only the list of events has it."""
    receiver.answers.extend([503] * 10)
    day_s = 24 * 3600
    steer.post("webhooks", retry_base_s=day_s, retry_cap_s=day_s)
    intent = api.pay(confirm=False)
    for attempts in (1, 2, 3):
        assert reached(steer, attempts)["status"] == "pending"
        steer.advance(day_s + 1)
    assert reached(steer, 4)["status"] == "exhausted"
    assert api.event_types(intent.id) == ["payment_intent.created"]
