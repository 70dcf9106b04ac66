"""Each rule of deciding about a refund; that all of them together end every order alike is in test_stories."""

from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from payments.domain.decisions import Conflict, Fetch, Ignore, Wait
from payments.domain.payment import Payment
from payments.domain.refunds import (
    COMPENSATION,
    REFUND_TRANSITIONS,
    Refund,
    RefundChange,
    RefundDecision,
    RefundStatus,
    decide_refund,
    find_refund,
)
from payments.domain.signals import Heard, Kind, RefundRefused, RefundSeen, read_answer, read_event
from payments.domain.states import PaymentStatus
from payments.stripe_gateway.api_version import STRIPE_API_VERSION
from tests.domain.story import expanded
from tests.domain.stripe_objects import INTENT, Json, answered, event, intent, refund, refused

_R = RefundStatus
PAYMENT = UUID("01890000-0000-7000-8000-000000000001")
REFUND = UUID("01890000-0000-7000-8000-0000000000aa")
FRESH = UUID("01890000-0000-7000-8000-0000000000ff")
RANKS = list(RefundStatus)


def payment(status: PaymentStatus = PaymentStatus.SUCCEEDED, **fields: Any) -> Payment:
    captured = 1000 if status is PaymentStatus.SUCCEEDED else 0
    base: dict[str, Any] = {
        "payment_id": PAYMENT,
        "order_id": PAYMENT,
        "amount": 1000,
        "currency": "EUR",
        "capture_method": "automatic",
        "status": status,
        "amount_authorized": captured,
        "amount_captured": captured,
        "processor_payment_intent": INTENT,
    }
    return Payment(**(base | fields))


def ours(status: RefundStatus = _R.REQUESTED, **fields: Any) -> Refund:
    failure = {"failure_reason": "because"} if status is _R.FAILED else {}
    base: dict[str, Any] = {
        "refund_id": REFUND,
        "payment_id": PAYMENT,
        "amount": 400,
        "currency": "EUR",
        "status": status,
    }
    return Refund(**(base | failure | fields))


def told(status: str, amount: int = 400, **fields: Any) -> RefundSeen:
    thing = refund(INTENT, amount, status, **fields)
    signal = read_event(event("refund.updated", thing), livemode=False, account=None, api_version=STRIPE_API_VERSION)
    assert isinstance(signal, RefundSeen)
    return signal


def answer(status: str, amount: int = 400, **fields: Any) -> RefundSeen:
    payload = {**answered(refund(INTENT, amount, status, **fields), "create_refund"), "subjectId": str(REFUND)}
    signal = read_answer(payload)
    assert isinstance(signal, RefundSeen)
    return signal


def fetched(status: str, amount: int = 400, inside: Json | None = None, **fields: Any) -> RefundSeen:
    payload = answered(refund(INTENT, amount, status, **fields), "retrieve_refund") | {"paymentIntent": inside}
    signal = read_answer(payload)
    assert isinstance(signal, RefundSeen)
    assert signal.heard is Heard.FETCHED
    return signal


def no(code: str = "charge_already_refunded") -> RefundRefused:
    error = {"type": "invalid_request_error", "code": code}
    signal = read_answer({**refused(error), "operation": "create_refund", "subjectId": str(REFUND)})
    assert isinstance(signal, RefundRefused)
    return signal


def decide(before: Payment, known: Refund | None, signal: RefundSeen | RefundRefused) -> RefundDecision:
    return decide_refund(before, known, signal, FRESH)


def changed(before: Payment, known: Refund | None, signal: RefundSeen | RefundRefused) -> RefundChange:
    decision = decide(before, known, signal)
    assert isinstance(decision, RefundChange), decision
    return decision


# --- ours ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("word", "status", "published"),
    [
        ("pending", _R.PENDING, None),
        ("requires_action", _R.PENDING, None),
        ("succeeded", _R.PROCESSED, "refund-processed"),
        ("failed", _R.FAILED, "refund-failed"),
        ("canceled", _R.FAILED, "refund-failed"),
    ],
)
@pytest.mark.parametrize("hear", [told, answer, fetched])
def test_each_word_of_stripes_is_a_state_of_ours(hear: Any, word: str, status: RefundStatus, published: str) -> None:
    change = changed(payment(), ours(), hear(word))
    assert (change.after.status, change.event, change.is_new) == (status, published, False)
    assert change.after.processor_reference == "re_3Qm4Tests0000000000001"
    reasons = {"failed": "expired_or_canceled_card", "canceled": "canceled"}
    assert change.after.failure_reason == reasons.get(word)


