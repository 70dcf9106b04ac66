"""A payment's books while a batch is weighed: what its refunds have reserved is right after each of them."""

from uuid import UUID

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from payments.domain.payment import Payment
from payments.domain.refunds import Refund, RefundStatus
from payments.inbox.books import Locked
from tests.domain.deciding import payment

CHANGES = st.lists(st.tuples(st.integers(0, 3), st.integers(1, 1000), st.sampled_from(RefundStatus)), max_size=12)


def refund(of: Payment, number: int, amount: int, status: RefundStatus) -> Refund:
    return Refund(
        refund_id=UUID(int=number),
        payment_id=of.payment_id,
        amount=amount,
        currency=of.currency,
        reason=None,
        status=status,
        processor_reference=None,
        failure_reason=None,
        external=False,
    )


@given(CHANGES)
def test_reserved_is_the_sum_of_the_refunds_that_have_not_failed(changes: list[tuple[int, int, RefundStatus]]) -> None:
    books = Locked(msgspec.structs.replace(payment(), amount_captured=10_000), last_sequence=1)
    for number, amount, status in changes:
        books.keep_refund(refund(books.payment, number, amount, status))
        alive = [one.amount for one in books.refunds.values() if one.status is not RefundStatus.FAILED]
        assert books.payment.amount_reserved == sum(alive)
