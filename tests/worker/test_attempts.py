from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from payments.domain.attempts import (
    CANCEL_AGAIN_S_MAX,
    KEY_AGE_MAX,
    AlreadySettled,
    Attempt,
    Call,
    CallOutcome,
    CallState,
    Decision,
    Later,
    Park,
    Reconcile,
    Unclaimed,
    VoidWithoutCall,
    decide_cancel,
    decide_capture,
    decide_create,
    decide_refund,
)
from payments.domain.states import PaymentStatus

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
ages = st.timedeltas(min_value=timedelta(days=-1), max_value=timedelta(days=30))
statuses = st.sampled_from(PaymentStatus)
OVER = {PaymentStatus.FAILED, PaymentStatus.VOIDED, PaymentStatus.EXPIRED}
ASKED_AGAIN = {CallOutcome.ABSENT, CallOutcome.SUPERSEDED}


@st.composite
def calls(draw: st.DrawFn) -> Call:
    attempts = draw(st.integers(0, 1000))
    state = draw(st.sampled_from(CallState))
    is_answered = state is CallState.ANSWERED
    return Call(
        state=state,
        attempts=attempts,
        first_attempt_at=draw(st.none() | ages.map(lambda age: NOW - age)),
        outcome=draw(st.sampled_from(CallOutcome) | st.just("a word of later days")) if is_answered else None,
        generation=draw(st.integers(1, 50)),
        answered_at=NOW - draw(ages) if is_answered else None,
    )


maybe_calls = st.none() | calls()


def wanted_create(call: Call | None) -> Decision:
    return decide_create(PaymentStatus.REQUESTED, call, NOW)


def wanted_capture(call: Call | None) -> Decision:
    return decide_capture(PaymentStatus.CAPTURING, call, NOW, is_current=True, has_intent=True)


def wanted_cancel(call: Call | None) -> Decision:
    return decide_cancel(PaymentStatus.VOIDING, call, NOW, has_intent=True, was_asked=True, is_abandoned=False)


def wanted_refund(call: Call | None) -> Decision:
    return decide_refund(call, NOW, exists=True, is_requested=True, has_intent=True)


Decide = Callable[[Call | None], Decision]
ONCE = [wanted_create, wanted_refund]
REPEATABLE = [wanted_capture, wanted_cancel]


@pytest.mark.parametrize("decide", ONCE + REPEATABLE)
def test_wish_is_called_for_at_once(decide: Decide) -> None:
    assert decide(None) == Attempt()


@pytest.mark.parametrize("decide", ONCE)
@given(call=calls())
def test_charge_and_refund_get_a_new_key_only_after_proof_of_absence(decide: Decide, call: Call) -> None:
    decision = decide(call)
    if isinstance(decision, Attempt) and decision.renews:
        assert call.state is CallState.ANSWERED
        assert call.outcome in ASKED_AGAIN
    if call.outcome == CallOutcome.ABSENT:
        assert decision == Attempt(renews=True)


@pytest.mark.parametrize("decide", ONCE + REPEATABLE)
@given(call=calls())
def test_key_is_never_used_twice_when_stripe_may_have_forgotten_it(decide: Decide, call: Call) -> None:
    is_old = call.attempts > 0 and (call.first_attempt_at is None or NOW - call.first_attempt_at >= KEY_AGE_MAX)
    decision = decide(call)
    if decision == Attempt():
        assert not is_old
        assert call.state in {CallState.INTENDED, CallState.IN_FLIGHT, CallState.IN_DOUBT}
    if is_old and call.is_open and call.state is not CallState.TO_RECONCILE:
        assert isinstance(decision, Reconcile if decide in ONCE else Attempt)


@pytest.mark.parametrize("decide", ONCE)
def test_key_is_given_up_while_stripe_still_knows_it(decide: Decide) -> None:
    """Stripe forgets keys after 24 hours (https://docs.stripe.com/api/idempotent_requests), whatever we call old."""

    def sent(hours: float) -> Call:
        return Call(CallState.IN_DOUBT, attempts=1, first_attempt_at=NOW - timedelta(hours=hours))

    assert decide(sent(hours=23.9)) == Reconcile("the key is too old to be used without looking")
    assert decide(sent(hours=22)) == Attempt()


@pytest.mark.parametrize("decide", ONCE)
@given(call=calls())
def test_call_of_the_reconciler_is_left_to_it(decide: Decide, call: Call) -> None:
    if call.state is CallState.TO_RECONCILE:
        decision = decide(call)
        assert isinstance(decision, AlreadySettled)
        assert not decision.close_call


@pytest.mark.parametrize("decide", ONCE + REPEATABLE)
@given(call=calls())
def test_stripes_answer_and_an_operators_call_are_not_asked_for_again(decide: Decide, call: Call) -> None:
    if call.state is CallState.PARKED or call.outcome == CallOutcome.ANSWERED:
        decision = decide(call)
        assert isinstance(decision, AlreadySettled)
        assert not decision.close_call


