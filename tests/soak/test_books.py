"""What the books say of what callers were told: each accepted wish comes true, whatever happened meanwhile."""

from typing import Any

import pytest

from soak.books import DOUBLED, LOST, UNBALANCED, Payment, Refund, _against_callers, _against_refunds
from soak.lives import LIVES, Told

BY_NAME = {life.name: life for life in LIVES}
BODY = {"amount": 1_000, "currency": "EUR"}
Answer = tuple[str, dict[str, Any], int, dict[str, Any]]
VOID: Answer = ("void", {}, 202, {})
NO_VOID: Answer = ("void", {}, 409, {})
CAPTURE: Answer = ("capture", {}, 202, {})
NO_CAPTURE: Answer = ("capture", {}, 409, {})
HALF: Answer = ("capture", {"amount": 500}, 202, {})
REFUND: Answer = ("refunds", {}, 201, {"refundId": "r", "amount": 1_000})
GIVEN_BACK = Refund("r", "p", 1_000, "PROCESSED", "re_1", external=False)


def told(life: str, *answers: Answer) -> Told:
    known = Told(BY_NAME[life], BODY)
    for answer in answers:
        known.hear(*answer)
    return known


def kinds(known: Told, status: str, captured: int = 0, *refunds: Refund) -> list[str]:
    refunded = sum(one.amount for one in refunds if one.status == "PROCESSED") if captured else 0
    row = Payment("p", status, 1_000, "EUR", captured, refunded, "pi_1", None)
    return [fault.kind for fault in _against_callers("p", known, {"p": row}, list(refunds))]


@pytest.mark.parametrize(
    ("life", "answers", "end", "expected"),
    [
        # A void that was accepted, and the money is kept.
        ("charge voided at once", [VOID], ("SUCCEEDED", 1_000), [LOST]),
        ("voided while paying", [VOID, VOID], ("SUCCEEDED", 1_000), [LOST]),
        ("charge voided at once", [VOID], ("SUCCEEDED", 1_000, GIVEN_BACK._replace(amount=400)), [LOST]),
        ("charge voided at once", [VOID], ("SUCCEEDED", 1_000, GIVEN_BACK._replace(status="FAILED")), [LOST]),
        # Both.
        ("capture against void", [CAPTURE, VOID], ("SUCCEEDED", 1_000), [LOST, LOST]),
        ("capture against void", [CAPTURE, VOID], ("SUCCEEDED", 1_000, GIVEN_BACK), [LOST]),
        ("capture against void", [CAPTURE, VOID], ("VOIDED",), [LOST, LOST]),
        # A capture that was accepted, and nothing or another amount is captured.
        ("capture against void", [CAPTURE, NO_VOID], ("VOIDED",), [UNBALANCED, LOST]),
        ("hold captured in part", [HALF], ("SUCCEEDED", 1_000), [UNBALANCED]),
        ("hold captured", [CAPTURE], ("SUCCEEDED", 500), [UNBALANCED]),
        ("hold captured", [CAPTURE], ("AUTHORIZED",), [UNBALANCED, LOST]),
        ("hold captured", [CAPTURE, HALF], ("SUCCEEDED", 500), [UNBALANCED]),
        # What was refused, or what nobody asked for.
        ("capture against void", [NO_CAPTURE, VOID], ("SUCCEEDED", 1_000, GIVEN_BACK), [UNBALANCED]),
        ("capture against void", [NO_CAPTURE, NO_VOID], ("AUTHORIZED",), [UNBALANCED]),
        ("charge voided at once", [NO_VOID], ("VOIDED",), [UNBALANCED]),
        ("charge voided at once", [NO_VOID], ("SUCCEEDED", 1_000, GIVEN_BACK), [DOUBLED]),
        ("charged", [], ("SUCCEEDED", 1_000, GIVEN_BACK), [DOUBLED]),
    ],
)
def test_accepted_wish_that_is_lost_is_a_fault(life: str, answers: Any, end: Any, expected: list[str]) -> None:
    assert kinds(told(life, *answers), *end) == expected


@pytest.mark.parametrize(
    ("life", "answers", "end"),
    [
        ("charge voided at once", [VOID], ("VOIDED",)),
        ("charge voided at once", [VOID, VOID], ("SUCCEEDED", 1_000, GIVEN_BACK)),
        ("charge voided at once", [VOID], ("VOIDED", 0, GIVEN_BACK)),  # the money came after the end
        ("charge voided at once", [NO_VOID], ("SUCCEEDED", 1_000)),
        ("charge voided at once", [NO_VOID, VOID], ("VOIDED",)),
        ("hold voided", [VOID], ("VOIDED",)),
        ("capture against void", [NO_CAPTURE, VOID], ("VOIDED",)),
        ("capture against void", [CAPTURE, CAPTURE, NO_VOID], ("SUCCEEDED", 1_000)),
        ("hold captured in part", [HALF, HALF], ("SUCCEEDED", 500)),
        ("refunded in the Dashboard", [], ("SUCCEEDED", 1_000, GIVEN_BACK._replace(external=True))),
    ],
)
def test_end_that_an_answer_allows_is_none(life: str, answers: Any, end: Any) -> None:
    assert kinds(told(life, *answers), *end) == []


def test_refund_that_was_answered_is_there_with_its_amount() -> None:
    known = told("refunded", REFUND, REFUND, ("refunds", {}, 409, {}))
    assert kinds(known, "SUCCEEDED", 1_000, GIVEN_BACK) == []
    assert kinds(known, "SUCCEEDED", 1_000) == [LOST]
    assert kinds(known, "SUCCEEDED", 1_000, GIVEN_BACK._replace(amount=999)) == [LOST]
    assert kinds(known, "SUCCEEDED", 1_000, GIVEN_BACK, GIVEN_BACK._replace(refund_id="r2", amount=0)) == [DOUBLED]


def test_refund_that_was_never_made_needs_another_that_took_its_money() -> None:
    refused = GIVEN_BACK._replace(status="FAILED", reference=None)
    elsewhere = Refund("r2", "p", 700, "PROCESSED", "re_2", external=True)
    theirs = [{"id": "re_2", "amount": 700, "status": "succeeded", "metadata": {}}]
    assert [fault.kind for fault in _against_refunds("p", [], [refused])] == [LOST]
    assert list(_against_refunds("p", theirs, [refused, elsewhere])) == []
    failed_there = [{"id": "re_1", "amount": 1_000, "status": "failed", "metadata": {"refundId": "r"}}]
    assert list(_against_refunds("p", failed_there, [GIVEN_BACK._replace(status="FAILED")])) == []
