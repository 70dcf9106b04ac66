"""Holds plain values against the types of the `stripe` package, an independent account of what Stripe sends and takes.

Its classes are generated from Stripe's OpenAPI description of the version that the package is pinned to. Its enums are
open (`Literal[…] | str`, for versions to come); here a value must be one that is known.
"""

import builtins
import sys
from collections.abc import Iterator
from functools import cache
from types import NoneType, UnionType
from typing import Any, ForwardRef, Literal, Union, get_args, get_origin

import stripe
import stripe.params
import stripe.params.radar
import stripe.test_helpers
import typing_extensions
from stripe import ListObject, StripeObject
from stripe._request_options import RequestOptions
from stripe._stripe_object import UntypedStripeObject
from typing_extensions import is_typeddict

Absent = dict[str, str]
# A call's headers, which the package's parameter types carry beside its parameters.
OPTIONS = frozenset(RequestOptions.__annotations__)
_WRAPPERS = {typing_extensions.NotRequired, typing_extensions.Required}
_PLAIN: dict[type, tuple[type, ...]] = {int: (int,), str: (str,), bool: (bool,), float: (int, float)}


def misfits(kind: Any, value: Any, where: str, absent: Absent | None = None) -> Iterator[str]:
    """What in `value` does not fit the annotation `kind`, a sentence each.

    `absent`: required fields that may be missing, as `Class.field` (or `*.field`) with the reason.
    """
    yield from _Check(absent or {}).value(_resolved(kind, ""), value, where)


@cache
def fields(cls: type) -> dict[str, Any]:
    """The fields of a class of the package with their annotations, those it inherits included."""
    found: dict[str, Any] = {}
    for one in reversed(cls.__mro__):
        if one is cls or (issubclass(one, StripeObject) and one is not StripeObject):
            found |= {name: (one.__module__, kind) for name, kind in vars(one).get("__annotations__", {}).items()}
    aside = OPTIONS if is_typeddict(cls) else {"OBJECT_NAME"}
    return {
        name: _resolved(kind, module)
        for name, (module, kind) in found.items()
        if name not in aside and not name.startswith("_")
    }


@cache
def literals(kind: Any) -> frozenset[str]:
    """The known values of an annotation that has any."""
    return frozenset(value for option in _options(kind) if get_origin(option) is Literal for value in get_args(option))


@cache
def is_required(cls: type, name: str) -> bool:
    """Whether an object without this field, or a call without this parameter, would contradict the package."""
    if is_typeddict(cls):
        return name in getattr(cls, "__required_keys__", ())
    return NoneType not in _options(fields(cls)[name])


_MODULES = (
    stripe, stripe._stripe_object, stripe.params, stripe.params.radar, stripe.test_helpers, typing_extensions, builtins,
)  # fmt: skip


class _Names(dict[str, Any]):
    """What annotations name: the package imports some of it for type checkers only, and the rest when asked for."""

    def __missing__(self, name: str) -> Any:
        name = name.removesuffix("Resource")  # CardResource: the class, where a field of that name stands beside it
        for module in _MODULES:
            if hasattr(module, name):
                return getattr(module, name)
        return _Unknown


class _Unknown:
    """A class of a part of Stripe that is not met here (Issuing, …): nothing fits it."""


class _Check:
    def __init__(self, absent: Absent) -> None:
        self.absent = absent

    def value(self, kind: Any, value: Any, where: str) -> Iterator[str]:
        options = _options(kind)
        if Any in options or (value is None and NoneType in options):
            return
        known = literals(kind)
        if known and isinstance(value, str):
            if value not in known:
                yield f"{where}: {value!r} is none of {sorted(known)}"
            return
        fitting = [option for option in options if _is_alike(option, value)]
        if not fitting:
            yield f"{where}: {value!r} is no {kind}"
            return
        # Where several classes could be meant (expanded fields), the best fit tells what is wrong.
        yield from min((list(self.inside(option, value, where)) for option in fitting), key=len)

    def inside(self, kind: Any, value: Any, where: str) -> Iterator[str]:
        origin, arguments = get_origin(kind), get_args(kind)
        if origin in (list, typing_extensions.List):
            for index, item in enumerate(value):
                yield from self.value(_resolved(arguments[0], ""), item, f"{where}[{index}]")
        elif origin in (dict, UntypedStripeObject):
            for name, item in value.items():
                yield from self.value(_resolved(arguments[-1], ""), item, f"{where}.{name}")
        elif origin is ListObject:
            yield from self.page(_resolved(arguments[0], ""), value, where)
        elif isinstance(kind, type) and (issubclass(kind, StripeObject) or is_typeddict(kind)):
            yield from self.members(kind, value, where)

    def page(self, kind: Any, value: dict[str, Any], where: str) -> Iterator[str]:
        if set(value) != {"object", "data", "has_more", "url"} or value["object"] != "list":
            yield f"{where}: no list of Stripe's: {sorted(value)}"
            return
        for name, expected in (("data", list), ("has_more", bool), ("url", str)):
            if type(value[name]) is not expected:
                yield f"{where}.{name}: {value[name]!r} is no {expected.__name__}"
        for index, item in enumerate(value["data"]):
            yield from self.value(kind, item, f"{where}.data[{index}]")

    def members(self, cls: type, value: dict[str, Any], where: str) -> Iterator[str]:
        known = fields(cls)
        for name, item in value.items():
            if name not in known:
                yield f"{where}.{name}: no field of {cls.__qualname__}"
            else:
                yield from self.value(known[name], item, f"{where}.{name}")
        for name in known:
            excused = f"{cls.__qualname__}.{name}" in self.absent or f"*.{name}" in self.absent
            if name not in value and is_required(cls, name) and not excused:
                yield f"{where}: lacks {cls.__qualname__}.{name}"


def _is_alike(kind: Any, value: Any) -> bool:
    origin = get_origin(kind) or kind
    if origin in _PLAIN:
        return type(value) in _PLAIN[origin]
    if origin in (list, typing_extensions.List):
        return isinstance(value, list)
    if not isinstance(value, dict) or not isinstance(origin, type):
        return False
    if issubclass(origin, StripeObject):
        named = getattr(origin, "OBJECT_NAME", None)
        return named is None or origin is ListObject or named == value.get("object")
    return origin is dict or is_typeddict(origin)


@cache
def _options(kind: Any) -> tuple[Any, ...]:
    """The members of a union, or the annotation alone; wrappers and forward references taken off."""
    if get_origin(kind) in (Union, UnionType):
        return tuple(option for part in get_args(kind) for option in _options(_resolved(part, "")))
    return (kind,)


@cache
def _resolved(kind: Any, module: str) -> Any:
    if isinstance(kind, ForwardRef):
        kind = kind.__forward_arg__
    if isinstance(kind, str):
        kind = eval(kind, vars(sys.modules[module]) if module else {}, _Names())
    if get_origin(kind) in _WRAPPERS:
        return _resolved(get_args(kind)[0], module)
    return kind