def test_unknown_status_is_fetched_and_then_waited_out() -> None:
    assert isinstance(decide(payment(), ours(), told("requires_patience")), Fetch)
    assert isinstance(decide(payment(), ours(), fetched("requires_patience")), Ignore)
    assert isinstance(decide(payment(), None, told("requires_patience")), Fetch)


def test_refusal_fails_what_is_only_requested() -> None:
    change = changed(payment(), ours(), no())
    assert (change.after.status, change.after.failure_reason) == (_R.FAILED, "charge_already_refunded")
    assert isinstance(decide(payment(), ours(_R.PROCESSED), no()), Ignore)
    assert isinstance(decide(payment(), None, no()), Ignore)


def test_refund_that_an_operator_gave_up_fails_if_it_was_never_made() -> None:
    given_up = no("discarded")
    change = changed(payment(), ours(), given_up)
    assert (change.after.status, change.after.failure_reason) == (_R.FAILED, "discarded")
    assert "operator" in change.why
    assert isinstance(decide(payment(), ours(_R.PENDING), given_up), Ignore)


def test_refund_that_exists_though_a_later_call_was_refused_is_written_down() -> None:
    named: dict[str, Any] = {"metadata": {"refundId": str(REFUND)}}
    refusal = ours(_R.FAILED, processor_reference=None)
    change = changed(payment(), refusal, told("succeeded", **named))
    assert (change.after.refund_id, change.after.status, change.after.external) == (FRESH, _R.PROCESSED, True)
    both = {REFUND: refusal, FRESH: change.after}
    assert find_refund(both, REFUND, change.after.processor_reference) == change.after


# --- made elsewhere ------------------------------------------------------------------------------------------------


def test_refund_that_we_did_not_make_is_adopted_as_external() -> None:
    change = changed(payment(), None, told("succeeded", reason="fraudulent"))
    after = change.after
    assert (after.refund_id, after.external, after.status, after.reason) == (FRESH, True, _R.PROCESSED, "fraudulent")
    assert (change.event, change.is_new) == ("refund-processed", True)


def test_refund_that_does_not_fit_waits() -> None:
    assert isinstance(decide(payment(amount_reserved=601), None, told("succeeded")), Wait)
    assert isinstance(decide(payment(amount_reserved=600), None, told("succeeded")), RefundChange)
    assert isinstance(decide(payment(amount_reserved=1000), None, told("failed")), RefundChange), "it takes no room"


OPEN = [_S for _S in PaymentStatus if _S not in (PaymentStatus.SUCCEEDED, PaymentStatus.CONFLICTED)]


@pytest.mark.parametrize("status", OPEN)
def test_refund_of_what_we_have_not_seen_captured_brings_its_intent(status: PaymentStatus) -> None:
    decision = decide(payment(status), None, told("succeeded"))
    assert isinstance(decision, Fetch)
    assert (decision.kind, decision.intent_id) == (Kind.REFUND, INTENT)


def test_let_go_hold_is_no_refund() -> None:
    gone = expanded(intent(PAYMENT, "canceled", id=INTENT))
    let_go = fetched("succeeded", 1000, gone, balance_transaction=None)
    assert isinstance(decide(payment(PaymentStatus.VOIDED), None, let_go), Ignore)
    captured = payment(capture_method="manual", amount_captured=600)
    assert isinstance(decide(captured, None, told("succeeded", 400, balance_transaction=None)), Ignore)
    real = changed(captured, None, told("succeeded", 400))
    assert real.after.amount == 400, "money moved: it has a balance transaction"


