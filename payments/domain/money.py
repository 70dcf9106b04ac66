"""Which currencies and amounts may be charged, as Stripe's currency pages state it (https://docs.stripe.com/currencies).

Amounts are integers in the units in which Stripe counts: cents for EUR, whole yen for JPY. They go to Stripe unchanged.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

AMOUNT_MAX = 99_999_999  # Stripe takes eight digits


class Currency(NamedTuple):
    """What Stripe demands of an amount: at least `minimum`, and a multiple of `step`."""

    minimum: int
    step: int = 1


# Stripe converts what it charges to the account's settlement currency; where it names no minimum, one unit will do here
# and Stripe has the last word.
_NO_MINIMUM = 1
_THREE_DECIMALS = Currency(minimum=10, step=10)  # the card networks take two: the last digit must be 0
_NO_DECIMALS_ANY_MORE = Currency(minimum=100, step=100)  # two decimals are counted still; they must be 00

CURRENCIES: Mapping[str, Currency] = MappingProxyType(
    {
        "AED": Currency(200),
        "AUD": Currency(50),
        "BGN": Currency(100),
        "BHD": _THREE_DECIMALS,
        "BRL": Currency(50),
        "CAD": Currency(50),
        "CHF": Currency(50),
        "CLP": Currency(_NO_MINIMUM),
        "CZK": Currency(1_500),
        "DKK": Currency(250),
        "EUR": Currency(50),
        "GBP": Currency(30),
        "HKD": Currency(400),
        "HUF": Currency(17_500),
        "IDR": Currency(_NO_MINIMUM),
        "ILS": Currency(_NO_MINIMUM),
        "INR": Currency(50),
        "ISK": _NO_DECIMALS_ANY_MORE,
        "JOD": _THREE_DECIMALS,
        "JPY": Currency(50),
        "KRW": Currency(_NO_MINIMUM),
        "KWD": _THREE_DECIMALS,
        "MXN": Currency(1_000),
        "MYR": Currency(200),
        "NOK": Currency(300),
        "NZD": Currency(50),
        "OMR": _THREE_DECIMALS,
        "PHP": Currency(_NO_MINIMUM),
        "PLN": Currency(200),
        "RON": Currency(200),
        "SAR": Currency(_NO_MINIMUM),
        "SEK": Currency(300),
        "SGD": Currency(50),
        "THB": Currency(1_000),
        "TND": _THREE_DECIMALS,
        "TRY": Currency(_NO_MINIMUM),
        "TWD": Currency(_NO_MINIMUM),
        "UGX": _NO_DECIMALS_ANY_MORE,
        "USD": Currency(50),
        "VND": Currency(_NO_MINIMUM),
        "ZAR": Currency(_NO_MINIMUM),
    }
)


def decide_currency_fault(currency: str) -> str | None:
    """What is wrong with a currency code, in words for the caller; None when it may be charged."""
    if currency in CURRENCIES:
        return None
    if currency.isascii() and currency.upper() in CURRENCIES:
        return "must be written in capitals, as in ISO 4217"
    return "is not the ISO 4217 code of a currency that can be charged"


def decide_amount_fault(amount: int, currency: str) -> str | None:
    """What is wrong with an amount in a chargeable currency, in words for the caller; None when it may be charged."""
    minimum, step = CURRENCIES[currency]
    if amount < minimum:
        return f"must be at least {minimum} in {currency}"
    if amount > AMOUNT_MAX:
        return f"must be at most {AMOUNT_MAX}"
    if amount % step:
        return f"must be a multiple of {step} in {currency}"
    return None
