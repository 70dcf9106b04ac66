import pytest
from hypothesis import given
from hypothesis import strategies as st

from payments.domain.attempts import CallOutcome, Park, Reconcile
from payments.domain.declines import is_about_payment
from payments.domain.facts import ErrorFacts, read_error
from payments.domain.following import (
    BUSY_RETRY_S_MAX,
    CANCEL_RULES,
    CAPTURE_RULES,
    CREATE_RULES,
    REFUND_RULES,
    UNKNOWN_RETRY_S_MAX,
    UNKNOWN_RETRY_S_MIN,
    CallRules,
    Record,
    Renew,
    Retry,
    decide_next,
)
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

words = st.none() | st.text(max_size=20)
request_ids = st.none() | st.just("req_1")
words_of_stripe = st.builds(Answered, st.just({}), st.just(200), request_ids) | st.builds(
    Declined, st.just({}), request_ids
)
ALL_RULES = [CREATE_RULES, CAPTURE_RULES, CANCEL_RULES, REFUND_RULES]
rules = st.sampled_from(ALL_RULES)
known_words = st.sampled_from(
    [
        *("amount", "amount_to_capture", "charge", "customer", "payment_intent", "payment_method", "source"),
        *("amount_too_small", "charge_disputed", "charge_expired_for_capture", "payment_intent_unexpected_state"),
        "resource_missing",
    ]
)
errors = st.fixed_dictionaries({}, optional=dict.fromkeys(("param", "code"), words | st.integers() | known_words))
refusals = st.builds(Refused, errors, st.sampled_from([400, 404, 422]), request_ids)
harmless = (
    st.builds(KeyInUse, request_ids)
    | st.builds(RateLimited, words, request_ids, st.none() | st.floats(0, 300))
    | st.builds(Unauthorized, st.sampled_from([401, 403]), st.text(), request_ids)
)
unknowns = st.builds(Unknown, st.text(), st.none() | st.integers(200, 599), request_ids)
replays = st.builds(Unknown, st.text(), st.integers(500, 599), request_ids, st.just(True))  # noqa: FBT003 - positional
counts = st.integers(1, 10**9)
jitters = st.floats(0, 1, exclude_max=True)


@given(outcome=replays, attempts=counts, deliveries=counts, jitter=jitters, rules=rules)
def test_kept_doubt_gets_a_new_key_only_where_stripe_acts_but_once(
    outcome: Unknown, attempts: int, deliveries: int, jitter: float, rules: CallRules
) -> None:
    following = decide_next(outcome, attempts, deliveries, jitter, rules)
    if rules.is_repeatable:
        assert isinstance(following, Renew)
        assert UNKNOWN_RETRY_S_MIN / 2 <= following.after_s <= UNKNOWN_RETRY_S_MAX
    else:
        assert isinstance(following, Reconcile)


def test_only_captures_and_cancels_are_repeatable() -> None:
    assert [one.is_repeatable for one in ALL_RULES] == [False, True, True, False]


@given(outcome=words_of_stripe, attempts=counts, deliveries=counts, jitter=jitters, rules=rules)
def test_stripes_word_is_recorded(
    outcome: Answered | Declined, attempts: int, deliveries: int, jitter: float, rules: CallRules
) -> None:
    following = decide_next(outcome, attempts, deliveries, jitter, rules)
    assert following == Record(CallOutcome.ANSWERED if isinstance(outcome, Answered) else CallOutcome.DECLINED)


@given(outcome=unknowns, attempts=counts, deliveries=counts, jitter=jitters, rules=rules)
def test_unknown_is_never_failed_nor_given_up(
    outcome: Unknown, attempts: int, deliveries: int, jitter: float, rules: CallRules
) -> None:
    following = decide_next(outcome, attempts, deliveries, jitter, rules)
    assert isinstance(following, Retry)
    assert following.burns
    assert UNKNOWN_RETRY_S_MIN / 2 <= following.after_s <= UNKNOWN_RETRY_S_MAX


@given(outcome=unknowns, attempts=st.integers(1, 100), jitter=jitters, rules=rules)
def test_unknown_is_spaced_further_with_every_attempt(
    outcome: Unknown, attempts: int, jitter: float, rules: CallRules
) -> None:
    this, later = (decide_next(outcome, count, 1, jitter, rules) for count in (attempts, attempts + 1))
    assert isinstance(this, Retry)
    assert isinstance(later, Retry)
    assert later.after_s >= this.after_s


@given(outcome=replays, deliveries=st.integers(1, 100), jitter=jitters)
def test_what_stripe_keeps_repeating_is_tried_anew_ever_more_rarely(
    outcome: Unknown, deliveries: int, jitter: float
) -> None:
    pauses = []
    for count in (1, deliveries, deliveries + 1, 1_000):
        following = decide_next(outcome, 1, count, jitter, CAPTURE_RULES)
        assert isinstance(following, Renew)
        pauses.append(following.after_s)
    assert pauses == sorted(pauses)
    assert pauses[-1] >= UNKNOWN_RETRY_S_MAX / 2


