"""What each call takes, as data, and its validation (https://docs.stripe.com/error-codes#parameter-unknown and after).

Validation precedes execution, so its 400s are never kept by the idempotency layer
(https://docs.stripe.com/api/idempotent_requests).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from stripe_sandbox.errors import Json, invalid

# https://docs.stripe.com/api/metadata
METADATA_KEYS_MAX = 50
METADATA_KEY_LENGTH_MAX = 40
METADATA_VALUE_LENGTH_MAX = 500
STRING_LENGTH_MAX = 5000
INTEGER_MAX = 2**63 - 1


@dataclass(frozen=True)
class Param:
    """One parameter: ``kind`` is str, int, bool, hash, list, metadata, range, any, or removed (in this API version)."""

    kind: str = "str"
    required: bool = False
    choices: tuple[str, ...] | None = None


Spec = dict[str, Param]

EXPAND: Spec = {"expand": Param("list")}
CURSORS: Spec = {**EXPAND, "limit": Param("int"), "starting_after": Param(), "ending_before": Param()}
PAGE: Spec = {**CURSORS, "created": Param("range")}


def check(spec: Spec, given: Json) -> Json:
    """The parameters with their types; raises StripeError (400, ``param``) on the first fault."""
    for name in given:
        if name not in spec:
            raise invalid(f"Received unknown parameter: {name}", code="parameter_unknown", param=name)
    for name, param in spec.items():
        if param.required and name not in given:
            raise invalid(f"Missing required param: {name}.", code="parameter_missing", param=name)
    return {name: _value(name, spec[name], value) for name, value in given.items()}


def _value(name: str, param: Param, value: Any) -> Any:  # noqa: PLR0911 - one return a kind
    match param.kind:
        case "str":
            return _string(name, param, value)
        case "int":
            return _integer(name, value)
        case "bool":
            return _boolean(name, value)
        case "metadata":
            return _metadata(name, value)
        case "hash":
            return _hash(name, value)
        case "list":
            return _list(name, value)
        case "range":
            return _range(name, value)
        case "removed":
            text = f"The parameter {name} is no longer supported in this API version."
            raise invalid(text, code=f"{name}_no_longer_supported", param=name)
        case _:
            return value


def _string(name: str, param: Param, value: Any) -> str:
    if not isinstance(value, str):
        raise invalid(f"Invalid string: {value}", param=name)
    if value == "" and param.required:
        text = (
            f"You passed an empty string for '{name}'. We assume empty values are an attempt to unset a parameter; "
            f"however '{name}' cannot be unset. You should remove '{name}' from your request or supply a "
            "non-empty value."
        )
        raise invalid(text, code="parameter_invalid_empty", param=name)
    if len(value) > STRING_LENGTH_MAX:
        raise invalid(f"Invalid string: {name} must be at most {STRING_LENGTH_MAX} characters", param=name)
    if param.choices is not None and value not in param.choices:
        listed = (
            ", ".join(param.choices[:-1]) + f", or {param.choices[-1]}" if len(param.choices) > 1 else param.choices[0]
        )
        raise invalid(f"Invalid {name}: must be one of {listed}", param=name)
    return value


def _integer(name: str, value: Any) -> int:
    text = value if isinstance(value, str) else ""
    digits = text.removeprefix("-")
    # isdecimal alone would let through other scripts' digits.
    if not (digits.isascii() and digits.isdecimal()) or len(digits) > 19 or abs(int(text)) > INTEGER_MAX:
        raise invalid(f"Invalid integer: {value}", code="parameter_invalid_integer", param=name)
    return int(text)


def _boolean(name: str, value: Any) -> bool:
    if value not in ("true", "false"):
        raise invalid(f"Invalid boolean: {value}", param=name)
    return bool(value == "true")


def _hash(name: str, value: Any) -> Any:
    if value == "":
        return None
    if not isinstance(value, dict):
        raise invalid("Invalid object", param=name)
    return value


def _list(name: str, value: Any) -> list[Any]:
    if value == "":
        return []
    if not isinstance(value, list):
        raise invalid("Invalid array", param=name)
    return value


def _range(name: str, value: Any) -> tuple[tuple[str, int], ...]:
    operators = {"gt": ">", "gte": ">=", "lt": "<", "lte": "<="}
    if isinstance(value, str):
        return (("=", _integer(name, value)),)
    if not isinstance(value, dict) or not set(value) <= set(operators):
        raise invalid("Invalid range: use gt, gte, lt, lte", param=name)
    return tuple((operators[key], _integer(f"{name}[{key}]", item)) for key, item in value.items())


def _metadata(name: str, value: Any) -> dict[str, str] | None:
    if value == "":
        return None
    if isinstance(value, list):
        # metadata[0]=x reads as a list; its keys are still keys.
        value = {str(index): item for index, item in enumerate(value)}
    if not isinstance(value, dict):
        raise invalid("Invalid metadata: it must be a hash of strings", param=name)
    if len(value) > METADATA_KEYS_MAX:
        raise invalid(f"You can only have up to {METADATA_KEYS_MAX} metadata keys", param=name)
    for key, item in value.items():
        if not isinstance(item, str):
            raise invalid("Metadata values must be strings", param=f"{name}[{key}]")
        if len(key) > METADATA_KEY_LENGTH_MAX:
            text = (
                f"Metadata keys can be up to {METADATA_KEY_LENGTH_MAX} characters long. "
                f"You passed in a key that is {len(key)} characters."
            )
            raise invalid(text, param=name)
        if len(item) > METADATA_VALUE_LENGTH_MAX:
            text = (
                f"Metadata values can have up to {METADATA_VALUE_LENGTH_MAX} characters, but you passed in "
                "a value that "
                f"is {len(item)} characters. Invalid value: {item[:20]}…"
            )
            raise invalid(text, param=f"{name}[{key}]")
    return dict(value)