@given(status=st.none() | statuses, call=maybe_calls)
def test_create_is_for_an_open_wish_only(status: PaymentStatus | None, call: Call | None) -> None:
    decision = decide_create(status, call, NOW)
    assert (decision == Unclaimed()) == (status is None)
    if isinstance(decision, Attempt):
        assert status in {PaymentStatus.REQUESTED, PaymentStatus.VOIDING}
    if status is PaymentStatus.VOIDING and (call is None or not call.may_have_acted):
        assert decision == VoidWithoutCall()
    if isinstance(decision, VoidWithoutCall):
        assert status is PaymentStatus.VOIDING
        assert call is None or not call.may_have_acted


@given(call=calls())
def test_call_that_was_sent_or_answered_may_have_acted_unless_absence_was_proved(call: Call) -> None:
    is_proved = call.outcome == CallOutcome.ABSENT
    assert call.may_have_acted == (not is_proved and (call.attempts > 0 or not call.is_open))


@given(status=statuses, call=maybe_calls, is_current=st.booleans(), has_intent=st.booleans())
def test_capture_is_for_the_latest_wish_only(
    *, status: PaymentStatus, call: Call | None, is_current: bool, has_intent: bool
) -> None:
    decision = decide_capture(status, call, NOW, is_current=is_current, has_intent=has_intent)
    if status is not PaymentStatus.CAPTURING or not is_current:
        assert isinstance(decision, AlreadySettled)
        assert decision.close_call == (call is not None and call.is_open)
    elif not has_intent:
        assert isinstance(decision, Park)
    else:
        assert decision == wanted_capture(call)


@given(status=statuses, call=maybe_calls, has_intent=st.booleans(), was_asked=st.booleans(), is_abandoned=st.booleans())
def test_cancel_follows_the_state_of_the_payment(
    *, status: PaymentStatus, call: Call | None, has_intent: bool, was_asked: bool, is_abandoned: bool
) -> None:
    decision = decide_cancel(status, call, NOW, has_intent=has_intent, was_asked=was_asked, is_abandoned=is_abandoned)
    is_wanted = status in OVER | {PaymentStatus.VOIDING} or (
        status in {PaymentStatus.ACTION_REQUIRED, PaymentStatus.REQUESTED} and is_abandoned
    )
    if isinstance(decision, VoidWithoutCall):
        assert status is PaymentStatus.VOIDING
        assert not was_asked
        assert not has_intent
    elif not is_wanted or not has_intent:
        assert isinstance(decision, AlreadySettled)
    else:
        assert decision == wanted_cancel(call)


@given(call=calls())
def test_refused_cancel_is_asked_for_again_after_a_while(call: Call) -> None:
    decision = wanted_cancel(call)
    if isinstance(decision, Later):
        assert 0 < decision.after_s <= CANCEL_AGAIN_S_MAX
    if call.state is CallState.ANSWERED and call.outcome != CallOutcome.ANSWERED:
        assert isinstance(decision, Later | Attempt)
        assert call.answered_at is not None
        if NOW - call.answered_at >= timedelta(seconds=CANCEL_AGAIN_S_MAX):
            assert decision == Attempt(renews=True)


@pytest.mark.parametrize(("generation", "pause_s"), [(1, 1), (2, 2), (3, 4), (20, CANCEL_AGAIN_S_MAX)])
def test_refused_cancels_are_spaced_further_and_further(generation: int, pause_s: float) -> None:
    refused = partial(Call, CallState.ANSWERED, 1, NOW, CallOutcome.REFUSED, generation)
    assert wanted_cancel(refused(answered_at=NOW)) == Later(pause_s, "refused a moment ago")
    assert wanted_cancel(refused(answered_at=NOW - timedelta(seconds=pause_s))) == Attempt(renews=True)


@given(call=maybe_calls, exists=st.booleans(), is_requested=st.booleans(), has_intent=st.booleans())
def test_refund_is_for_a_requested_one_only(
    *, call: Call | None, exists: bool, is_requested: bool, has_intent: bool
) -> None:
    decision = decide_refund(call, NOW, exists=exists, is_requested=is_requested, has_intent=has_intent)
    if not exists:
        assert decision == Unclaimed()
    elif not is_requested:
        assert isinstance(decision, AlreadySettled)
        assert decision.close_call == (call is not None and call.is_open)
    elif not has_intent:
        assert isinstance(decision, Park)
    else:
        assert decision == wanted_refund(call)


@given(status=st.sampled_from([PaymentStatus.REQUESTED, PaymentStatus.VOIDING]), call=maybe_calls)
def test_payment_intent_that_is_known_gets_no_second_one_and_is_never_forgotten(
    status: PaymentStatus, call: Call | None
) -> None:
    """Also after a proof of absence: Stripe may have carried out the call later than anybody waited."""
    decision = decide_create(status, call, NOW, has_intent=True)
    assert decision != VoidWithoutCall()
    if isinstance(decision, Attempt):
        assert call is not None
        assert (decision.renews, call.attempts > 0) == (False, True), "only the same key, which makes nothing twice"


@given(age=ages)
def test_wish_of_another_day_that_nobody_seems_to_have_called_for_is_looked_up_first(age: timedelta) -> None:
    """A restored backup may have lost the call, and Stripe its key."""
    decisions = (
        decide_create(PaymentStatus.REQUESTED, None, NOW, asked_at=NOW - age),
        decide_refund(None, NOW, exists=True, is_requested=True, has_intent=True, asked_at=NOW - age),
    )
    for decision in decisions:
        assert isinstance(decision, Reconcile if age >= KEY_AGE_MAX else Attempt)
