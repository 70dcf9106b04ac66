"""Fields of request bodies: taken out one by one, strictly, each fault noted; nothing is repaired."""

import re
from collections.abc import Collection
from typing import Any
from uuid import UUID

from payments.api.problems import Fault, Refusal
from payments.api.strict_json import Inexact, JsonFault, decode, strings_of
from payments.domain.card_numbers import find_card_number
from payments.domain.money import AMOUNT_MAX, decide_amount_fault, decide_currency_fault

PAYMENT_METHOD = re.compile(r"pm_[A-Za-z0-9_]{1,250}"), "payment method token of Stripe's, pm_…"
CUSTOMER = re.compile(r"cus_[A-Za-z0-9_]{1,250}"), "customer of Stripe's, cus_…"
METADATA_KEYS_MAX = 20
METADATA_KEY_CHARACTERS_MAX = 40
METADATA_VALUE_CHARACTERS_MAX = 500
# The search for card numbers costs time. No right body has more text than this, and any other is refused anyway.
SEARCHED_CHARACTERS_MAX = 12_288
FAULTS_MAX = 50  # enough to mend a body; a hostile one gets no longer answer than that

# The hyphenated form of RFC 9562, which is what `format: uuid` of JSON Schema means; any version, any case.
CANONICAL_UUID = re.compile(r"[0-9A-Fa-f]{8}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{12}")
_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")  # PostgreSQL keeps neither NUL nor lone surrogates
_SHOWABLE = re.compile(r"[^A-Za-z0-9_.\-]")
_NAME_SHOWN_CHARACTERS_MAX = 40


def open_body(body: bytes, known: Collection[str], required: Collection[str] = ()) -> "Reader":
    """A reader of the object that a body holds.

    Raises Refusal: malformed_json, card_number_not_allowed, invalid_request.
    """
    try:
        document = decode(body)
    except JsonFault as fault:
        raise Refusal("malformed_json", f"The body cannot be read: {fault}.", errors=(Fault("", str(fault)),)) from None
    refuse_card_numbers(document, known)
    if not isinstance(document, dict):
        raise _invalid([Fault("", "must be an object")])
    faults = [Fault(f"/{name}", "is required") for name in required if name not in document]
    faults += [Fault(f"/{shown(name)}", "is not a known field") for name in document if name not in known]
    return Reader(document, faults)


def refuse_card_numbers(document: Any, names: Collection[str]) -> None:
    """Raises Refusal when a card number stands anywhere in a document, keys and numbers included."""
    if not _holds_card_number(document):
        return
    fields = document if isinstance(document, dict) else {}
    places = [name for name in names if name in fields and _holds_card_number(fields[name])]
    raise Refusal(
        "card_number_not_allowed",
        "The body holds what looks like a card number. Send a token (pm_…) instead; nothing was recorded.",
        errors=tuple(Fault(f"/{name}", "holds what looks like a card number") for name in places),
    )


def _holds_card_number(document: Any) -> bool:
    left = SEARCHED_CHARACTERS_MAX
    for text in strings_of(document):
        if find_card_number(text[:left]):
            return True
        left -= len(text)
        if left <= 0:
            break
    return False


def shown(name: str) -> str:
    """A sender's field name, harmless enough to stand in an answer."""
    short = name[:_NAME_SHOWN_CHARACTERS_MAX]
    return _SHOWABLE.sub("?", short) + ("…" if len(name) > len(short) else "")


def _invalid(faults: list[Fault]) -> Refusal:
    count = "One rule is" if len(faults) == 1 else f"{len(faults)} rules are"
    return Refusal("invalid_request", f"{count} broken; nothing was recorded.", errors=tuple(faults[:FAULTS_MAX]))


