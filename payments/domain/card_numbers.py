"""Finds payment card numbers in free text, so that they are refused at the door and never stored or logged.

A card number is a network's prefix, a length that network issues, and a right Luhn digit; the digits may stand together
or in groups with one space, hyphen, dot, slash, underscore, tab or line end between. UUIDs are never looked into. Work
is linear in the length of the text.
"""

import re
import unicodedata
from itertools import accumulate

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
DIALLED_DIGITS_MAX = 13  # '+' and up to 13 digits is a telephone number, one in ten of which has a right Luhn digit

# The networks by their first digit: most groups of digits are dismissed by it.
_BY_FIRST_DIGIT = {
    first: [network for network in NETWORKS if network[0][0] == first] for first in {low[0] for low, _, _ in NETWORKS}
}
_UUID = re.compile(
    r"(?<![0-9A-Za-z])(?:[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}|[0-9a-f]{32})(?![0-9A-Za-z])",
    re.IGNORECASE | re.ASCII,
)
_RUN = re.compile(r"\d+(?:(?:\r\n|[ \-\u2010-\u2015\u2212./_\t\r\n])\d+)*")  # groups of digits, one separator between
_GROUP = re.compile(r"\d+")
_INVISIBLE = re.compile("[\u00ad\u200b-\u200f\u2060\ufeff]")


def find_card_number(text: str) -> bool:
    """Tell whether a card number stands anywhere in `text`, in any script's digits."""
    if not text.isascii():
        # NFKC makes full-width and styled digits plain and odd spaces ordinary; other scripts' digits stay \d.
        text = _INVISIBLE.sub("", unicodedata.normalize("NFKC", text))
    if len(text) < DIGITS_MIN:
        return False
    text = _UUID.sub(" | ", text)
    return any(_holds_card_number(text, run) for run in _RUN.finditer(text) if run.end() - run.start() >= DIGITS_MIN)


def _holds_card_number(text: str, run: re.Match[str]) -> bool:
    """Tell whether whole groups of `run` make up a card number."""
    groups = [_plain(group) for group in _GROUP.findall(run.group())]
    digits = "".join(groups)
    ends = list(accumulate(len(group) for group in groups))
    are_ends = set(ends)
    dialled = text[run.start() - 1 : run.start()] == "+"
    luhn: _LuhnSums | None = None
    for start in (0, *ends[:-1]):
        for length in _lengths(digits, start):
            if start + length not in are_ends or (dialled and start == 0 and length <= DIALLED_DIGITS_MAX):
                continue
            luhn = luhn or _LuhnSums(digits)
            if luhn.is_right(start, start + length):
                return True
    return False


def _lengths(digits: str, start: int) -> frozenset[int]:
    """Return the lengths of the cards that begin as `digits` do at `start`."""
    for low, high, lengths in _BY_FIRST_DIGIT.get(digits[start], ()):
        if low <= digits[start : start + len(low)] and digits[start : start + len(high)] <= high:
            return lengths
    return frozenset()


class _LuhnSums:
    """Running sums of digits, every other one doubled: any stretch is then checked in one step."""

    def __init__(self, digits: str) -> None:
        values = [int(digit) for digit in digits]
        doubled = [2 * value - 9 if value > 4 else 2 * value for value in values]
        self._plain_at_even = self._sums(values, doubled)
        self._plain_at_odd = self._sums(doubled, values)

    @staticmethod
    def _sums(at_even: list[int], at_odd: list[int]) -> list[int]:
        picked = (at_odd[place] if place % 2 else even for place, even in enumerate(at_even))
        return list(accumulate(picked, initial=0))

    def is_right(self, start: int, end: int) -> bool:
        """Tell whether the digits from `start` to before `end` end in their Luhn digit, which itself counts plain."""
        sums = self._plain_at_even if end % 2 else self._plain_at_odd
        return (sums[end] - sums[start]) % 10 == 0


def _plain(digits: str) -> str:
    return digits if digits.isascii() else "".join(str(unicodedata.decimal(digit)) for digit in digits)
