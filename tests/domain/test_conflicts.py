"""What contradicts our record is a conflict, and an operator's."""

from typing import Any
from uuid import uuid4

import pytest

from payments.domain.decisions import Conflict, Fetch, Ignore
from payments.domain.intents import IntentSignal
from tests.domain.deciding import S, answer, decide, fresh, payment, said, seen, told
from tests.domain.stripe_lives import PAYMENT
from tests.domain.stripe_objects import INSUFFICIENT_FUNDS, INTENT, declined, intent, refused


@pytest.mark.parametrize("received", [399, 401, 1000])
def test_success_of_another_sum_than_is_known_is_a_conflict(received: int) -> None:
    before = payment(S.SUCCEEDED, capture_method="manual", amount_captured=400)
    fields: dict[str, Any] = {"capture_method": "manual", "amount_received": received}
    assert isinstance(decide(before, seen("succeeded", **fields)), Fetch)
    assert isinstance(decide(before, fresh("succeeded", **fields)), Conflict)


FAULTS: list[dict[str, Any]] = [
    {"amount": 999},
    {"currency": "usd"},
    {"livemode": True},
    {"id": "pi_another"},
    {"metadata": {"paymentId": str(uuid4())}},
    {"capture_method": "manual"},
    {"amount_received": 999},
    {"amount_received": 1001},
]


@pytest.mark.parametrize("fault", FAULTS)
def test_facts_that_contradict_ours_are_a_conflict(fault: dict[str, Any]) -> None:
    before = payment(S.PROCESSING)
    assert isinstance(decide(before, answer("succeeded", **fault)), Conflict)
    assert isinstance(decide(before, fresh("succeeded", **fault)), Conflict)
    hint = decide(before, seen("succeeded", **fault))
    assert isinstance(hint, Fetch), "an event is a hint: the object decides"
    assert hint.object_id == fault.get("id", INTENT)


def test_first_event_that_contradicts_ours_is_a_hint_as_well() -> None:
    assert isinstance(decide(payment(), told("payment_intent.created", intent(PAYMENT, "processing", amount=7))), Fetch)


@pytest.mark.parametrize("fault", [{"amount": 7}, {"livemode": True}, {"id": "pi_another"}])
def test_refused_capture_that_shows_another_intent_is_a_conflict(fault: dict[str, Any]) -> None:
    shown = intent(PAYMENT, "succeeded", capture_method="manual", **fault)
    no = refused({"type": "invalid_request_error", "code": "payment_intent_unexpected_state", "payment_intent": shown})
    before = payment(S.CAPTURING, capture_id=uuid4(), amount_to_capture=600)
    signal = said({**no, "operation": "capture_payment_intent", "subjectId": str(before.capture_id)})
    assert isinstance(decide(before, signal), Conflict)


def test_hold_of_another_amount_than_asked_for_is_a_conflict() -> None:
    fields: dict[str, Any] = {"capture_method": "manual", "amount_capturable": 900}
    before = payment(S.PROCESSING, capture_method="manual")
    assert isinstance(decide(before, fresh("requires_capture", **fields)), Conflict)
    assert isinstance(decide(before, seen("requires_capture", **fields)), Fetch)


def test_declined_call_with_facts_that_contradict_ours_is_a_conflict() -> None:
    thing = intent(PAYMENT, "requires_payment_method", last_payment_error=INSUFFICIENT_FUNDS, amount=7)
    assert isinstance(decide(payment(), said(declined(thing))), Conflict)


@pytest.mark.parametrize("signal", [seen("succeeded"), fresh("canceled"), said(declined(None))])
def test_conflict_is_left_by_an_operator_only(signal: IntentSignal) -> None:
    assert isinstance(decide(payment(S.CONFLICTED), signal), Ignore)
