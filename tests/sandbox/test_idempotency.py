"""https://docs.stripe.com/api/idempotent_requests, https://docs.stripe.com/error-low-level#idempotency."""

import uuid
from collections import Counter

import pytest
import stripe

from tests.sandbox.documented import documented
from tests.sandbox.driver import Driver, Steer, error_of, is_a

FORM = "amount=1000&currency=usd&confirm=true&payment_method=pm_card_visa&allowed_payment_method_types[]=card"
DAY_S = 24 * 3600


def fresh() -> str:
    return str(uuid.uuid4())


@documented("https://docs.stripe.com/api/idempotent_requests", lines=(1, 3))
def test_same_key_gives_the_same_answer(api: Driver) -> None:
    """Subsequent requests with the same key return the same result."""
    key = fresh()
    first = api.raw("POST", "/v1/payment_intents", FORM, Idempotency_Key=key)
    second = api.raw("POST", "/v1/payment_intents", FORM, Idempotency_Key=key)
    assert (first.status, first.body) == (second.status, second.body)
    assert "idempotent-replayed" not in first.headers
    assert second.headers["idempotent-replayed"] == "true"
    assert second.headers["request-id"] != first.headers["request-id"]
    assert second.headers["original-request"] == first.headers["request-id"]
    assert second.headers["idempotency-key"] == key


@documented("https://docs.stripe.com/api/idempotent_requests")
def test_order_of_parameters_does_not_matter(api: Driver) -> None:
    """The layer compares parameters, not bytes."""
    key = fresh()
    first = api.raw("POST", "/v1/payment_intents", "amount=1000&currency=usd", Idempotency_Key=key)
    second = api.raw("POST", "/v1/payment_intents", "currency=usd&amount=1000", Idempotency_Key=key)
    assert first.body["id"] == second.body["id"]


@documented("https://docs.stripe.com/api/idempotent_requests", lines=(3,))
def test_replay_shows_the_first_answer_not_the_present(api: Driver) -> None:
    """The saved body is returned, whatever has happened since."""
    key = fresh()
    held = api.pay(key, capture_method="manual")
    api.capture(held.id)
    assert api.pay(key, capture_method="manual").status == "requires_capture"
    assert api.intent(held.id).status == "succeeded"


@documented("https://docs.stripe.com/api/idempotent_requests", lines=(8,))
def test_decline_is_replayed(api: Driver) -> None:
    """Saved regardless of whether it succeeds or fails."""
    key = fresh()
    first = error_of(lambda: api.pay(key, payment_method="pm_card_visa_chargeDeclined"))
    second = error_of(lambda: api.pay(key, payment_method="pm_card_visa_chargeDeclined"))
    assert first.http_status == second.http_status == 402
    assert first.error.payment_intent.id == second.error.payment_intent.id
    assert second.headers["idempotent-replayed"] == "true"


@documented("https://docs.stripe.com/api/idempotent_requests", lines=(5, 13))
def test_other_parameters_are_an_idempotency_error(api: Driver) -> None:
    """Compares incoming parameters to those of the original request and errors if they're not the same."""
    key = fresh()
    api.pay(key)
    error = error_of(lambda: api.pay(key, amount=2000))
    assert is_a(error, stripe.IdempotencyError)
    assert (error.http_status, error.error.type) == (400, "idempotency_error")
    assert "same parameters" in str(error)
    assert key in str(error)


@documented("https://docs.stripe.com/api/errors")
def test_other_endpoint_is_an_idempotency_error(api: Driver) -> None:
    """A key belongs to its endpoint as much as to its parameters."""
    key = fresh()
    held = api.pay(key, capture_method="manual")
    error = error_of(lambda: api.capture(held.id, key))
    assert is_a(error, stripe.IdempotencyError)
    assert "same endpoint" in str(error)
    assert api.intent(held.id).status == "requires_capture"


@documented("https://docs.stripe.com/api/idempotent_requests")
def test_validation_error_is_not_saved(api: Driver) -> None:
    """No result is saved if incoming parameters fail validation."""
    key = fresh()
    error_of(lambda: api.pay(key, amount=1))
    assert api.pay(key).status == "succeeded"


