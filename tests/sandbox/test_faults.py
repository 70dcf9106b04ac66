"""What the network and Stripe may do to a call: https://docs.stripe.com/error-low-level."""

import aiohttp
import pytest
import stripe

from tests.sandbox.documented import documented
from tests.sandbox.driver import Driver, Steer, error_of, is_a


@documented("https://docs.stripe.com/error-low-level#network-errors", lines=(2,))
def test_dropped_before_executing_did_nothing(api: Driver, steer: Steer) -> None:
    """The same key again is safe."""
    order = steer.fault("before_executing", match={"path": "/v1/payment_intents", "method": "POST"})
    error = error_of(lambda: api.pay("k-before", metadata={"paymentId": "p"}))
    assert is_a(error, stripe.APIConnectionError)
    assert steer.ledger("p")["count"] == 0
    assert steer.fired(order) == 1
    assert api.pay("k-before", metadata={"paymentId": "p"}).status == "succeeded"
    assert steer.ledger("p")["count"] == 1


@pytest.mark.parametrize("fault", ["after_executing", "mid_body"])
@documented("https://docs.stripe.com/error-low-level#network-errors", lines=(1, 45))
def test_lost_answer_was_executed(api: Driver, steer: Steer, fault: str) -> None:
    """Indeterminate; the replay finds the same object."""
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


@documented("https://docs.stripe.com/rate-limits", lines=(6,))
def test_rate_limit(api: Driver, steer: Steer) -> None:
    steer.fault("status", status=429)
    error = error_of(api.pay)
    assert is_a(error, stripe.RateLimitError)
    assert error.error.code == "rate_limit"


@documented("https://docs.stripe.com/rate-limits#object-lock-timeouts", lines=(6,))
def test_ordered_lock_timeout(api: Driver, steer: Steer) -> None:
    steer.fault("status", status=429, error={"code": "lock_timeout"})
    error = error_of(api.pay)
    assert (error.http_status, error.error.code) == (429, "lock_timeout")
    assert error.headers["stripe-should-retry"] == "true"


@documented("https://docs.stripe.com/rate-limits#object-lock-timeouts", lines=(6, 20))
def test_concurrent_calls_on_one_object_meet_a_lock_timeout(api: Driver, steer: Steer) -> None:
    held = api.hold()
    steer.fault("slow", delay_s=0.4, when="before", match={"path": "*/capture"})
    outcomes = api.together(api.intents.capture_async(held.id), api.intents.cancel_async(held.id))
    assert getattr(outcomes[0], "status", None) == "succeeded"
    refused = outcomes[1]
    assert is_a(refused, stripe.RateLimitError)
    assert refused.error.code == "lock_timeout"


@pytest.mark.parametrize(
    ("status", "kind"), [(401, stripe.AuthenticationError), (403, stripe.PermissionError), (503, stripe.APIError)]
)
@documented("https://docs.stripe.com/api/errors", lines=(10, 15))
def test_other_statuses(api: Driver, steer: Steer, status: int, kind: type[stripe.StripeError]) -> None:
    steer.fault("status", status=status)
    error = error_of(api.pay)
    assert type(error) is kind
    assert error.http_status == status
