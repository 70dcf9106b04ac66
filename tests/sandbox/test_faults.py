"""What the network and Stripe may do to a call: https://docs.stripe.com/error-low-level."""

import time

import aiohttp
import pytest
import stripe

from tests.sandbox.driver import Driver, Steer, error_of, is_a


def test_dropped_before_executing_did_nothing(api: Driver, steer: Steer) -> None:
    """https://docs.stripe.com/error-low-level#network-errors: the same key again is safe."""
    order = steer.fault("before_executing", match={"path": "/v1/payment_intents", "method": "POST"})
    error = error_of(lambda: api.pay("k-before", metadata={"paymentId": "p"}))
    assert is_a(error, stripe.APIConnectionError)
    assert steer.ledger("p")["count"] == 0
    assert steer.fired(order) == 1
    assert api.pay("k-before", metadata={"paymentId": "p"}).status == "succeeded"
    assert steer.ledger("p")["count"] == 1


@pytest.mark.parametrize("fault", ["after_executing", "mid_body"])
def test_lost_answer_was_executed(api: Driver, steer: Steer, fault: str) -> None:
    """https://docs.stripe.com/error-low-level#network-errors: indeterminate; the replay finds the same object."""
    steer.fault(fault, match={"metadata": {"paymentId": "p"}})
    # stripe-python 16 lets aiohttp's own error through when the body breaks off: it is no StripeError.
    with pytest.raises((stripe.APIConnectionError, aiohttp.ClientPayloadError)):
        api.pay("k-lost", metadata={"paymentId": "p"})
    report = steer.ledger("p")
    assert (report["count"], report["payment_intents"][0]["status"]) == (1, "succeeded")
    again = api.pay("k-lost", metadata={"paymentId": "p"})
    assert again.id == report["payment_intents"][0]["id"]
    assert again.last_response.headers["idempotent-replayed"] == "true"
    assert steer.ledger("p")["count"] == 1


def test_rate_limit(api: Driver, steer: Steer) -> None:
    """https://docs.stripe.com/rate-limits."""
    steer.fault("status", status=429)
    error = error_of(api.pay)
    assert is_a(error, stripe.RateLimitError)
    assert error.error.code == "rate_limit"


def test_ordered_lock_timeout(api: Driver, steer: Steer) -> None:
    """https://docs.stripe.com/rate-limits#object-lock-timeouts."""
    steer.fault("status", status=429, error={"code": "lock_timeout"})
    error = error_of(api.pay)
    assert (error.http_status, error.error.code) == (429, "lock_timeout")
    assert error.headers["stripe-should-retry"] == "true"


def test_concurrent_calls_on_one_object_meet_a_lock_timeout(api: Driver, steer: Steer) -> None:
    """https://docs.stripe.com/rate-limits#object-lock-timeouts."""
    held = api.hold()
    steer.fault("slow", delay_s=0.4, when="before", match={"path": "*/capture"})
    outcomes = api.together(api.intents.capture_async(held.id), api.intents.cancel_async(held.id))
    assert getattr(outcomes[0], "status", None) == "succeeded"
    refused = outcomes[1]
    assert is_a(refused, stripe.RateLimitError)
    assert refused.error.code == "lock_timeout"


def test_slow_answer_is_slow(api: Driver, steer: Steer) -> None:
    """A timeout of the client's own: the call goes through all the same."""
    steer.fault("slow", delay_s=0.3)
    begun = time.monotonic()
    assert api.pay().status == "succeeded"
    assert time.monotonic() - begun >= 0.3


@pytest.mark.parametrize(
    ("status", "kind"), [(401, stripe.AuthenticationError), (403, stripe.PermissionError), (503, stripe.APIError)]
)
def test_other_statuses(api: Driver, steer: Steer, status: int, kind: type[stripe.StripeError]) -> None:
    """https://docs.stripe.com/api/errors (HTTP status code summary)."""
    steer.fault("status", status=status)
    error = error_of(api.pay)
    assert type(error) is kind
    assert error.http_status == status


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
