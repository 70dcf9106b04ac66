"""The gateway against the sandbox as a real process: parameters that Stripe would take, and its errors word by word."""

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from typing import Any
from uuid import uuid4

import pytest

from payments.settings import Settings
from payments.stripe_gateway.gateway import StripeGateway
from payments.stripe_gateway.outcomes import (
    Answered,
    Declined,
    KeyInUse,
    KeyMisused,
    Outcome,
    RateLimited,
    Refused,
    Unauthorized,
    Unknown,
)
from tests.conftest import wait_until
from tests.worker.world import KEY, Sandbox, sandbox_process

PARAMETERS: dict[str, Any] = {
    "amount": 1000,
    "currency": "usd",
    "confirm": True,
    "payment_method": "pm_card_visa",
    "automatic_payment_methods": {"enabled": True, "allow_redirects": "never"},
    "expand": ["latest_charge"],
}


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with sandbox_process() as sandbox:
        yield sandbox


def run(sandbox: Sandbox, do: Callable[[StripeGateway], Coroutine[Any, Any, Outcome]], key: str = KEY) -> Outcome:
    environment = {"STRIPE_API_KEY": key, "STRIPE_API_BASE": sandbox.base, "STRIPE_TIMEOUT_S": "2"}

    async def main() -> Outcome:
        async with StripeGateway(Settings.load(environment)) as gateway:
            return await do(gateway)

    return asyncio.run(main())


def create(sandbox: Sandbox, idempotency_key: str | None = None, **changes: Any) -> Outcome:
    key = idempotency_key or str(uuid4())
    return run(sandbox, lambda gateway: gateway.create_payment_intent({**PARAMETERS, **changes}, key))


def intent(outcome: Outcome) -> dict[str, Any]:
    assert isinstance(outcome, Answered), outcome
    return outcome.object


def test_gateway_creates_and_replays(sandbox: Sandbox) -> None:
    first, again = intent(create(sandbox, "key-a")), intent(create(sandbox, "key-a"))
    assert first["status"] == "succeeded"
    assert first["latest_charge"]["amount_captured"] == 1000
    assert again["id"] == first["id"]
    assert isinstance(create(sandbox, "key-a", amount=2000), KeyMisused)


def test_gateway_retrieves_lists_and_cancels(sandbox: Sandbox) -> None:
    held = intent(create(sandbox, capture_method="manual"))
    got = intent(run(sandbox, lambda gateway: gateway.retrieve_payment_intent(held["id"])))
    assert (got["id"], got["latest_charge"]["captured"]) == (held["id"], False)
    around = held["created"]
    listed = intent(run(sandbox, lambda gateway: gateway.list_payment_intents(around - 60, around + 60, limit=1)))
    assert [each["id"] for each in listed["data"]] == [held["id"]]
    canceled = intent(run(sandbox, lambda gateway: gateway.cancel_payment_intent(held["id"], {}, "key-c")))
    assert canceled["status"] == "canceled"
    missing = run(sandbox, lambda gateway: gateway.retrieve_payment_intent("pi_none"))
    assert isinstance(missing, Refused)
    assert (missing.http_status, missing.error["code"]) == (404, "resource_missing")


def test_gateway_captures_and_refunds(sandbox: Sandbox) -> None:
    held = intent(create(sandbox, capture_method="manual"))
    wanted = {"amount_to_capture": 700, "expand": ["latest_charge"]}
    captured = intent(run(sandbox, lambda gateway: gateway.capture_payment_intent(held["id"], wanted, "key-cap")))
    assert (captured["status"], captured["amount_received"]) == ("succeeded", 700)
    assert captured["latest_charge"]["amount_captured"] == 700
    again = run(sandbox, lambda gateway: gateway.capture_payment_intent(held["id"], wanted, "key-cap-2"))
    assert isinstance(again, Refused)
    assert again.error["code"] == "payment_intent_unexpected_state"
    assert again.error["payment_intent"]["id"] == held["id"]
    part = {"payment_intent": held["id"], "amount": 300, "metadata": {"refundId": "r"}}
    first, replayed, second = (
        intent(run(sandbox, lambda gateway: gateway.create_refund(part, key)))  # noqa: B023 - run within the turn
        for key in ("key-r1", "key-r1", "key-r2")
    )
    assert first["id"] == replayed["id"] != second["id"]
    shown = intent(run(sandbox, lambda gateway: gateway.retrieve_refund(first["id"])))
    assert (shown["amount"], shown["payment_intent"]) == (300, held["id"])
    listed = intent(run(sandbox, lambda gateway: gateway.list_refunds(payment_intent=held["id"])))
    assert [each["id"] for each in listed["data"]] == [second["id"], first["id"]]
    charge = intent(run(sandbox, lambda gateway: gateway.retrieve_charge(first["charge"])))
    assert charge["amount_refunded"] == 900  # both refunds, and the part of the hold that was not captured


