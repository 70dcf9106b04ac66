"""Currencies and amounts (https://docs.stripe.com/currencies)."""

from __future__ import annotations

from stripe_sandbox.errors import StripeError, invalid

# https://docs.stripe.com/currencies#presentment-currencies
_SUPPORTED = (
    "usd aed afn all amd ang aoa ars aud awg azn bam bbd bdt bgn bhd bif bmd bnd bob brl bsd bwp byn bzd cad cdf chf "
    "clp cny cop crc cve czk djf dkk dop dzd egp etb eur fjd fkp gbp gel gip gmd gnf gtq gyd hkd hnl htg huf idr ils "
    "inr isk jmd jod jpy kes kgs khr kmf krw kwd kyd kzt lak lbp lkr lrd lsl mad mdl mga mkd mmk mnt mop mur mvr mwk "
    "mxn myr mzn nad ngn nio nok npr nzd omr pab pen pgk php pkr pln pyg qar ron rsd rub rwf sar sbd scr sek sgd shp "
    "sle sos srd std szl thb tjs tnd top try ttd twd tzs uah ugx uyu uzs vnd vuv wst xaf xcd xof xpf yer zar zmw"
)
SUPPORTED = frozenset(_SUPPORTED.split())

# https://docs.stripe.com/currencies#zero-decimal
_ZERO_DECIMAL = "bif clp djf gnf jpy kmf krw mga pyg rwf vnd vuv xaf xof xpf"
ZERO_DECIMAL = frozenset(_ZERO_DECIMAL.split())

# https://docs.stripe.com/currencies#three-decimal: the last digit must be 0.
THREE_DECIMAL = frozenset(("bhd", "jod", "kwd", "omr", "tnd"))

# https://docs.stripe.com/currencies#special-cases: two decimals that must be 00.
WHOLE_UNITS = frozenset(("isk", "ugx"))

# https://docs.stripe.com/currencies#minimum-and-maximum-charge-amounts. For the others Stripe converts to the
# settlement currency's minimum; the sandbox has no exchange rates and asks for 1.
MINIMUM = {
    "usd": 50, "aed": 200, "aud": 50, "bgn": 100, "brl": 50, "cad": 50, "chf": 50, "czk": 1500, "dkk": 250,
    "eur": 50, "gbp": 30, "hkd": 400, "huf": 17500, "inr": 50, "jpy": 50, "mxn": 1000, "myr": 200, "nok": 300,
    "nzd": 50, "pln": 200, "ron": 200, "sek": 300, "sgd": 50, "thb": 1000,
}  # fmt: skip

# Eight digits; IDR is the documented exception with twelve.
MAXIMUM = 99_999_999
MAXIMUM_IDR = 999_999_999_999


def check_currency(value: str) -> str:
    """The lower-case code; raises StripeError for one Stripe doesn't take."""
    code = value.lower()
    if code not in SUPPORTED:
        listed = ", ".join(sorted(SUPPORTED))
        raise invalid(
            f"Invalid currency: {value}. Stripe currently supports these currencies: {listed}", param="currency"
        )
    return code


def check_amount(amount: int, currency: str) -> None:
    """Raise StripeError when the amount is outside the currency's limits."""
    if amount < 1:
        text = "This value must be greater than or equal to 1."
        raise invalid(text, code="parameter_invalid_integer", param="amount")
    least = MINIMUM.get(currency, 1)
    if amount < least:
        raise _limit("amount_too_small", f"Amount must be at least {shown(least, currency)}")
    most = MAXIMUM_IDR if currency == "idr" else MAXIMUM
    if amount > most:
        raise _limit("amount_too_large", f"Amount must be no more than {shown(most, currency)}")
    if (currency in THREE_DECIMAL and amount % 10) or (currency in WHOLE_UNITS and amount % 100):
        step = 10 if currency in THREE_DECIMAL else 100
        text = f"Invalid amount: amounts in {currency} must be a multiple of {step}."
        raise invalid(text, code="invalid_charge_amount", param="amount")


def _limit(code: str, message: str) -> StripeError:
    return invalid(message, code=code, param="amount")


def shown(amount: int, currency: str) -> str:
    """An amount as Stripe's messages print it: ``$0.50 usd``."""
    if currency in ZERO_DECIMAL:
        text = f"{amount:,}"
    elif currency in THREE_DECIMAL:
        text = f"{amount // 1000:,}.{amount % 1000:03d}"
    else:
        text = f"{amount // 100:,}.{amount % 100:02d}"
    sign = {"usd": "$", "eur": "€", "gbp": "£", "jpy": "¥"}.get(currency, "")
    return f"{sign}{text} {currency}"
