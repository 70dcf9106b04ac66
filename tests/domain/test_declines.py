"""Stripe's codes come to our four reasons, as docs/decline-codes.md says."""

import re
from pathlib import Path

import pytest

from payments.domain.declines import REASONS, FailureReason, is_about_payment, read_failure
from payments.domain.facts import ErrorFacts
from payments.outbox.events import PaymentFailed

PAGE = Path(__file__).parents[2] / "docs" / "decline-codes.md"
ROW = re.compile(r"^\| `([a-z_]+)` \| ([A-Z_]+) \|$", re.MULTILINE)


def test_page_shows_the_whole_table_and_nothing_else() -> None:
    shown = ROW.findall(PAGE.read_text())
    assert shown == sorted((code, reason.value) for code, reason in REASONS.items())


def test_reasons_are_those_of_the_contract() -> None:
    contract = PaymentFailed.__annotations__["reason"]
    assert set(contract.__args__) == {reason.value for reason in FailureReason}


@pytest.mark.parametrize(
    ("error", "reason", "code"),
    [
        (ErrorFacts("card_error", "card_declined", "insufficient_funds"), "INSUFFICIENT_FUNDS", "insufficient_funds"),
        (ErrorFacts("card_error", "card_declined", "generic_decline"), "CARD_DECLINED", "generic_decline"),
        (ErrorFacts("card_error", "card_declined", "lost_card"), "CARD_DECLINED", "lost_card"),
        (ErrorFacts("card_error", "card_declined", "of_tomorrow"), "CARD_DECLINED", "of_tomorrow"),
        (ErrorFacts("card_error", "card_declined"), "CARD_DECLINED", "card_declined"),
        (ErrorFacts("card_error", "expired_card"), "EXPIRED_CARD", "expired_card"),
        (ErrorFacts("card_error", "expired_card", "expired_card"), "EXPIRED_CARD", "expired_card"),
        (ErrorFacts("card_error", "processing_error"), "PROCESSING_ERROR", "processing_error"),
        (ErrorFacts("card_error", "incorrect_cvc"), "CARD_DECLINED", "incorrect_cvc"),
        (ErrorFacts("card_error", "of_tomorrow"), "CARD_DECLINED", "of_tomorrow"),
        (ErrorFacts("api_error", "of_tomorrow"), "PROCESSING_ERROR", "of_tomorrow"),
        (ErrorFacts(), "PROCESSING_ERROR", None),
    ],
)
def test_failure_is_read_from_the_most_exact_code(error: ErrorFacts, reason: str, code: str | None) -> None:
    failure = read_failure(error)
    assert (failure.reason.value, failure.decline_code) == (reason, code)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ErrorFacts(param="payment_method"), True),
        (ErrorFacts(param="payment_method[card]"), True),
        (ErrorFacts(param="customer"), True),
        (ErrorFacts(code="amount_too_small"), True),
        (ErrorFacts(code="resource_missing", param="payment_method"), True),
        (ErrorFacts(code="resource_missing"), False),
        (ErrorFacts(type="card_error"), True),
        (ErrorFacts("invalid_request_error", "parameter_unknown", param="confrim"), False),
        (ErrorFacts("invalid_request_error", "testmode_charges_only"), False),
        (ErrorFacts(), False),
    ],
)
def test_refusal_is_about_the_payment_or_about_the_call(error: ErrorFacts, expected: bool) -> None:  # noqa: FBT001
    assert is_about_payment(error) is expected