@given(outcome=harmless, attempts=counts, deliveries=counts, jitter=jitters, rules=rules)
def test_what_did_nothing_burns_no_attempt(
    outcome: KeyInUse | RateLimited | Unauthorized, attempts: int, deliveries: int, jitter: float, rules: CallRules
) -> None:
    following = decide_next(outcome, attempts, deliveries, jitter, rules)
    assert isinstance(following, Retry)
    assert not following.burns
    # Only where nothing can have been done may the count fall back to none, and a void pass without a look at Stripe.
    assert following.attempts_min == (1 if isinstance(outcome, KeyInUse) else 0)
    asked_s = outcome.retry_after_s or 0.0 if isinstance(outcome, RateLimited) else 0.0
    assert max(asked_s, 0.5) <= following.after_s <= max(asked_s, BUSY_RETRY_S_MAX)


@given(attempts=counts, deliveries=counts, jitter=jitters, rules=rules)
def test_misused_key_is_an_operators(attempts: int, deliveries: int, jitter: float, rules: CallRules) -> None:
    following = decide_next(KeyMisused("m", None), attempts, deliveries, jitter, rules)
    assert isinstance(following, Park)


@given(outcome=refusals, attempts=counts, jitter=jitters, rules=rules)
def test_refusal_is_the_wishs_fault_or_ours(outcome: Refused, attempts: int, jitter: float, rules: CallRules) -> None:
    following = decide_next(outcome, attempts, 1, jitter, rules)
    if rules.is_about_wish(read_error(outcome.error) or ErrorFacts()):
        missing = outcome.error.get("code") == "resource_missing"
        ours = outcome.error.get("param") in {"charge", "payment_intent"}
        assert isinstance(following, Park if missing and ours else Record)
    else:
        assert isinstance(following, Park)


def test_a_payment_fails_for_whatever_refusal_its_call_was_answered_with() -> None:
    """Else the call is answered and the payment parked: nobody hears of it but an operator."""
    assert CREATE_RULES.is_about_wish is is_about_payment


@pytest.mark.parametrize(
    "error",
    [
        {"type": "card_error"},
        {"type": "invalid_request_error", "code": "parameter_missing", "param": "source"},
        {
            "type": "invalid_request_error",
            "message": "The provided PaymentMethod was previously used with a PaymentIntent without Customer "
            "attachment, shared with a connected account without Customer attachment, or was detached from a Customer. "
            "It may not be used again. To use a PaymentMethod multiple times, you must attach it to a Customer first.",
        },
    ],
    ids=["card", "of another customer", "used up"],
)
def test_a_method_that_cannot_be_charged_is_the_wishs_fault(error: dict[str, str]) -> None:
    assert decide_next(Refused(error, 400, None), 1, 1, 0.0, CREATE_RULES) == Record(CallOutcome.REFUSED)


def test_refusal_names_nested_parameters() -> None:
    outcome = Refused({"param": "payment_method[card]"}, 400, None)
    assert decide_next(outcome, 1, 1, 0.0, CREATE_RULES) == Record(CallOutcome.REFUSED)


@pytest.mark.parametrize("rules", [CAPTURE_RULES, CANCEL_RULES, REFUND_RULES])
def test_object_that_stripe_does_not_know_is_an_operators(rules: CallRules) -> None:
    for param in ("intent", "payment_intent", "charge", "id"):
        outcome = Refused({"param": param, "code": "resource_missing"}, 404, None)
        assert isinstance(decide_next(outcome, 1, 1, 0.0, rules), Park)


def test_customer_that_stripe_does_not_know_is_the_wishs_fault() -> None:
    outcome = Refused({"param": "customer", "code": "resource_missing"}, 400, None)
    assert decide_next(outcome, 1, 1, 0.0, CREATE_RULES) == Record(CallOutcome.REFUSED)


@pytest.mark.parametrize(
    ("rules", "code"),
    [
        (CAPTURE_RULES, "charge_expired_for_capture"),
        (CAPTURE_RULES, "capture_charge_authorization_expired"),
        (CAPTURE_RULES, "charge_already_captured"),
        (CAPTURE_RULES, "payment_intent_unexpected_state"),
        (CANCEL_RULES, "payment_intent_unexpected_state"),
        (REFUND_RULES, "charge_already_refunded"),
        (REFUND_RULES, "charge_disputed"),
        (REFUND_RULES, "charge_not_refundable"),
    ],
)
def test_what_stripe_says_of_the_state_of_things_is_recorded_and_no_fault_of_ours(rules: CallRules, code: str) -> None:
    """https://docs.stripe.com/error-codes"""
    following = decide_next(Refused({"code": code}, 400, "req_1"), 1, 1, 0.5, rules)
    assert following == Record(CallOutcome.REFUSED)


@pytest.mark.parametrize("rules", ALL_RULES)
@pytest.mark.parametrize(
    "error", [{}, {"code": "parameter_unknown", "param": "confrim"}, {"code": "api_key_expired"}, {"message": "no"}]
)
def test_any_other_refusal_shows_a_fault_of_ours(rules: CallRules, error: dict[str, str]) -> None:
    assert isinstance(decide_next(Refused(error, 400, "req_1"), 1, 1, 0.5, rules), Park)


@pytest.mark.parametrize(
    ("rules", "param"), [(CAPTURE_RULES, "amount"), (CANCEL_RULES, "amount_to_capture"), (REFUND_RULES, "customer")]
)
def test_parameter_of_another_call_shows_a_fault_of_ours(rules: CallRules, param: str) -> None:
    assert isinstance(decide_next(Refused({"param": param}, 400, "req_1"), 1, 1, 0.5, rules), Park)
