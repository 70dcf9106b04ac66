from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from payments.domain.attempts import (
    BUSY_RETRY_S_MAX,
    KEY_AGE_MAX,
    UNKNOWN_RETRY_S_MAX,
    UNKNOWN_RETRY_S_MIN,
    WISH_PARAMETERS,
    AlreadySettled,
    Attempt,
    Call,
    CallState,
    Park,
    Record,
    Retry,
    Unclaimed,
    VoidWithoutCall,
    decide_attempt,
    decide_next,
)
from payments.domain.states import PaymentStatus
from payments.stripe_gateway.outcomes import (
    Answered,
    Declined,
    KeyInUse,
    KeyMisused,
    RateLimited,
    Refused,
    Unauthorized,
    Unknown,
)

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
ages = st.timedeltas(min_value=timedelta(days=-1), max_value=timedelta(days=30))
words = st.none() | st.text(max_size=20)
request_ids = st.none() | st.just("req_1")
words_of_stripe = st.builds(Answered, st.just({}), st.just(200), request_ids) | st.builds(
    Declined, st.just({}), request_ids
)
errors = st.fixed_dictionaries({}, optional={"param": words | st.integers(), "code": words | st.integers()})
refusals = st.builds(Refused, errors, st.sampled_from([400, 404, 422]), request_ids)
harmless = (
    st.builds(KeyInUse, request_ids)
    | st.builds(RateLimited, words, request_ids, st.none() | st.floats(0, 300))
    | st.builds(Unauthorized, st.sampled_from([401, 403]), st.text(), request_ids)
)
unknowns = st.builds(Unknown, st.text(), st.none() | st.integers(200, 599), request_ids)
counts = st.integers(1, 10**9)
jitters = st.floats(0, 1, exclude_max=True)


@st.composite
def calls(draw: st.DrawFn) -> Call:
    attempts = draw(st.integers(0, 1000))
    return Call(
        draw(st.sampled_from(CallState)), attempts, NOW - draw(ages) if attempts or draw(st.booleans()) else None
    )


@given(status=st.none() | st.sampled_from(PaymentStatus), call=st.none() | calls())
def test_attempt_is_made_only_for_an_open_wish_with_a_young_key(
    status: PaymentStatus | None, call: Call | None
) -> None:
    decision = decide_attempt(status, call, NOW)
    if isinstance(decision, Attempt):
        assert status in {PaymentStatus.REQUESTED, PaymentStatus.VOIDING}
        assert call is None or call.state not in {CallState.ANSWERED, CallState.PARKED}
        if call is not None and call.attempts:
            assert call.first_attempt_at is not None
            assert NOW - call.first_attempt_at < KEY_AGE_MAX
        else:
            assert status is PaymentStatus.REQUESTED


@given(call=st.none() | calls(), status=st.sampled_from(PaymentStatus))
def test_void_without_a_call_only_when_nothing_was_attempted(call: Call | None, status: PaymentStatus) -> None:
    if isinstance(decide_attempt(status, call, NOW), VoidWithoutCall):
        assert status is PaymentStatus.VOIDING
        assert call is None or (call.attempts == 0 and call.state not in {CallState.ANSWERED, CallState.PARKED})


@given(call=calls(), status=st.sampled_from([PaymentStatus.REQUESTED, PaymentStatus.VOIDING]))
def test_old_key_waits_for_the_reconciler_and_no_operator(call: Call, status: PaymentStatus) -> None:
    old = Call(call.state, max(call.attempts, 1), NOW - KEY_AGE_MAX)
    decision = decide_attempt(status, old, NOW)
    if old.state in {CallState.ANSWERED, CallState.PARKED}:
        assert isinstance(decision, AlreadySettled)
        assert not decision.close_call
    else:
        assert isinstance(decision, Park)
        assert not decision.dead_letter


@given(call=st.none() | calls(), status=st.sampled_from(PaymentStatus))
def test_settled_payment_needs_no_call(call: Call | None, status: PaymentStatus) -> None:
    if status not in {PaymentStatus.REQUESTED, PaymentStatus.VOIDING}:
        decision = decide_attempt(status, call, NOW)
        assert isinstance(decision, AlreadySettled)
        if decision.close_call:
            assert call is not None
            assert call.state not in {CallState.ANSWERED, CallState.PARKED}


@given(call=st.none() | calls())
def test_missing_payment_is_never_called_for(call: Call | None) -> None:
    assert decide_attempt(None, call, NOW) == Unclaimed()


@given(outcome=words_of_stripe, attempts=counts, deliveries=counts, jitter=jitters)
def test_stripes_word_is_recorded(outcome: Answered | Declined, attempts: int, deliveries: int, jitter: float) -> None:
    following = decide_next(outcome, attempts, deliveries, jitter)
    assert following == Record("answered" if isinstance(outcome, Answered) else "declined")


@given(outcome=unknowns, attempts=counts, deliveries=counts, jitter=jitters)
def test_unknown_is_never_failed_nor_given_up(outcome: Unknown, attempts: int, deliveries: int, jitter: float) -> None:
    following = decide_next(outcome, attempts, deliveries, jitter)
    assert isinstance(following, Retry)
    assert following.burns
    assert UNKNOWN_RETRY_S_MIN / 2 <= following.after_s <= UNKNOWN_RETRY_S_MAX


@given(outcome=unknowns, attempts=st.integers(1, 100), jitter=jitters)
def test_unknown_is_spaced_further_with_every_attempt(outcome: Unknown, attempts: int, jitter: float) -> None:
    this, later = (decide_next(outcome, count, 1, jitter) for count in (attempts, attempts + 1))
    assert isinstance(this, Retry)
    assert isinstance(later, Retry)
    assert later.after_s >= this.after_s


@given(outcome=harmless, attempts=counts, deliveries=counts, jitter=jitters)
def test_what_did_nothing_burns_no_attempt(
    outcome: KeyInUse | RateLimited | Unauthorized, attempts: int, deliveries: int, jitter: float
) -> None:
    following = decide_next(outcome, attempts, deliveries, jitter)
    assert isinstance(following, Retry)
    assert not following.burns
    # Only where nothing can have been done may the count fall back to none, and a void pass without a look at Stripe.
    assert following.attempts_min == (1 if isinstance(outcome, KeyInUse) else 0)
    asked_s = outcome.retry_after_s or 0.0 if isinstance(outcome, RateLimited) else 0.0
    assert max(asked_s, 0.5) <= following.after_s <= max(asked_s, BUSY_RETRY_S_MAX)


@given(attempts=counts, deliveries=counts, jitter=jitters)
def test_misused_key_is_an_operators(attempts: int, deliveries: int, jitter: float) -> None:
    following = decide_next(KeyMisused("m", None), attempts, deliveries, jitter)
    assert isinstance(following, Park)
    assert following.dead_letter


@given(outcome=refusals, attempts=counts, jitter=jitters)
def test_refusal_is_the_wishs_fault_or_ours(outcome: Refused, attempts: int, jitter: float) -> None:
    following = decide_next(outcome, attempts, 1, jitter)
    assert isinstance(following, Record | Park)
    if isinstance(following, Record):
        assert following.outcome == "refused"
    else:
        assert following.dead_letter
        assert outcome.error.get("param") not in WISH_PARAMETERS


def test_refusal_names_nested_parameters() -> None:
    outcome = Refused({"param": "payment_method[card]"}, 400, None)
    assert decide_next(outcome, 1, 1, 0.0) == Record("refused")
