"""Wishes to capture, void and refund: what may be, what was asked before, and that no order of them costs money."""

from typing import Any
from uuid import UUID

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from payments.domain.money import AMOUNT_MAX, CURRENCIES
from payments.domain.states import TRANSITIONS, EventType, PaymentStatus, may_change
from payments.domain.wishes import (
    AlreadyAsked,
    CaptureWish,
    LockedPayment,
    RefundWish,
    Refused,
    StartCapture,
    StartRefund,
    StartVoid,
    decide_capture,
    decide_refund,
    decide_void,
)

_S = PaymentStatus
CART, ORDER = UUID(int=1), UUID(int=2)
HELD = (_S.AUTHORIZED, _S.CAPTURING)

amounts = st.integers(1, AMOUNT_MAX)
captures = st.builds(CaptureWish, amount=st.none() | amounts, order_id=st.none() | st.sampled_from([CART, ORDER]))
refunds = st.builds(RefundWish, amount=st.none() | amounts, reason=st.none() | st.text(max_size=5))


@st.composite
def payments(draw: st.DrawFn, statuses: tuple[PaymentStatus, ...] = tuple(_S)) -> LockedPayment:
    """Rows that the database would keep."""
    status, currency = draw(st.sampled_from(statuses)), draw(st.sampled_from(["EUR", "KWD", "ISK", "JPY"]))
    amount = draw(st.integers(1, AMOUNT_MAX // 100)) * 100
    method = "manual" if status in HELD else draw(st.sampled_from(["automatic", "manual"]))
    captured = draw(st.integers(1, amount)) if status is _S.SUCCEEDED else 0
    return LockedPayment(
        status=status,
        capture_method=method,
        order_id=draw(st.sampled_from([CART, ORDER])),
        currency=currency,
        amount=amount,
        amount_authorized=amount if status in HELD or captured else 0,
        amount_captured=captured,
        amount_reserved=draw(st.integers(0, captured)),
        amount_to_capture=draw(st.integers(1, amount)) if status is _S.CAPTURING else None,
    )


def payment(status: PaymentStatus, **fields: Any) -> LockedPayment:
    base = {"capture_method": "manual", "order_id": CART, "currency": "EUR", "amount": 1000}
    more: dict[PaymentStatus, dict[str, Any]] = {
        _S.AUTHORIZED: {"amount_authorized": 1000},
        _S.CAPTURING: {"amount_authorized": 1000, "amount_to_capture": 600},
        _S.SUCCEEDED: {"amount_authorized": 1000, "amount_captured": 600},
    }
    return LockedPayment(**{**base, **more.get(status, {}), "status": status, **fields})


@given(payments(), captures)
def test_a_capture_begins_only_on_a_hold_and_within_it(row: LockedPayment, wish: CaptureWish) -> None:
    decision = decide_capture(row, wish)
    if isinstance(decision, StartCapture):
        assert row.status is _S.AUTHORIZED
        assert 1 <= decision.amount <= row.amount_authorized
        assert decision.amount % CURRENCIES[row.currency].step == 0
        assert decision.order_id == (wish.order_id or row.order_id)
        assert may_change(row.status, _S.CAPTURING)


@given(payments((_S.AUTHORIZED,)), captures)
def test_a_hold_is_captured_unless_too_much_or_an_odd_sum_is_asked_for(row: LockedPayment, wish: CaptureWish) -> None:
    decision = decide_capture(row, wish)
    amount = row.amount_authorized if wish.amount is None else wish.amount
    if amount > row.amount_authorized:
        assert isinstance(decision, Refused)
        assert decision.code == "amount_exceeds_authorized"
    elif amount % CURRENCIES[row.currency].step:
        assert isinstance(decision, Refused)
        assert (decision.code, decision.field) == ("invalid_request", "amount")
    else:
        assert decision == StartCapture(amount, wish.order_id or row.order_id)


@given(payments((_S.AUTHORIZED,)), captures, captures)
def test_after_a_capture_the_same_is_no_news_and_any_other_is_refused(
    row: LockedPayment, first: CaptureWish, second: CaptureWish
) -> None:
    begun = decide_capture(row, first)
    if not isinstance(begun, StartCapture):
        return
    capturing = msgspec.structs.replace(
        row, status=_S.CAPTURING, amount_to_capture=begun.amount, order_id=begun.order_id
    )
    succeeded = msgspec.structs.replace(capturing, status=_S.SUCCEEDED, amount_captured=begun.amount)
    amount = row.amount_authorized if second.amount is None else second.amount
    is_same = (amount, second.order_id or begun.order_id) == (begun.amount, begun.order_id)
    for after in (capturing, succeeded):
        assert decide_capture(after, first) == AlreadyAsked()
        again = decide_capture(after, second)
        assert isinstance(again, AlreadyAsked if is_same else Refused)
        assert isinstance(decide_void(after), Refused)


@given(payments(), captures)
def test_a_void_begins_where_the_table_of_states_says_so_and_then_nothing_is_captured(
    row: LockedPayment, wish: CaptureWish
) -> None:
    decision = decide_void(row)
    ways = TRANSITIONS[row.status]
    assert isinstance(decision, StartVoid) == (_S.VOIDING in ways)
    if isinstance(decision, StartVoid):
        assert decision.publishes == (ways[_S.VOIDING] is EventType.VOID_REQUESTED)
        voiding = msgspec.structs.replace(row, status=_S.VOIDING)
        assert decide_void(voiding) == AlreadyAsked()
        assert isinstance(decide_capture(voiding, wish), Refused)
        assert isinstance(decide_refund(voiding, RefundWish()), Refused)


@given(payments((_S.SUCCEEDED,)), st.lists(refunds, max_size=12))
def test_refunds_never_give_back_more_than_was_captured(row: LockedPayment, wishes: list[RefundWish]) -> None:
    for wish in wishes:
        left = row.amount_captured - row.amount_reserved
        match decide_refund(row, wish):
            case StartRefund(amount):
                assert amount > 0
                assert wish.amount in {None, amount}
                assert wish.amount is not None or amount == left
                row = msgspec.structs.replace(row, amount_reserved=row.amount_reserved + amount)
            case Refused(code):
                asked = left if wish.amount is None else wish.amount
                assert code == ("amount_exceeds_captured" if asked > left or not left else "invalid_request")
        assert row.amount_reserved <= row.amount_captured


def test_a_refund_of_all_that_is_left_is_the_largest() -> None:
    row = payment(_S.SUCCEEDED, amount_captured=1000, amount_reserved=400)
    assert decide_refund(row, RefundWish(amount=600)) == StartRefund(600)
    too_much = decide_refund(row, RefundWish(amount=601))
    assert isinstance(too_much, Refused)
    assert too_much.code == "amount_exceeds_captured"


@given(payments(), refunds)
def test_only_what_was_charged_is_refunded(row: LockedPayment, wish: RefundWish) -> None:
    decision = decide_refund(row, wish)
    if row.status is not _S.SUCCEEDED:
        assert isinstance(decision, Refused)
        assert decision.code == "not_refundable"


@pytest.mark.parametrize("status", list(_S))
def test_every_refusal_says_why(status: PaymentStatus) -> None:
    for method in ("automatic", "manual"):
        row = payment(status, capture_method=method)
        decisions = decide_capture(row, CaptureWish(amount=7)), decide_void(row), decide_refund(row, RefundWish())
        for decision in decisions:
            assert not isinstance(decision, Refused) or decision.why.endswith(".")


@pytest.mark.parametrize(
    ("status", "word"),
    [(_S.SUCCEEDED, "refund"), (_S.CAPTURING, "refund"), (_S.FAILED, "failed"), (_S.EXPIRED, "expired")],
)
def test_a_void_that_comes_too_late_is_told_what_to_do(status: PaymentStatus, word: str) -> None:
    decision = decide_void(payment(status))
    assert isinstance(decision, Refused)
    assert (decision.code, word in decision.why) == ("not_voidable", True)


@pytest.mark.parametrize("status", [_S.AUTHORIZED, _S.REQUESTED, _S.ACTION_REQUIRED, _S.PROCESSING])
def test_a_refund_that_comes_too_early_is_told_to_void(status: PaymentStatus) -> None:
    decision = decide_refund(payment(status), RefundWish())
    assert isinstance(decision, Refused)
    assert (decision.code, "void" in decision.why) == ("not_refundable", True)


def test_a_payment_that_was_charged_at_once_has_no_hold_to_capture() -> None:
    row = payment(_S.SUCCEEDED, capture_method="automatic", amount_captured=1000)
    decision = decide_capture(row, CaptureWish())
    assert isinstance(decision, Refused)
    assert (decision.code, "automatic" in decision.why) == ("not_capturable", True)


def test_what_the_dashboard_left_may_be_given_back_whole() -> None:
    row = payment(_S.SUCCEEDED, currency="KWD", amount_captured=1000, amount_reserved=995)
    assert decide_refund(row, RefundWish()) == StartRefund(5)
    assert decide_refund(row, RefundWish(amount=5)) == StartRefund(5)
    odd = decide_refund(row, RefundWish(amount=3))
    assert isinstance(odd, Refused)
    assert odd.field == "amount"
