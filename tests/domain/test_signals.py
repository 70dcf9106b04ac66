"""What an inbox row says: a closed set of signals, whatever the row holds."""

from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from payments.domain.facts import UnreadableObject
from payments.domain.signals import (
    CallRefused,
    CreateDeclined,
    CreateRefused,
    DisputeSeen,
    Elsewhere,
    Heard,
    IntentSeen,
    Kind,
    Mentioned,
    Missing,
    RefundRefused,
    RefundSeen,
    SomethingElse,
    UnreadableSignal,
    intent_id_in,
    read_answer,
    read_event,
)
from payments.stripe_gateway.api_version import STRIPE_API_VERSION
from tests.domain.stripe_objects import INTENT, answered, declined, dispute, event, fetched, intent, refund, refused

PAYMENT = UUID("01890000-0000-7000-8000-000000000001")
JUNK: Any = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=8,
)


def read(payload: dict[str, Any], account: str | None = None) -> object:
    return read_event(payload, livemode=False, account=account, api_version=STRIPE_API_VERSION)


def test_event_of_our_version_is_a_snapshot() -> None:
    signal = read(event("payment_intent.succeeded", intent(PAYMENT, "succeeded")))
    assert isinstance(signal, IntentSeen)
    assert (signal.heard, signal.facts.status) == (Heard.EVENT, "succeeded")


def test_first_event_is_known_as_the_oldest() -> None:
    signal = read(event("payment_intent.created", intent(PAYMENT, "requires_payment_method")))
    assert isinstance(signal, IntentSeen)
    assert signal.heard is Heard.FIRST_EVENT


@pytest.mark.parametrize("version", ["2019-02-11", None, 7])
def test_event_of_another_version_or_none_is_a_hint(version: object) -> None:
    signal = read(event("payment_intent.succeeded", intent(PAYMENT, "succeeded"), api_version=version))
    assert isinstance(signal, Mentioned)
    assert (signal.kind, signal.object_id) == (Kind.PAYMENT_INTENT, INTENT)


@pytest.mark.parametrize("name", ["refund.created", "refund.updated", "refund.failed"])
def test_event_of_a_refund_is_a_snapshot_of_it(name: str) -> None:
    signal = read(event(name, refund(INTENT, 400, "succeeded", metadata={"refundId": str(PAYMENT)})))
    assert isinstance(signal, RefundSeen)
    assert (signal.facts.amount, signal.facts.intent_id, signal.refund_id) == (400, INTENT, PAYMENT)
    hint = read(event(name, refund(INTENT, 0, "succeeded")))
    assert isinstance(hint, Mentioned), "a refund of nothing cannot be read"
    assert hint.kind is Kind.REFUND


@pytest.mark.parametrize("name", ["charge.dispute.created", "charge.dispute.funds_withdrawn", "charge.dispute.closed"])
def test_event_of_a_dispute_is_a_snapshot_of_it(name: str) -> None:
    signal = read(event(name, dispute(INTENT, "under_review")))
    assert isinstance(signal, DisputeSeen)
    assert (signal.facts.status, signal.facts.intent_id) == ("under_review", INTENT)


def test_event_with_an_unreadable_intent_is_a_hint() -> None:
    assert isinstance(read(event("payment_intent.succeeded", intent(PAYMENT, "succeeded", amount="1"))), Mentioned)


def test_event_of_another_mode_or_account_is_from_elsewhere() -> None:
    thing = intent(PAYMENT, "succeeded")
    assert isinstance(read(event("payment_intent.succeeded", thing, livemode=True)), Elsewhere)
    assert isinstance(read(event("payment_intent.succeeded", thing, account="acct_b"), account="acct_a"), Elsewhere)
    assert isinstance(read(event("payment_intent.succeeded", thing, account="acct_b")), Elsewhere)
    assert isinstance(read(event("payment_intent.succeeded", thing, account="acct_a"), account="acct_a"), IntentSeen)
    assert isinstance(read(event("payment_intent.succeeded", thing, account=None)), IntentSeen)


def test_live_service_believes_no_event_of_test_mode() -> None:
    told = event("payment_intent.succeeded", intent(PAYMENT, "succeeded"), livemode=False)
    signal = read_event(told, livemode=True, account=None, api_version=STRIPE_API_VERSION)
    assert isinstance(signal, Elsewhere)


def test_event_that_does_not_say_its_mode_is_a_hint() -> None:
    payload = event("payment_intent.succeeded", intent(PAYMENT, "succeeded"))
    del payload["livemode"]
    assert isinstance(read(payload), Mentioned)


@pytest.mark.parametrize("kind", ["charge.succeeded", "charge.refunded", "customer.created", "a.type.of.tomorrow"])
def test_event_about_another_object_is_something_else(kind: str) -> None:
    assert isinstance(read(event(kind, {"id": "ch_1", "object": "charge"})), SomethingElse)


@given(JUNK, st.dictionaries(st.sampled_from(sorted(event("x", {}))), JUNK))
def test_no_event_raises(junk: Any, fields: dict[str, Any]) -> None:
    base = event("payment_intent.succeeded", intent(PAYMENT, "succeeded"))
    for payload in ({**base, **fields}, {**base, "data": {"object": junk}}):
        assert isinstance(read(payload), IntentSeen | Mentioned | SomethingElse | Elsewhere)


def test_answers_are_told_apart() -> None:
    assert isinstance(read_answer(answered(intent(PAYMENT, "succeeded"))), IntentSeen)
    fresh = read_answer(fetched(intent(PAYMENT, "succeeded"), after_history_id=7))
    assert isinstance(fresh, IntentSeen)
    assert (fresh.heard, fresh.after_history_id) == (Heard.FETCHED, 7)
    assert isinstance(read_answer(declined(intent(PAYMENT, "requires_payment_method"))), CreateDeclined)
    assert isinstance(read_answer(declined(None)), CreateDeclined)
    refusal = read_answer(refused({"code": "resource_missing", "param": "payment_method"}, 404))
    assert isinstance(refusal, CreateRefused)
    assert refusal.http_status == 404
    missing = read_answer({"operation": "retrieve_payment_intent", "outcome": "refused", "objectId": "pi_1"})
    assert isinstance(read_answer(answered(refund(INTENT, 5, "pending"), "create_refund")), RefundSeen)
    assert isinstance(read_answer(answered(dispute(INTENT, "lost"), "retrieve_dispute")), DisputeSeen)
    no = {**refused({"code": "x"}), "subjectId": str(PAYMENT)}
    assert isinstance(read_answer({**no, "operation": "create_refund"}), RefundRefused)
    for operation in ("capture_payment_intent", "cancel_payment_intent"):
        called = read_answer({**no, "operation": operation})
        assert isinstance(called, CallRefused)
        assert (called.operation, called.subject_id, called.facts) == (operation, PAYMENT, None)
    assert missing == Missing(Kind.PAYMENT_INTENT, "pi_1")


@given(JUNK, JUNK, JUNK, JUNK)
def test_reading_a_junk_answer_raises_one_of_two_errors(operation: Any, outcome: Any, thing: Any, error: Any) -> None:
    known = (
        *("create_payment_intent", "capture_payment_intent", "cancel_payment_intent", "create_refund"),
        *("retrieve_payment_intent", "retrieve_refund", "retrieve_dispute", operation),
    )
    for name in known:
        for word in ("answered", "declined", "refused", outcome):
            payload = {"operation": name, "outcome": word, "object": thing, "error": error}
            try:
                signal = read_answer(payload)
            except (UnreadableSignal, UnreadableObject):
                continue
            intent_id_in(signal)
