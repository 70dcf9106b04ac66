import pytest
from hypothesis import given
from hypothesis import strategies as st

from payments.relay.stops import PAUSE_S_MAX, PAUSE_S_MIN, REASONS, Failure, decide_failure, decide_pause_s


@pytest.mark.parametrize("sqlstate", [None, "08006", "57P01", "57P02", "57P03", "53300"])
def test_decide_failure_knows_a_database_that_is_away(sqlstate: str | None) -> None:
    assert decide_failure(sqlstate) is Failure.DATABASE_AWAY


@pytest.mark.parametrize("sqlstate", sorted(REASONS))
def test_decide_failure_knows_a_lane_that_stopped(sqlstate: str) -> None:
    assert decide_failure(sqlstate) is Failure.LANE_STOPPED


@given(failures=st.integers(1, 10**6))
def test_decide_pause_grows_within_its_bounds(failures: int) -> None:
    pause_s = decide_pause_s(failures)
    assert PAUSE_S_MIN <= pause_s <= PAUSE_S_MAX
    assert pause_s <= decide_pause_s(failures + 1)
