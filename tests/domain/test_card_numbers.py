"""Card numbers are found however they are written, and nothing else is."""

import time
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from payments.domain.card_numbers import find_card_number

# The numbers that the networks and Stripe publish for tests.
TEST_CARDS = [
    "4242424242424242",
    "4000056655665556",
    "4222222222222",
    "5555555555554444",
    "2223003122003222",
    "2720990000000007",
    "378282246310005",
    "371449635398431",
    "6011111111111117",
    "6011000990139424",
    "6445644564456445",
    "3056930009020004",
    "36227206271667",
    "3566002020360505",
    "6200000000000005",
    "6205500000000000004",
    "6759649826438453",
]
NOT_DIGITS = st.characters(exclude_categories=["Nd", "Nl", "No", "Cs", "Pd", "Zs", "Cf"])


def luhn_digit(payload: str) -> str:
    doubled = [int(digit) * (2 if position % 2 == 0 else 1) for position, digit in enumerate(reversed(payload))]
    return str(-sum(value - 9 if value > 9 else value for value in doubled) % 10)


@st.composite
def cards(draw: st.DrawFn) -> str:
    prefix, length = draw(st.sampled_from([("4", 16), ("4", 19), ("51", 16), ("2221", 16), ("37", 15), ("3528", 16)]))
    middle = draw(st.text("0123456789", min_size=length - len(prefix) - 1, max_size=length - len(prefix) - 1))
    return prefix + middle + luhn_digit(prefix + middle)


@pytest.mark.parametrize("card", TEST_CARDS)
def test_card_number_is_found(card: str) -> None:
    assert find_card_number(card)


@given(cards(), st.text(NOT_DIGITS), st.text(NOT_DIGITS))
def test_card_number_is_found_within_any_text(card: str, before: str, after: str) -> None:
    assert find_card_number(before + card + after)


@given(
    cards(),
    st.data(),
    st.sampled_from(["-", " ", "\u00a0", "\u2011", "\u2013", ".", "/", "_", "\t", "\n", "\r", "\r\n"]),
)
def test_card_number_is_found_in_groups(card: str, data: st.DataObject, separator: str) -> None:
    cuts = sorted(data.draw(st.sets(st.integers(1, len(card) - 1), max_size=6)))
    parts = [card[start:end] for start, end in zip([0, *cuts], [*cuts, len(card)], strict=True)]
    assert find_card_number("card: " + separator.join(parts))
    assert find_card_number("12 " + separator.join(parts) + " 27 123")


@given(cards(), st.sampled_from([0xFF10, 0x0660, 0x0966, 0x1D7CE]))
def test_card_number_is_found_in_digits_of_any_script(card: str, zero: int) -> None:
    assert find_card_number("".join(chr(zero + int(digit)) for digit in card))


def test_card_number_is_found_behind_invisible_characters() -> None:
    assert find_card_number("4242\u200b4242\u200b4242\u200b4242")


@given(cards(), st.integers(1, 9))
def test_card_number_with_a_wrong_last_digit_is_none(card: str, shift: int) -> None:
    assert not find_card_number(card[:-1] + str((int(card[-1]) + shift) % 10))


@given(st.uuids())
def test_card_number_is_never_found_in_a_uuid(value: uuid.UUID) -> None:
    assert not find_card_number(str(value))
    assert not find_card_number(f"payment {value}/{value.hex}")


@pytest.mark.parametrize(
    "text",
    [
        "42424242-4242-4242-4242-424242424242",
        "4242424242424242" * 2,
        "1763832474123456789",
        "2026-11-22 17:28:54.123456",
        "+49 176 1234 5678 9",
        "192.168.100.200, 10.20.30.40/24",
        "22/11/2026 17_28_54.123456",
        "4242  4242  4242  4242",
        "pi_3MtwBwLkdIwHu7ix28a3tqPa",
        "amount 99999999, order 000000000000000000",
        "0" * 16,
        "",
    ],
)
def test_card_number_is_not_seen_in_other_numbers(text: str) -> None:
    assert not find_card_number(text)


@pytest.mark.parametrize("text", ["4" * 200_000, "4 " * 100_000, "4242-" * 40_000, "a1" * 100_000, "-" * 200_000])
def test_card_number_search_takes_linear_time(text: str) -> None:
    started = time.process_time()
    find_card_number(text)
    assert time.process_time() - started < 3  # a quadratic search would take minutes


@pytest.mark.parametrize("card", ["378282246310005", "30569309025904", "4242424242424242"])
def test_a_plus_before_it_makes_no_telephone_number_of_a_card(card: str) -> None:
    assert find_card_number(f"call +{card}")
