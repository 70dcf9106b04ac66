"""Steering: orders of faults, altered answers, the log of calls. What Stripe itself does stands elsewhere."""

import time

import stripe

from tests.sandbox.driver import Driver, Receiver, Steer, error_of, eventually


def test_slow_answer_is_slow(api: Driver, steer: Steer) -> None:
    """A timeout of the client's own: the call goes through all the same."""
    steer.fault("slow", delay_s=0.3)
    begun = time.monotonic()
    assert api.pay().status == "succeeded"
    assert time.monotonic() - begun >= 0.3


def test_altered_answer_lies_but_the_ledger_does_not(api: Driver, steer: Steer) -> None:
    """Scenario: 200 with another amount."""
    steer.fault("alter", set={"amount": 1, "currency": "eur", "livemode": True})
    intent = api.pay(metadata={"paymentId": "p"})
    assert (intent.amount, intent.currency, intent.livemode) == (1, "eur", True)
    assert steer.ledger("p")["payment_intents"][0]["amount"] == 1000
    assert api.intent(intent.id).amount == 1000


def test_order_counts_skips_and_ends(api: Driver, steer: Steer) -> None:
    order = steer.fault("status", status=503, times=2, skip=1, match={"method": "post", "path": "/v1/payment_*"})
    outcomes = []
    for _time in range(5):
        try:
            outcomes.append(api.pay().status)
        except stripe.StripeError as error:
            outcomes.append(str(error.http_status))
    assert outcomes == ["succeeded", "503", "503", "succeeded", "succeeded"]
    assert steer.fired(order) == 2


def test_order_matches_metadata_of_the_object_called(api: Driver, steer: Steer) -> None:
    mine, other = api.hold(metadata={"paymentId": "mine"}), api.hold(metadata={"paymentId": "other"})
    steer.fault("status", status=503, times=None, match={"metadata": {"paymentId": "mine"}})
    assert api.capture(other.id).status == "succeeded"
    assert error_of(lambda: api.capture(mine.id)).http_status == 503
    assert error_of(lambda: api.refund(payment_intent=mine.id)).http_status == 503


def test_orders_can_be_withdrawn(api: Driver, steer: Steer) -> None:
    order = steer.fault("status", status=503, times=None)
    steer.fault("status", status=401, times=None)
    steer.delete(f"faults/{order}")
    assert error_of(api.pay).http_status == 401
    steer.delete("faults")
    assert api.pay().status == "succeeded"


def test_calls_are_logged_without_key_or_body(api: Driver, steer: Steer) -> None:
    steer.fault("after_executing", match={"idempotency_key": "k-log"})
    error_of(lambda: api.pay("k-log", metadata={"paymentId": "p"}, description="private"))
    api.pay("k-log", metadata={"paymentId": "p"}, description="private")
    lines = steer.calls(idempotency_key="k-log")
    assert [(line["status"], line["replayed"], line["executed"]) for line in lines] == [
        (200, False, True),
        (200, True, False),
    ]
    assert lines[0]["fault"].endswith(":after_executing")
    assert lines[1]["fault"] is None
    assert len(steer.calls(payment_id="p", path="/v1/payment_intents", method="POST")) == 2
    text = str(steer.get("requests"))
    assert api.key not in text
    assert "private" not in text


def test_bad_orders_are_400(api: Driver, steer: Steer) -> None:
    for order in ({"fault": "nonsense"}, {"fault": "slow", "surprise": 1}, {"fault": "slow", "delay_s": -1}):
        assert steer.reply("faults", **order).status == 400
    assert steer.reply("webhooks", mode="nonsense").status == 400
    assert steer.reply("no_such_call").status == 404


def test_delivery_that_is_forgotten_on_its_way_is_not_tried_again(
    api: Driver, steer: Steer, receiver: Receiver
) -> None:
    receiver.may_answer.clear()
    receiver.answers.extend([500] * 50)
    api.pay(confirm=False)
    eventually(lambda: receiver.hits)
    steer.delete("webhooks")
    receiver.may_answer.set()
    (delivery,) = eventually(lambda: [one for one in steer.get("webhooks")["deliveries"] if one["attempts"]])
    assert delivery["status"] == "dropped"
