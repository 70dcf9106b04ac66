"""The pure decisions of the reconciler, over all that may come their way."""

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from payments.domain.facts import ActionFacts, PaymentIntentFacts
from payments.domain.signals import Kind
from payments.domain.states import PaymentStatus
from payments.reconciler.asking import StripeAway, read_page
from payments.reconciler.looks import (
    OPEN,
    SLOW_PAUSE_S_MAX,
    KnownRefund,
    Limit,
    Limits,
    Look,
    Rest,
    Sight,
    Watched,
    decide_limit,
    decide_pause,
    decide_refunds,
    decide_sight,
    decide_stock,
    decide_watch,
)
from payments.reconciler.verdicts import (
    Absent,
    Doubled,
    Doubtful,
    Found,
    Operation,
    Question,
    decide_by_intent,
    decide_by_list,
    decide_question,
)
from payments.stripe_gateway.outcomes import Answered

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)

PAYMENT, CAPTURE, REFUND = (UUID(int=number) for number in (1, 2, 3))

INTENT_STATUSES = (
    "requires_payment_method",
    "requires_confirmation",
    "requires_action",
    "processing",
    "requires_capture",
    "succeeded",
    "canceled",
    "something_new",
)

ENDED = {PaymentStatus.FAILED, PaymentStatus.VOIDED, PaymentStatus.EXPIRED}

LIMITS = Limits(timedelta(seconds=15), timedelta(hours=24), timedelta(hours=24))

statuses = st.sampled_from(PaymentStatus)

spans = st.timedeltas(timedelta(milliseconds=100), timedelta(days=40))

