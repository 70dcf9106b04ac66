"""Stripe's objects are read tolerantly, and what nobody can read is refused by one error."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from payments.domain.facts import (
    ActionFacts,
    ErrorFacts,
    UnreadableObject,
    intent_id_of,
    payment_id_of,
    read_error,
    read_payment_intent,
)
from tests.domain.stripe_objects import CHARGE, INSUFFICIENT_FUNDS, INTENT, SECRET, intent

PAYMENT = UUID("01890000-0000-7000-8000-000000000001")
JUNK: Any = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=10,
)


def test_intent_is_read_whole() -> None:
    facts = read_payment_intent(intent(PAYMENT, "succeeded", last_payment_error=INSUFFICIENT_FUNDS))
    assert (facts.id, facts.status, facts.amount, facts.currency) == (INTENT, "succeeded", 1000, "EUR")
    assert (facts.amount_received, facts.charge, facts.client_secret) == (1000, CHARGE, SECRET)
    assert (facts.payment_id, facts.livemode, facts.capture_method) == (PAYMENT, False, "automatic_async")
    assert facts.last_payment_error == ErrorFacts(
        "card_error", "card_declined", "insufficient_funds", "Your card has insufficient funds."
    )


def test_intent_of_an_unknown_status_and_of_a_future_version_is_read() -> None:
    facts = read_payment_intent(intent(PAYMENT, "requires_patience", brand_new={"deep": [1]}))
    assert facts.status == "requires_patience"


def test_intent_with_nothing_but_the_necessary_is_read() -> None:
    facts = read_payment_intent({"id": "pi_1", "status": "processing", "amount": 5, "currency": "jpy"})
    assert (facts.currency, facts.charge, facts.payment_id, facts.livemode) == ("JPY", None, None, None)


@pytest.mark.parametrize("method", ["card", "klarna"])
def test_expanded_charge_tells_until_when_it_may_be_captured(method: str) -> None:
    details = {"type": method, method: {"capture_before": 1_900_000_000}}
    charge = {"id": CHARGE, "object": "charge", "payment_method_details": details}
    facts = read_payment_intent(intent(PAYMENT, "requires_capture", latest_charge=charge))
    assert facts.charge == CHARGE
    assert facts.capture_before == datetime.fromtimestamp(1_900_000_000, UTC)


def test_next_action_carries_where_to_redirect() -> None:
    action = {"type": "redirect_to_url", "redirect_to_url": {"url": "https://hooks.stripe.com/x", "return_url": None}}
    facts = read_payment_intent(intent(PAYMENT, "requires_action", next_action=action))
    assert facts.next_action == ActionFacts("redirect_to_url", "https://hooks.stripe.com/x")


@pytest.mark.parametrize(
    "fault",
    [
        {"id": None},
        {"id": "ch_1"},
        {"id": "pi_" + "x" * 300},
        {"status": ""},
        {"status": 7},
        {"amount": True},
        {"amount": 10.0},
        {"amount": "10"},
        {"amount": -1},
        {"amount": 10**30},
        {"currency": None},
        {"object": "charge"},
    ],
)
def test_intent_without_what_it_must_have_is_unreadable(fault: dict[str, Any]) -> None:
    with pytest.raises(UnreadableObject):
        read_payment_intent({**intent(PAYMENT, "succeeded"), **fault})


@given(JUNK, st.dictionaries(st.sampled_from(sorted(intent(PAYMENT, "succeeded"))), JUNK))
def test_reading_junk_raises_one_error_or_none(junk: Any, fields: dict[str, Any]) -> None:
    for thing in (junk, {**intent(PAYMENT, "requires_action"), **fields}):
        payment_id_of(thing)
        intent_id_of(thing)
        read_error(thing)
        try:
            facts = read_payment_intent(thing)
        except UnreadableObject:
            continue
        assert facts.id.startswith("pi_")
        assert facts.amount >= 0


@pytest.mark.parametrize(
    "text",
    ["", "nonsense", "{01890000-0000-7000-8000-000000000001}", "0189000000007000800000000000000" + "1", 7, None, []],
)
def test_metadata_names_a_payment_only_as_we_write_it(text: object) -> None:
    assert payment_id_of({"metadata": {"paymentId": text}}) is None


def test_intent_id_is_found_in_what_belongs_to_it() -> None:
    assert intent_id_of({"object": "payment_intent", "id": "pi_1"}) == "pi_1"
    assert intent_id_of({"object": "charge", "id": "ch_1", "payment_intent": "pi_1"}) == "pi_1"
    assert intent_id_of({"object": "refund", "payment_intent": {"id": "pi_1"}}) == "pi_1"
    assert intent_id_of({"object": "customer", "id": "cus_1"}) is None


def test_a_published_example_of_stripe_is_read() -> None:
    # The shape of Stripe's own OpenAPI fixture (MIT), cut to one object.
    example = json.loads((Path(__file__).parent / "payment_intent.json").read_text())
    facts = read_payment_intent(example)
    assert (facts.id, facts.status, facts.currency) == (example["id"], "requires_payment_method", "USD")
    assert facts.payment_id is None
    assert payment_id_of({"metadata": {"paymentId": str(uuid4())}}) is not None
