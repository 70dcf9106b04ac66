"""How Stripe's past is caught up with: no gap, no standing still, no belief in strange clocks."""

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from payments.reconciler.slices import (
    EVENTS_KEPT,
    OVERLAP,
    SILENCE_MAX,
    SKEW_MAX,
    SPAN_FIRST,
    SPAN_MAX,
    SPAN_MIN,
    Slice,
    decide_heard,
    decide_position,
    decide_slice,
    decide_span,
)

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
moments = st.datetimes(datetime(2026, 1, 1), datetime(2027, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001 - given there


@given(moments, moments, st.timedeltas(SPAN_MIN, SPAN_MAX))
def test_slices_leave_no_gap_and_move_on(position: datetime, now: datetime, span: timedelta) -> None:
    part = decide_slice(position, position, now, span)
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
        assert decide_slice(NOW, NOW, now, SPAN_MIN).since == NOW - timedelta(minutes=1)


@given(moments, st.timedeltas(timedelta(0), timedelta(days=100)), moments | st.none())
def test_position_never_believes_a_clock_further_than_its_skew(
    position: datetime, behind: timedelta, newest: datetime | None
) -> None:
    now = position + behind
    part = Slice(position - OVERLAP, None, by_objects=False)
    after = decide_position(part, position, newest, now)
    # What Stripe makes from now on may be dated up to SKEW_MAX before our present.
    assert after <= max(position, now - SKEW_MAX, min(newest or position, now + SKEW_MAX))


@given(moments, st.timedeltas(timedelta(0), timedelta(days=100)), moments | st.none())
def test_what_stripe_has_dated_is_believed_no_further_and_silence_for_no_longer(
    heard: datetime, behind: timedelta, newest: datetime | None
) -> None:
    now = heard + behind
    after = decide_heard(heard, newest, now)
    assert heard <= after <= max(heard, now - SILENCE_MAX, min(newest or heard, now + SKEW_MAX))
    assert after >= now - SILENCE_MAX


@given(st.timedeltas(timedelta(0), SILENCE_MAX))
def test_a_clock_that_runs_hours_ahead_blinds_nobody(ahead: timedelta) -> None:
    """Stripe was silent, and by our clock it is known beyond its present; what happens there is heard of."""
    ours = NOW + ahead
    position = heard = NOW - timedelta(days=3)
    for now in (ours, ours + timedelta(minutes=5)):
        part = decide_slice(max(position, now - SKEW_MAX), heard, now, SPAN_FIRST)
        assert part.until is None
        assert part.since <= NOW - OVERLAP
        position, heard = decide_position(part, position, None, now), decide_heard(heard, None, now)


def test_a_clock_that_ran_hours_ahead_and_was_put_right_has_skipped_nothing() -> None:
    ahead = NOW + timedelta(hours=5)
    heard = decide_heard(NOW - timedelta(days=3), NOW, ahead)
    position = decide_position(Slice(NOW, None, by_objects=False), NOW, NOW, ahead)
    assert position > NOW
    assert decide_slice(position, heard, NOW, SPAN_FIRST) == Slice(NOW - OVERLAP, None, by_objects=False)


def test_crowded_present_is_cut_from_where_stripe_is_known_on() -> None:
    """Not from where our clock was, which may be beyond all that it holds."""
    part = decide_slice(NOW + timedelta(hours=3), NOW, NOW, SPAN_FIRST, NOW + timedelta(seconds=5))
    assert part == Slice(NOW - OVERLAP, NOW + timedelta(seconds=5), by_objects=False)


def test_catching_up_with_a_hundred_days_takes_objects_first_and_then_events() -> None:
    position, span, by_objects, rounds = NOW - timedelta(days=100), timedelta(minutes=10), [], 0
    part = None
    while part is None or part.until is not None:
        assert rounds < 150
        part = decide_slice(position, position, NOW, span)
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
        parts.append(decide_slice(position, position, now, span))
        assert len(parts) < 100
        now += timedelta(seconds=5)
        assert parts[-1].until is None or parts[-1].until < now - SKEW_MAX
        position = decide_position(parts[-1], position, None, now)
        span = decide_span(span, is_too_full=False)
    assert [one.by_objects for one in parts] == sorted((one.by_objects for one in parts), reverse=True)


def test_crowded_present_is_cut_where_there_is_something() -> None:
    part = decide_slice(NOW, NOW, NOW, SPAN_FIRST, NOW + timedelta(seconds=5))
    assert part.until == NOW + timedelta(seconds=5)
    assert decide_slice(NOW, NOW, NOW, timedelta(seconds=2), part.until).until == NOW + timedelta(seconds=2)
    assert decide_slice(NOW, NOW, NOW, SPAN_FIRST, NOW - timedelta(seconds=5)).until == NOW + SPAN_MIN


def test_events_are_asked_for_no_longer_than_stripe_keeps_them() -> None:
    """For thirty days (https://docs.stripe.com/api/events); beyond, what was made is listed."""
    for days, by_objects in ((30, True), (29, False)):
        begin = NOW - timedelta(days=days)
        assert decide_slice(begin, begin, NOW, SPAN_FIRST).by_objects is by_objects