moments = st.datetimes(datetime(2026, 1, 1), datetime(2027, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001 - given there

refunds = st.builds(
    KnownRefund,
    refund_id=st.uuids(),
    status=st.sampled_from(["REQUESTED", "PENDING", "PROCESSED", "FAILED"]),
    reference=st.none() | st.from_regex(r"re_[a-z]{3}", fullmatch=True),
)

watched_payments = st.builds(
    Watched,
    payment_id=st.just(PAYMENT),
    status=statuses,
    intent_id=st.none() | st.just("pi_1"),
    looks=st.integers(0, 10_000),
    changed_at=moments,
    capture_before=st.none() | moments,
    action=st.none() | st.sampled_from(["use_stripe_sdk", "requires_payment_method"]),
    is_orphan=st.booleans(),
    is_cancelled=st.booleans(),
    is_compensated=st.booleans(),
    refunds=st.lists(refunds, max_size=3).map(tuple),
)

limits = st.builds(Limits, first_look=spans, action_required=spans, orphan_hold=spans)

doubtfuls = st.builds(
    Doubtful,
    call_id=st.just(1),
    payment_id=st.just(PAYMENT),
    subject_id=st.sampled_from([PAYMENT, CAPTURE, REFUND]),
    operation=st.sampled_from(Operation),
    status=statuses,
    intent_id=st.none() | st.just("pi_1"),
    capture_id=st.none() | st.just(CAPTURE),
    refund_status=st.none() | st.sampled_from(["REQUESTED", "PENDING", "PROCESSED", "FAILED"]),
)


def watched(status: str, **fields: Any) -> Watched:
    given_fields = {"intent_id": "pi_1", "looks": 0, "changed_at": NOW, **fields}
    return Watched(payment_id=PAYMENT, status=PaymentStatus(status), **given_fields)


def intent(status: str, **fields: Any) -> PaymentIntentFacts:
    return PaymentIntentFacts(id="pi_1", status=status, amount=1000, currency="EUR", **fields)


@given(watched_payments)
def test_watch_ends_only_where_nothing_can_change_any_more(payment: Watched) -> None:
    if isinstance(decide_watch(payment), Rest):
        assert payment.status not in OPEN
        assert all(refund.status != "PENDING" for refund in payment.refunds)
        if payment.status is PaymentStatus.FAILED:
            assert payment.intent_id is None or payment.is_cancelled or payment.is_compensated


@pytest.mark.parametrize("settled", [{"is_cancelled": True}, {"is_compensated": True}, {"intent_id": None}])
def test_watch_of_a_failed_payment_ends_once_nothing_of_it_is_open_at_stripe(settled: dict[str, Any]) -> None:
    assert decide_watch(watched("FAILED")) == Look(intent=True, refunds=False)
    assert decide_watch(watched("FAILED", **settled)) == Rest()


@given(watched_payments)
def test_watch_never_asks_for_an_intent_that_nobody_knows(payment: Watched) -> None:
    decision = decide_watch(payment)
    if isinstance(decision, Look) and payment.intent_id is None:
        assert decision == Look(intent=False, refunds=False)


@given(watched_payments, st.sampled_from(INTENT_STATUSES))
def test_what_ended_at_stripe_is_news_to_an_open_payment(payment: Watched, status: str) -> None:
    sight = decide_sight(payment, intent(status))
    if payment.status in OPEN and status in {"succeeded", "canceled", "something_new"}:
        assert sight is Sight.NEWS
    if sight is Sight.AT_REST:
        assert status in {"succeeded", "canceled"}
        assert payment.status not in OPEN
    if sight is Sight.LEFT_OPEN:
        assert payment.status is PaymentStatus.FAILED


@pytest.mark.parametrize(
    ("status", "theirs", "sight"),
    [
        ("AUTHORIZED", "requires_capture", Sight.NO_NEWS),
        ("PROCESSING", "processing", Sight.NO_NEWS),
        ("PROCESSING", "requires_payment_method", Sight.NEWS),
        ("CAPTURING", "requires_capture", Sight.NO_NEWS),
        ("VOIDING", "requires_capture", Sight.NEWS),
        ("VOIDING", "requires_action", Sight.NEWS),
        ("REQUESTED", "processing", Sight.NEWS),
        ("REQUESTED", "requires_confirmation", Sight.HALF_MADE),
        ("REQUESTED", "requires_payment_method", Sight.HALF_MADE),
        ("FAILED", "requires_payment_method", Sight.LEFT_OPEN),
        ("FAILED", "canceled", Sight.AT_REST),
        ("FAILED", "succeeded", Sight.NEWS),
        ("FAILED", "requires_capture", Sight.NEWS),
        ("SUCCEEDED", "succeeded", Sight.AT_REST),
    ],
)
def test_sight_in_particular(status: str, theirs: str, sight: Sight) -> None:
    assert decide_sight(watched(status), intent(theirs)) is sight


def test_sight_of_a_browser_payment_follows_its_action() -> None:
    waiting = watched("ACTION_REQUIRED", action="use_stripe_sdk")
    same = intent("requires_action", next_action=ActionFacts("use_stripe_sdk"))
    assert decide_sight(waiting, same) is Sight.NO_NEWS
    assert decide_sight(waiting, intent("requires_payment_method")) is Sight.NEWS


def test_sight_of_a_hold_fills_in_its_deadline() -> None:
    facts = intent("requires_capture", capture_before=NOW)
    assert decide_sight(watched("AUTHORIZED"), facts) is Sight.NEWS
    assert decide_sight(watched("AUTHORIZED", capture_before=NOW), facts) is Sight.NO_NEWS


@given(watched_payments, moments, limits)
def test_limits_hit_only_whom_they_are_for_and_not_early(payment: Watched, now: datetime, bounds: Limits) -> None:
    match decide_limit(payment, now, bounds):
        case Limit.ABANDONED:
            assert payment.status is PaymentStatus.ACTION_REQUIRED or (
                payment.status is PaymentStatus.REQUESTED and payment.looks > 0
            )
            assert now - payment.changed_at >= bounds.action_required
        case Limit.ORPHANED:
            assert payment.status is PaymentStatus.AUTHORIZED
            assert payment.is_orphan
            assert now - payment.changed_at >= bounds.orphan_hold
        case None:
            pass


@given(watched_payments, moments, limits)
def test_pauses_are_bounded_and_never_run_past_what_is_bound_to_happen(
    payment: Watched, now: datetime, bounds: Limits
) -> None:
    pause = decide_pause(payment, now, bounds)
    longest = max(timedelta(seconds=SLOW_PAUSE_S_MAX), bounds.first_look)
    assert timedelta(0) < pause <= longest
    if payment.status is PaymentStatus.ACTION_REQUIRED:
        deadline = payment.changed_at + bounds.action_required
        assert deadline <= now or now + pause <= max(deadline, now + timedelta(milliseconds=100))


def test_pauses_double_up_to_an_hour_and_fall_on_the_hour_of_a_hold() -> None:
    pauses = [decide_pause(watched("PROCESSING", looks=looks), NOW, LIMITS).total_seconds() for looks in range(12)]
    assert pauses == [15, 30, 60, 120, 240, 480, 960, 1920, 3600, 3600, 3600, 3600]
    hold = watched("AUTHORIZED", looks=12, capture_before=NOW + timedelta(minutes=5))
    assert decide_pause(hold, NOW, LIMITS) == timedelta(minutes=5, seconds=30)
    overdue = watched("AUTHORIZED", looks=12, capture_before=NOW - timedelta(minutes=5))
    assert decide_pause(overdue, NOW, LIMITS) == timedelta(minutes=4, seconds=30)


def stripes_refund(number: str, status: str, refund_id: UUID | None = None) -> dict[str, Any]:
    metadata = {"refundId": str(refund_id)} if refund_id else {}
    return {"id": number, "object": "refund", "status": status, "metadata": metadata}


def test_refunds_that_say_the_same_are_no_news() -> None:
    known = (
        KnownRefund(REFUND, "PENDING", "re_a"),
        KnownRefund(CAPTURE, "REQUESTED", None),
        KnownRefund(PAYMENT, "PROCESSED", "re_c"),
    )
    payment = watched("SUCCEEDED", refunds=known)
    same = [stripes_refund("re_a", "pending"), stripes_refund("re_c", "succeeded")]
    assert decide_refunds(payment, same) == []
    news = [
        stripes_refund("re_a", "succeeded"),
        stripes_refund("re_b", "pending", CAPTURE),
        stripes_refund("re_c", "failed"),
        stripes_refund("re_from_the_dashboard", "succeeded"),
    ]
    assert decide_refunds(payment, news) == news


@pytest.mark.parametrize(
    ("kind", "status", "known_as", "is_news"),
    [
        (Kind.PAYMENT_INTENT, "succeeded", "SUCCEEDED", False),
        (Kind.PAYMENT_INTENT, "succeeded", "REQUESTED", True),
        (Kind.PAYMENT_INTENT, "succeeded", "VOIDED", True),
        (Kind.PAYMENT_INTENT, "canceled", "EXPIRED", False),
        (Kind.PAYMENT_INTENT, "requires_capture", "AUTHORIZED", False),
        (Kind.PAYMENT_INTENT, "requires_capture", None, True),
        (Kind.REFUND, "pending", "PENDING", False),
        (Kind.REFUND, "failed", "PROCESSED", True),
        (Kind.REFUND, "something_new", None, True),
        (Kind.DISPUTE, "won", "won", False),
        (Kind.DISPUTE, "won", "needs_response", True),
    ],
)
def test_stock_in_particular(kind: Kind, status: str, known_as: str | None, *, is_news: bool) -> None:
    assert decide_stock(kind, {"status": status}, known_as) is is_news


@pytest.mark.parametrize("status", list(PaymentStatus))
@pytest.mark.parametrize("intent_id", [None, "pi_1"])
def test_charge_in_doubt_is_looked_for_as_long_as_it_may_take_money(
    status: PaymentStatus, intent_id: str | None
) -> None:
    doubtful = Doubtful(
        call_id=1,
        payment_id=PAYMENT,
        subject_id=PAYMENT,
        operation=Operation.CREATE,
        status=status,
        intent_id=intent_id,
        capture_id=None,
        refund_status=None,
    )
    is_open = status in {PaymentStatus.REQUESTED, PaymentStatus.VOIDING}
    wanted = Question.CREATED if intent_id is None else Question.INTENT
    assert decide_question(doubtful) is (wanted if is_open else Question.NONE)


@given(doubtfuls)
def test_question_is_asked_only_while_the_wish_stands_and_can_be_answered(doubtful: Doubtful) -> None:
    match decide_question(doubtful):
        case Question.INTENT | Question.REFUNDS:
            assert doubtful.intent_id is not None
        case Question.CREATED:
            assert doubtful.operation is Operation.CREATE
            assert doubtful.intent_id is None
            assert doubtful.status in {PaymentStatus.REQUESTED, PaymentStatus.VOIDING}
        case Question.NONE:
            pass


@given(doubtfuls, st.sampled_from(INTENT_STATUSES))
def test_absence_is_never_found_where_the_effect_may_be(doubtful: Doubtful, status: str) -> None:
    if doubtful.operation is Operation.REFUND:
        return
    verdict = decide_by_intent(doubtful, {"id": "pi_1", "status": status})
    if isinstance(verdict, Absent):
        assert doubtful.operation is not Operation.CREATE
        assert status not in {"succeeded", "canceled", "processing"}
        if doubtful.operation is Operation.CAPTURE:
            assert status == "requires_capture"


@given(doubtfuls, st.lists(st.sampled_from(["mine", "mine too", "other", "none", "odd"]), max_size=6))
def test_list_proves_absence_only_without_any_match(doubtful: Doubtful, kinds: list[str]) -> None:
    name = "refundId" if doubtful.operation is Operation.REFUND else "paymentId"
    metadata: dict[str, Any] = {
        "mine": {name: str(doubtful.subject_id)},
        "mine too": {name: str(doubtful.subject_id)},
        "other": {name: str(UUID(int=99))},
        "none": {},
        "odd": None,
    }
    objects = [{"id": f"x_{kind}", "metadata": metadata[kind]} for kind in kinds]
    count = len({kind for kind in kinds if kind.startswith("mine")})
    verdict = decide_by_list(doubtful, objects)
    assert isinstance(verdict, (Absent, Found, Doubled)[count])
    if isinstance(verdict, Found):
        assert len(verdict.objects) == 1  # the same object on two pages is one object


@pytest.mark.parametrize("answer", [{}, {"data": None}, {"data": {}}, {"data": ["pi_1"]}, {"data": [{"object": "x"}]}])
def test_what_is_no_list_of_stripes_proves_nothing(answer: dict[str, Any]) -> None:
    """Somebody in between has answered, a proxy: an empty list would be the proof that nothing was made."""
    with pytest.raises(StripeAway):
        read_page(Answered(answer, 200, "req_1"))