@pytest.mark.parametrize("ended", [PaymentStatus.FAILED, PaymentStatus.VOIDED, PaymentStatus.EXPIRED])
def test_late_money_that_somebody_else_gave_back_counts_as_compensation(ended: PaymentStatus) -> None:
    taken = expanded(intent(PAYMENT, "succeeded", id=INTENT))
    change = changed(payment(ended), None, fetched("succeeded", 1000, taken))
    assert (change.after.reason, change.after.external) == (COMPENSATION, True)
    reserved = payment(ended, amount_reserved=1000)
    assert isinstance(decide(reserved, None, fetched("succeeded", 1000, taken)), Wait)


# --- conflicts -----------------------------------------------------------------------------------------------------


FAULTS: list[Json] = [
    {"amount": 399},
    {"currency": "usd"},
    {"id": "re_another"},
    {"payment_intent": "pi_another"},
    {"metadata": {"paymentId": str(FRESH)}},
]


@pytest.mark.parametrize("fault", FAULTS)
def test_facts_that_contradict_ours_are_a_conflict(fault: Json) -> None:
    known = ours(_R.PENDING, processor_reference="re_3Qm4Tests0000000000001")
    assert isinstance(decide(payment(), known, answer("succeeded", **fault)), Conflict)
    assert isinstance(decide(payment(), known, fetched("succeeded", **fault)), Conflict)
    assert isinstance(decide(payment(), known, told("succeeded", **fault)), Fetch), "an event is a hint"


def test_refund_elsewhere_of_another_intent_is_no_part_of_this_payment() -> None:
    """Two were made for one wish; an operator gives back what is too much, and has settled the conflict."""
    of_another = {"payment_intent": "pi_another", "metadata": {}}
    assert isinstance(decide(payment(), None, told("succeeded", **of_another)), Fetch)
    assert isinstance(decide(payment(), None, fetched("succeeded", **of_another)), Ignore)
    ours_lost = {"payment_intent": "pi_another", "metadata": {"refundId": str(REFUND)}}
    assert isinstance(decide(payment(), None, fetched("succeeded", **ours_lost)), Conflict)


@pytest.mark.parametrize("status", [_R.PENDING, _R.PROCESSED, _R.FAILED])
def test_refusal_that_is_heard_late_changes_nothing(status: RefundStatus) -> None:
    """Of a later key, mostly: what Stripe has said of the refund itself counts."""
    assert isinstance(decide(payment(amount_reserved=400), ours(status), no()), Ignore)


@pytest.mark.parametrize("signal", [told("succeeded"), no(), fetched("failed")])
def test_conflict_is_left_by_an_operator_only(signal: RefundSeen | RefundRefused) -> None:
    assert isinstance(decide(payment(PaymentStatus.CONFLICTED, amount_captured=1000), ours(), signal), Ignore)


# --- always --------------------------------------------------------------------------------------------------------


@given(
    st.sampled_from(list(PaymentStatus)),
    st.none() | st.sampled_from(RANKS),
    st.sampled_from([told, answer, fetched]),
    st.sampled_from(["pending", "requires_action", "succeeded", "failed", "canceled", "requires_patience"]),
    st.integers(1, 1000),
    st.sampled_from([0, 400, 1000]),
)
def test_no_decision_breaks_the_rules_of_state_and_money(  # noqa: PLR0917 - a case each
    status: PaymentStatus, known: RefundStatus | None, hear: Any, word: str, amount: int, reserved: int
) -> None:
    before = payment(status, amount_reserved=reserved)
    refund_before = ours(known, amount=amount, processor_reference="re_3Qm4Tests0000000000001") if known else None
    decision = decide(before, refund_before, hear(word, amount))
    assert decision.why
    if not isinstance(decision, RefundChange):
        return
    after = decision.after
    assert decision.is_new is (refund_before is None)
    if refund_before is None:
        room = before.amount_captured if status is PaymentStatus.SUCCEEDED else before.amount
        assert after.status is _R.FAILED or reserved + after.amount <= room
    else:
        assert RANKS.index(after.status) >= RANKS.index(refund_before.status)
        moved = after.status is not refund_before.status
        assert not moved or REFUND_TRANSITIONS[refund_before.status][after.status] == decision.event
        assert moved or decision.event is None
    assert (after.status is _R.FAILED) == (after.failure_reason is not None)