@documented("https://docs.stripe.com/error-low-level#content-errors")
def test_refusal_during_execution_is_saved(api: Driver) -> None:
    """A 400 is sent back again under the same key."""
    key, held = fresh(), api.pay(confirm=False)
    first = error_of(lambda: api.capture(held.id, key))
    api.confirm(held.id, payment_method="pm_card_visa", capture_method="manual")
    second = error_of(lambda: api.capture(held.id, key))
    assert first.error.code == second.error.code == "payment_intent_unexpected_state"
    assert second.headers["idempotent-replayed"] == "true"
    assert api.capture(held.id).status == "succeeded"


@documented("https://docs.stripe.com/api/idempotent_requests")
def test_key_may_have_255_characters(api: Driver) -> None:
    """Idempotency keys are up to 255 characters long."""
    longest = (fresh() * 8)[:255]
    assert api.raw("POST", "/v1/payment_intents", FORM, Idempotency_Key=longest).status == 200
    assert api.raw("POST", "/v1/payment_intents", FORM, Idempotency_Key=longest + "x").status == 400


@documented("https://docs.stripe.com/api/idempotent_requests")
def test_get_ignores_the_key(api: Driver) -> None:
    """All POST requests accept keys; on GET they have no effect."""
    key = fresh()
    first = api.raw("GET", "/v1/events", "limit=1", Idempotency_Key=key)
    second = api.raw("GET", "/v1/events", "limit=2", Idempotency_Key=key)
    assert (first.status, second.status) == (200, 200)
    assert "idempotent-replayed" not in second.headers


@documented("https://docs.stripe.com/api/idempotent_requests", lines=(9,))
def test_key_is_forgotten_after_a_day(api: Driver, steer: Steer) -> None:
    """Keys can be removed after they're at least 24 hours old; a reused key is then a new request."""
    key = fresh()
    first = api.pay(key)
    steer.advance(DAY_S - 60)
    assert api.pay(key).id == first.id
    steer.advance(120)
    assert api.pay(key).id != first.id


@documented("https://docs.stripe.com/error-low-level", lines=(4, 12))
def test_concurrent_request_with_the_key_is_409(api: Driver, steer: Steer) -> None:
    """Conflicts are not saved."""
    key = fresh()
    steer.fault("slow", delay_s=0.5, when="before", match={"idempotency_key": key})
    outcomes = api.together(*(api.paying(key) for _time in range(5)))
    paid = [one for one in outcomes if not isinstance(one, BaseException)]
    refused = [one for one in outcomes if is_a(one, stripe.StripeError)]
    assert len(paid) == 1
    assert {(one.http_status, one.error.code) for one in refused} == {(409, "idempotency_key_in_use")}
    assert all(one.headers["stripe-should-retry"] == "true" for one in refused)
    assert api.pay(key).id == paid[0].id


@documented("https://docs.stripe.com/api/idempotent_requests", lines=(12,))
def test_concurrency_never_doubles(api: Driver, steer: Steer) -> None:
    """One effect per key, however many requests."""
    keys = [fresh() for _key in range(5)]
    works = [api.paying(key, metadata={"paymentId": key}) for key in keys for _time in range(4)]
    api.together(*works)
    lines = steer.get("ledger")["payment_intents"]
    assert Counter(line["metadata"]["paymentId"] for line in lines) == Counter(keys)


@pytest.mark.parametrize("executed", [False, True])
@documented("https://docs.stripe.com/api/idempotent_requests", lines=(7,))
def test_500_is_saved(api: Driver, steer: Steer, *, executed: bool) -> None:
    """Subsequent requests with the same key return the same result, including 500 errors."""
    key = fresh()
    steer.fault("status", status=500, executed=executed, match={"idempotency_key": key})
    first = error_of(lambda: api.pay(key, metadata={"paymentId": key}))
    second = error_of(lambda: api.pay(key, metadata={"paymentId": key}))
    assert (first.http_status, second.http_status) == (500, 500)
    assert first.headers["stripe-should-retry"] == "false"
    assert second.headers["idempotent-replayed"] == "true"
    assert steer.ledger(key)["count"] == int(executed)


@pytest.mark.parametrize("status", [401, 403, 409, 429, 503])
@documented("https://docs.stripe.com/error-low-level#idempotency", lines=(6, 10))
def test_errors_before_execution_are_not_saved(api: Driver, steer: Steer, status: int) -> None:
    """Limiters and key checks stand before the layer."""
    key = fresh()
    steer.fault("status", status=status, match={"idempotency_key": key})
    assert error_of(lambda: api.pay(key)).http_status == status
    assert api.pay(key).status == "succeeded"