def ids(sandbox: Sandbox, do: Callable[[StripeGateway], Coroutine[Any, Any, Outcome]]) -> list[str]:
    return [str(each["id"]) for each in intent(run(sandbox, do))["data"]]


def test_gateway_lists_by_time_and_page(sandbox: Sandbox) -> None:
    made = intent(create(sandbox, payment_method="pm_card_createDispute"))
    now = made["created"]
    wait_until(lambda: ids(sandbox, lambda gateway: gateway.list_disputes(payment_intent=made["id"])))
    (dispute_id,) = ids(sandbox, lambda gateway: gateway.list_disputes(now - 60, made["id"]))
    dispute = intent(run(sandbox, lambda gateway: gateway.retrieve_dispute(dispute_id)))
    assert (dispute["object"], dispute["payment_intent"]) == ("dispute", made["id"])
    assert ids(sandbox, lambda gateway: gateway.list_disputes(now + 3600)) == []
    assert ids(sandbox, lambda gateway: gateway.list_refunds(created_gte=now + 3600)) == []
    source = made["latest_charge"]["id"]
    line, *_ = wait_until(lambda: ids(sandbox, lambda gateway: gateway.list_balance_transactions(source=source)))
    assert line in ids(sandbox, lambda gateway: gateway.list_balance_transactions(now - 60, now + 60))
    newest, older, *_ = ids(sandbox, lambda gateway: gateway.list_events(now - 60, now + 60))
    assert ids(sandbox, lambda gateway: gateway.list_events(starting_after=newest, limit=1)) == [older]
    assert ids(sandbox, lambda gateway: gateway.list_events(ending_before=older, limit=1)) == [newest]


def test_gateway_hears_a_decline(sandbox: Sandbox) -> None:
    outcome = create(sandbox, payment_method="pm_card_visa_chargeDeclinedInsufficientFunds")
    assert isinstance(outcome, Declined)
    assert (outcome.error["code"], outcome.error["decline_code"]) == ("card_declined", "insufficient_funds")
    assert outcome.error["payment_intent"]["object"] == "payment_intent"


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        ({"fault": "status", "status": 409}, KeyInUse),
        ({"fault": "status", "status": 429}, RateLimited),
        ({"fault": "status", "status": 403}, Unauthorized),
        ({"fault": "status", "status": 500}, Unknown),
        ({"fault": "status", "status": 503}, Unknown),
        ({"fault": "before_executing"}, Unknown),
        ({"fault": "after_executing"}, Unknown),
        ({"fault": "mid_body"}, Unknown),
        ({"fault": "slow", "delay_s": 5.0}, Unknown),
    ],
)
def test_gateway_names_every_fault(sandbox: Sandbox, fault: dict[str, Any], expected: type[Outcome]) -> None:
    sandbox.fault(**fault)
    assert isinstance(create(sandbox), expected)


def test_gateway_tells_a_replayed_500_from_a_new_one(sandbox: Sandbox) -> None:
    sandbox.fault("status", status=500, executed=True)
    outcomes = [create(sandbox, "key-500") for _ in range(2)]
    assert all(isinstance(outcome, Unknown) and outcome.http_status == 500 for outcome in outcomes)
    assert [getattr(outcome, "is_replayed", None) for outcome in outcomes] == [False, True]


def test_gateway_hears_that_its_key_is_refused(sandbox: Sandbox) -> None:
    outcome = run(sandbox, lambda gateway: gateway.retrieve_payment_intent("pi_1"), key="sk_test_another")
    assert isinstance(outcome, Unauthorized)
    assert outcome.http_status == 401
