"""Finds payment card numbers in free text, so that they are refused at the door and never stored or logged.

A card number is a network's prefix, a length that network issues, and a right Luhn digit; the digits may stand together
or in groups with one space or hyphen between. UUIDs are never looked into. Work is linear in the length of the text.
"""

import re
import unicodedata
from collections.abc import Iterator

# Prefix ranges and lengths of the networks whose cards Stripe takes, and of their neighbours, as the networks publish
# them. A prefix is compared at the width in which it is written.
NETWORKS: tuple[tuple[str, str, frozenset[int]], ...] = (
    ("4", "4", frozenset({13, 16, 19})),  # Visa
    ("51", "55", frozenset({16})),  # Mastercard
    ("2221", "2720", frozenset({16})),  # Mastercard
    ("34", "34", frozenset({15})),  # American Express
    ("37", "37", frozenset({15})),  # American Express
    ("300", "305", frozenset(range(14, 20))),  # Diners Club
    ("3095", "3095", frozenset(range(14, 20))),  # Diners Club
    ("36", "36", frozenset(range(14, 20))),  # Diners Club
    ("38", "39", frozenset(range(14, 20))),  # Diners Club
    ("3528", "3589", frozenset(range(16, 20))),  # JCB
    ("6011", "6011", frozenset(range(16, 20))),  # Discover
    ("622126", "622925", frozenset(range(16, 20))),  # Discover
    ("644", "659999", frozenset(range(16, 20))),  # Discover
    ("62", "62", frozenset(range(16, 20))),  # UnionPay
    ("81", "81", frozenset(range(16, 20))),  # UnionPay
    ("2200", "2204", frozenset(range(16, 20))),  # Mir
    ("5018", "5018", frozenset(range(12, 20))),  # Maestro
    ("5020", "5020", frozenset(range(12, 20))),  # Maestro
    ("5038", "5038", frozenset(range(12, 20))),  # Maestro
    ("5893", "5893", frozenset(range(12, 20))),  # Maestro
    ("6304", "6304", frozenset(range(12, 20))),  # Maestro
    ("6759", "6763", frozenset(range(12, 20))),  # Maestro
)
DIGITS_MIN = 12
DIGITS_MAX = 19

_UUID = re.compile(
    r"(?<![0-9A-Za-z])(?:[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}|[0-9a-f]{32})(?![0-9A-Za-z])",
    re.IGNORECASE | re.ASCII,
)
_RUN = re.compile(r"\d+(?:[ \-\u2010-\u2015\u2212]\d+)*")  # groups of digits, one space or hyphen of any kind between
_GROUP = re.compile(r"\d+")
_INVISIBLE = re.compile("[\u00ad\u200b-\u200f\u2060\ufeff]")


def find_card_number(text: str) -> bool:
    """Tell whether a card number stands anywhere in `text`, in any script's digits."""
    if not text.isascii():
        # NFKC makes full-width and styled digits plain and odd spaces ordinary; other scripts' digits stay \d.
        text = _INVISIBLE.sub("", unicodedata.normalize("NFKC", text))
    if len(text) < DIGITS_MIN:
        return False
    return any(map(_is_card_number, _candidates(_UUID.sub(" | ", text))))


def _candidates(text: str) -> Iterator[str]:
    """Yield every string of whole groups of digits that has a card number's length."""
    for run in _RUN.finditer(text):
        if run.end() - run.start() < DIGITS_MIN:
            continue
        dialled = text[run.start() - 1 : run.start()] == "+"
        groups = [_plain(group) for group in _GROUP.findall(run.group())]
        for first in range(len(groups)):
            digits = ""
            for group in groups[first : first + DIGITS_MAX]:
                digits += group
                if len(digits) > DIGITS_MAX:
                    break
                # '+' and up to 13 digits is a telephone number, one in ten of which has a right Luhn digit.
                if len(digits) >= DIGITS_MIN and not (dialled and first == 0 and len(digits) <= 13):
                    yield digits


def _plain(digits: str) -> str:
    if len(digits) > DIGITS_MAX:
        return "0" * (DIGITS_MAX + 1)  # too long for a card, whatever it is
    return digits if digits.isascii() else "".join(str(unicodedata.decimal(digit)) for digit in digits)


def _is_card_number(digits: str) -> bool:
    for low, high, lengths in NETWORKS:
        if len(digits) in lengths and low <= digits[: len(low)] and digits[: len(high)] <= high:
            return _has_luhn_digit(digits)
    return False


def _has_luhn_digit(digits: str) -> bool:
    total = 0
    for position, digit in enumerate(reversed(digits)):
        value = int(digit) << (position & 1)
        total += value - 9 if value > 9 else value
    return total % 10 == 0
