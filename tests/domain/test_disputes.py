"""Each rule of deciding about a dispute; that all of them together end every order alike is in test_stories."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any
from uuid import UUID

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from payments.domain.decisions import Fetch, Ignore, Park
from payments.domain.disputes import Dispute, DisputeChange, DisputeDecision, decide_dispute, is_disputed
from payments.domain.payment import Payment
from payments.domain.signals import DisputeSeen, read_answer, read_event
from payments.domain.states import PaymentStatus
from payments.stripe_gateway.api_version import STRIPE_API_VERSION
from tests.domain.stories import NOW
from tests.domain.stripe_objects import INTENT, answered, dispute, event

PAYMENT = Payment(
    payment_id=UUID("01890000-0000-7000-8000-000000000001"),
    order_id=UUID("01890000-0000-7000-8000-000000000001"),
    amount=1000,
    currency="EUR",
    capture_method="automatic",
    status=PaymentStatus.SUCCEEDED,
    processor_payment_intent=INTENT,
)
FRESH = UUID("01890000-0000-7000-8000-0000000000ff")
OPEN = ["warning_needs_response", "warning_under_review", "needs_response", "under_review"]
CLOSED = ["warning_closed", "prevented", "won", "lost"]
APPEALS = ["appeal_needs_response", "appeal_under_review"]


def told(status: str, **fields: Any) -> DisputeSeen:
    thing = dispute(INTENT, status, **fields)
    signal = read_event(
        event("charge.dispute.updated", thing), livemode=False, account=None, api_version=STRIPE_API_VERSION
    )
    assert isinstance(signal, DisputeSeen)
    return signal


def fetched(status: str, **fields: Any) -> DisputeSeen:
    signal = read_answer(answered(dispute(INTENT, status, **fields), "retrieve_dispute"))
    assert isinstance(signal, DisputeSeen)
    return signal


def decide(known: Dispute | None, signal: DisputeSeen, payment: Payment = PAYMENT) -> DisputeDecision:
    return decide_dispute(payment, known, signal, FRESH, NOW)


def changed(known: Dispute | None, signal: DisputeSeen) -> DisputeChange:
    decision = decide(known, signal)
    assert isinstance(decision, DisputeChange), decision
    return decision


def known(status: str) -> Dispute:
    return changed(None, told(status)).after


@pytest.mark.parametrize("status", OPEN)
def test_new_dispute_is_opened(status: str) -> None:
    change = changed(None, told(status))
    assert (change.events, change.is_new, change.after.closed_at) == (("dispute-opened",), True, None)
    assert is_disputed([change.after])


def test_payment_is_disputed_while_any_of_its_disputes_is_open_or_lost() -> None:
    for against_us in ("needs_response", "lost"):
        assert is_disputed([known(against_us), known("won")])
        assert is_disputed([known("won"), known(against_us)])
    assert not is_disputed([known("won"), known("warning_closed")])
    assert not is_disputed([])


@pytest.mark.parametrize("heard", [told, fetched])
def test_dispute_was_opened_when_stripe_says_and_not_when_we_heard(heard: Callable[..., DisputeSeen]) -> None:
    days_ago = (NOW - timedelta(days=3)).replace(microsecond=0)
    assert changed(None, heard("needs_response", created=int(days_ago.timestamp()))).after.opened_at == days_ago


@pytest.mark.parametrize("status", CLOSED)
def test_dispute_that_is_over_when_we_hear_of_it_is_opened_and_closed(status: str) -> None:
    change = changed(None, told(status))
    assert change.events == ("dispute-opened", "dispute-closed")
    assert change.after.closed_at == NOW
    assert is_disputed([change.after]) is (status == "lost")


@pytest.mark.parametrize("before", OPEN)
@pytest.mark.parametrize("status", CLOSED)
def test_end_of_a_dispute_is_told_once(before: str, status: str) -> None:
    change = changed(known(before), told(status))
    assert (change.events, change.after.status) == (("dispute-closed",), status)
    assert isinstance(decide(change.after, told(status)), Ignore)
    assert isinstance(decide(change.after, told(before)), Ignore)


def test_two_ends_are_settled_by_the_dispute_itself() -> None:
    assert isinstance(decide(known("lost"), told("won")), Fetch)
    change = changed(known("lost"), fetched("won"))
    assert (change.events, change.after.status) == (("dispute-closed",), "won")


@pytest.mark.parametrize("end", CLOSED)
@pytest.mark.parametrize("appeal", APPEALS)
def test_an_end_and_an_appeal_are_settled_by_the_dispute_itself(end: str, appeal: str) -> None:
    assert isinstance(decide(known(end), told(appeal)), Fetch)
    opened_again = changed(known(end), fetched(appeal))
    assert (opened_again.events, opened_again.after.closed_at) == ((), None)
    assert is_disputed([opened_again.after])
    assert isinstance(decide(opened_again.after, told(end)), Fetch)
    change = changed(opened_again.after, fetched("won"))
    assert (change.events, change.after.status, change.after.closed_at) == (("dispute-closed",), "won", NOW)


def test_an_appeal_goes_on_without_being_asked_for() -> None:
    assert changed(known(APPEALS[0]), told(APPEALS[1])).after.status == APPEALS[1]
    assert isinstance(decide(known(APPEALS[1]), told(APPEALS[0])), Ignore)
    assert changed(known("under_review"), told(APPEALS[0])).events == ()
    assert changed(None, told(APPEALS[0])).events == ("dispute-opened",)


def test_status_that_nobody_knows_is_fetched_and_then_waited_out() -> None:
    assert isinstance(decide(None, told("requires_patience")), Fetch)
    assert isinstance(decide(known("needs_response"), fetched("requires_patience")), Ignore)


def test_dispute_of_another_intent_is_a_conflict() -> None:
    assert isinstance(decide(None, told("lost", payment_intent="pi_another")), Fetch)
    assert isinstance(decide(None, fetched("lost", payment_intent="pi_another")), Park)


def test_conflict_is_left_by_an_operator_only() -> None:
    conflicted = msgspec.structs.replace(PAYMENT, status=PaymentStatus.CONFLICTED)
    assert isinstance(decide(None, told("needs_response"), conflicted), Ignore)


@given(st.lists(st.sampled_from(OPEN + CLOSED), min_size=1, max_size=6))
def test_dispute_never_goes_back_and_is_opened_and_closed_at_most_once(statuses: list[str]) -> None:
    dispute_now: Dispute | None = None
    events: list[str] = []
    for status in statuses:
        decision = decide(dispute_now, told(status))
        assert decision.why
        if isinstance(decision, DisputeChange):
            assert dispute_now is None or (OPEN + CLOSED).index(dispute_now.status) < (OPEN + CLOSED).index(status)
            dispute_now = decision.after
            events += decision.events
    assert dispute_now is not None
    assert events.count("dispute-opened") == 1
    assert events.count("dispute-closed") == (dispute_now.status in CLOSED)
