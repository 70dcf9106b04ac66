from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

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
from payments.worker.breaker import (
    CLOSED,
    DOWN_S_MAX,
    REFUSED_S_MAX,
    UNKNOWN_MAX,
    Breaker,
    Trouble,
    decide_allowance,
    decide_breaker,
)

SPOKEN: list[Outcome] = [
    Answered({}, 200, None),
    Declined({}, None),
    Refused({}, 400, None),
    KeyInUse(None),
    KeyMisused("m", None),
    RateLimited(None, None),
]
SILENT = Unknown("timeout")
REPLAYED = Unknown("HTTP 500", 500, is_replayed=True)
REFUSED = Unauthorized(401, "m", None)


class BreakerMachine(RuleBasedStateMachine):
    """Calls begin only as allowed and end in any way, at any time; the breaker is judged from outside."""

    def __init__(self) -> None:
        super().__init__()
        self.breaker = CLOSED
        self.now = 0.0
        self.under_way = 0
        self.silent_in_a_row = 0

    @rule(wanted=st.integers(0, 20))
    def begin(self, wanted: int) -> None:
        allowed = decide_allowance(self.breaker, self.under_way, wanted, self.now)
        assert 0 <= allowed <= wanted
        if self.breaker.trouble is None:
            assert allowed == wanted
        else:
            assert self.under_way + allowed <= max(self.under_way, 1)
            assert allowed == 0 or self.now >= self.breaker.probe_at
        self.under_way += allowed

    @rule(outcome=st.sampled_from([*SPOKEN, SILENT, REFUSED]))
    def end(self, outcome: Outcome) -> None:
        if not self.under_way:
            return
        self.under_way -= 1
        self.silent_in_a_row = self.silent_in_a_row + 1 if outcome == SILENT else 0
        self.breaker = decide_breaker(self.breaker, outcome, self.now)
        if outcome in SPOKEN:
            assert self.breaker == CLOSED
        elif outcome == REFUSED:
            assert self.breaker.trouble is Trouble.KEY_REFUSED
        elif self.silent_in_a_row >= UNKNOWN_MAX:
            assert self.breaker.trouble is not None

    @rule(seconds=st.floats(0, 400))
    def pass_time(self, seconds: float) -> None:
        self.now += seconds

    @invariant()
    def opens_again_for_a_probe_in_bounded_time(self) -> None:
        assert self.breaker.probe_at - self.now <= max(DOWN_S_MAX, REFUSED_S_MAX)


TestBreakerMachine = BreakerMachine.TestCase


@given(st.lists(st.sampled_from([*SPOKEN, SILENT]), max_size=50))
def test_breaker_opens_on_silence_in_a_row_only(outcomes: list[Outcome]) -> None:
    breaker, in_a_row = CLOSED, 0
    for outcome in outcomes:
        breaker = decide_breaker(breaker, outcome, now=0.0)
        in_a_row = in_a_row + 1 if outcome == SILENT else 0
        assert (breaker.trouble is Trouble.DOWN) == (in_a_row >= UNKNOWN_MAX)


@given(st.lists(st.sampled_from([*SPOKEN, SILENT, REFUSED, REPLAYED]), max_size=50))
def test_breaker_is_as_if_replayed_answers_had_never_come(outcomes: list[Outcome]) -> None:
    with_them = without = CLOSED
    for now, outcome in enumerate(outcomes):
        with_them = decide_breaker(with_them, outcome, float(now))
        if outcome != REPLAYED:
            without = decide_breaker(without, outcome, float(now))
        assert with_them == without


def test_breaker_waits_longer_after_each_failed_probe() -> None:
    breaker, now, pauses = CLOSED, 0.0, []
    for _ in range(UNKNOWN_MAX - 1):
        breaker = decide_breaker(breaker, SILENT, now)
    for _ in range(8):
        breaker = decide_breaker(breaker, SILENT, now)
        pauses.append(breaker.probe_at - now)
        now = breaker.probe_at
    assert pauses == [1, 2, 4, 8, 16, 30, 30, 30]


def test_breaker_does_not_count_calls_that_were_under_way_as_probes() -> None:
    opened = decide_breaker(CLOSED, REFUSED, now=0.0)
    assert decide_breaker(opened, REFUSED, now=0.1) == opened


def test_breaker_lets_one_probe_out_at_a_time() -> None:
    opened = Breaker(trouble=Trouble.DOWN, probe_at=5.0)
    assert decide_allowance(opened, 0, 16, now=4.9) == 0
    assert decide_allowance(opened, 0, 16, now=5.0) == 1
    assert decide_allowance(opened, 1, 16, now=5.0) == 0


@given(st.lists(st.sampled_from([SILENT, REFUSED, REPLAYED]), max_size=50), st.floats(0, 400))
def test_breaker_takes_silence_for_no_news_about_a_refused_key(outcomes: list[Outcome], pause_s: float) -> None:
    breaker, now = decide_breaker(CLOSED, REFUSED, now=0.0), 0.0
    for outcome in outcomes:
        now += pause_s
        breaker = decide_breaker(breaker, outcome, now)
        assert breaker.trouble is Trouble.KEY_REFUSED
