"""How Stripe's past is caught up with: no gap, no standing still, no belief in strange clocks."""

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from payments.reconciler.slices import (
    EVENTS_KEPT,
    OVERLAP,
    SKEW_MAX,
    SPAN_FIRST,
    SPAN_MAX,
    SPAN_MIN,
    Slice,
    decide_position,
    decide_slice,
    decide_span,
)

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
moments = st.datetimes(datetime(2026, 1, 1), datetime(2027, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001 - given there


@given(moments, moments, st.timedeltas(SPAN_MIN, SPAN_MAX))
def test_slices_leave_no_gap_and_move_on(position: datetime, now: datetime, span: timedelta) -> None:
    part = decide_slice(position, now, span)
    assert part.since == position - OVERLAP
    if part.until is not None:
        assert part.since < part.until <= now
        assert part.by_objects is (position < now - EVENTS_KEPT)
        assert decide_position(part, position, None, now) == part.until > position
    else:
        assert not part.by_objects
        assert decide_position(part, position, None, now) >= position


def test_what_stripe_lists_a_minute_late_is_not_passed_over() -> None:
    for now in (NOW, NOW + timedelta(hours=3), NOW + timedelta(days=40)):
        assert decide_slice(NOW, now, SPAN_MIN).since == NOW - timedelta(minutes=1)


@given(moments, st.timedeltas(timedelta(0), timedelta(days=100)), moments | st.none())
def test_position_never_believes_a_clock_further_than_its_skew(
    position: datetime, behind: timedelta, newest: datetime | None
) -> None:
    now = position + behind
    part = Slice(position - OVERLAP, None, by_objects=False)
    after = decide_position(part, position, newest, now)
    # What Stripe makes from now on may be dated up to SKEW_MAX before our present.
    assert after <= max(position, now - SKEW_MAX, min(newest or position, now + SKEW_MAX))


def test_catching_up_with_a_hundred_days_takes_objects_first_and_then_events() -> None:
    position, span, by_objects, rounds = NOW - timedelta(days=100), timedelta(minutes=10), [], 0
    part = None
    while part is None or part.until is not None:
        assert rounds < 150
        part = decide_slice(position, NOW, span)
        by_objects.append(part.by_objects)
        position = decide_position(part, position, NOW, NOW)
        span = decide_span(span, is_too_full=False)
        rounds += 1
    assert by_objects == sorted(by_objects, reverse=True)
    assert position == NOW


def test_catching_up_comes_to_the_present_while_time_goes_on() -> None:
    """The border of Stripe's memory moves on with each slice."""
    position, now, span, parts = NOW - timedelta(days=40), NOW, SPAN_FIRST, []
    while not parts or parts[-1].until is not None:
        parts.append(decide_slice(position, now, span))
        assert len(parts) < 100
        now += timedelta(seconds=5)
        assert parts[-1].until is None or parts[-1].until < now - SKEW_MAX
        position = decide_position(parts[-1], position, None, now)
        span = decide_span(span, is_too_full=False)
    assert [one.by_objects for one in parts] == sorted((one.by_objects for one in parts), reverse=True)


def test_crowded_present_is_cut_where_there_is_something() -> None:
    part = decide_slice(NOW, NOW, SPAN_FIRST, NOW + timedelta(seconds=5))
    assert part.until == NOW + timedelta(seconds=5)
    assert decide_slice(NOW, NOW, timedelta(seconds=2), part.until).until == NOW + timedelta(seconds=2)
    assert decide_slice(NOW, NOW, SPAN_FIRST, NOW - timedelta(seconds=5)).until == NOW + SPAN_MIN


def test_events_are_asked_for_no_longer_than_stripe_keeps_them() -> None:
    """For thirty days (https://docs.stripe.com/api/events); beyond, what was made is listed."""
    assert decide_slice(NOW - timedelta(days=30), NOW, SPAN_FIRST).by_objects
    assert not decide_slice(NOW - timedelta(days=29), NOW, SPAN_FIRST).by_objects