class Reader:
    """Takes fields out of a document and notes what is wrong with them; what it returns then is never used."""

    def __init__(self, document: dict[str, Any], faults: list[Fault]) -> None:
        self._document = document
        self._faults = faults

    def close(self) -> None:
        """Raises Refusal invalid_request when anything was wrong."""
        if self._faults:
            raise _invalid(self._faults)

    def _fault(self, name: str, detail: str) -> None:
        self._faults.append(Fault(f"/{name}", detail))

    def _text(self, name: str) -> str | None:
        """The field's string; None when it is absent or, noted, no string."""
        if name not in self._document:
            return None
        value = self._document[name]
        if not isinstance(value, str):
            self._fault(name, f"must be a string, not {_kind(value)}")
            return None
        if _UNSTORABLE.search(value):
            self._fault(name, "holds NUL or a lone surrogate")
            return None
        return value

    def uuid(self, name: str, default: UUID | None = None) -> Any:
        """A UUID in its hyphenated form, else the default."""
        text = self._text(name)
        if text is None:
            return default
        if not CANONICAL_UUID.fullmatch(text):
            self._fault(name, "must be a UUID such as 0197f2c4-0000-7000-8000-000000000000")
            return default
        return UUID(text)

    def money(self) -> tuple[int, str]:
        """Amount and currency, which are judged together."""
        currency, currency_fault = self._text("currency"), None
        if currency is not None and (currency_fault := decide_currency_fault(currency)):
            self._fault("currency", currency_fault)
        amount = self._document.get("amount")
        if "amount" in self._document and (fault := _integer_fault(amount)):
            self._fault("amount", fault)
            amount = None
        if amount is None or currency is None or currency_fault:
            return 0, ""
        if fault := decide_amount_fault(amount, currency):
            self._fault("amount", fault)
        return amount, currency

    def word(self, name: str, words: tuple[str, ...]) -> str:
        """One of a few words; the first when it is absent."""
        text = self._text(name)
        if text is not None and text not in words:
            self._fault(name, f"must be one of {', '.join(words)}")
        return words[0] if text is None else text

    def amount(self) -> int | None:
        """An amount in the currency of something that is there already; None when it is absent."""
        if "amount" not in self._document:
            return None
        if fault := _integer_fault(self._document["amount"]):
            self._fault("amount", fault)
            return None
        return int(self._document["amount"])

    def free_text(self, name: str, characters_max: int, reserved: Collection[str] = ()) -> str | None:
        """Words of the caller's own."""
        text = self._text(name)
        if text is not None and not 1 <= len(text) <= characters_max:
            self._fault(name, f"must have 1 to {characters_max} characters")
        elif text in reserved:
            self._fault(name, f"may not be {text!r}, which is the service's own")
        return text

    def token(self, name: str, shape: "re.Pattern[str]", what: str) -> str | None:
        """A token of Stripe's."""
        text = self._text(name)
        if text is not None and not shape.fullmatch(text):
            self._fault(name, f"must be a {what}")
        return text

    def metadata(self) -> dict[str, str]:
        """Up to METADATA_KEYS_MAX pairs of text."""
        value = self._document.get("metadata", {})
        if not isinstance(value, dict):
            self._fault("metadata", f"must be an object, not {_kind(value)}")
            return {}
        if len(value) > METADATA_KEYS_MAX:
            self._fault("metadata", f"must have at most {METADATA_KEYS_MAX} keys")
            return {}
        for key, text in value.items():
            if fault := _metadata_fault(key, text):
                self._fault(f"metadata/{shown(key)}", fault)
        return value


def _integer_fault(value: Any) -> str | None:
    match value:
        case bool():
            return "must be an integer, not true or false"
        case int():
            return _range_fault(value)
        case Inexact(text) if text.lstrip("-").isdigit():  # too long to convert, and so beyond any bound
            return _range_fault(-1 if text.startswith("-") else AMOUNT_MAX + 1)
        case Inexact():
            return "must be an integer in minor units, without fraction or exponent"
        case _:
            return f"must be an integer in minor units, not {_kind(value)}"


def _range_fault(value: int) -> str | None:
    if value <= 0:
        return "must be above 0"
    return f"must be at most {AMOUNT_MAX}" if value > AMOUNT_MAX else None


def _metadata_fault(key: str, value: Any) -> str | None:
    if not 1 <= len(key) <= METADATA_KEY_CHARACTERS_MAX:
        return f"is a key of other than 1 to {METADATA_KEY_CHARACTERS_MAX} characters"
    if not isinstance(value, str):
        return f"must be a string, not {_kind(value)}"
    if len(value) > METADATA_VALUE_CHARACTERS_MAX:
        return f"must have at most {METADATA_VALUE_CHARACTERS_MAX} characters"
    if _UNSTORABLE.search(key) or _UNSTORABLE.search(value):
        return "holds NUL or a lone surrogate"
    return None


def _kind(value: Any) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "true or false"
        case int() | Inexact():
            return "a number"
        case str():
            return "a string"
        case list():
            return "an array"
        case _:
            return "an object"
