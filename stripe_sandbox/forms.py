"""Stripe's form encoding: ``a[b][0]=x`` to nested values (https://docs.stripe.com/api, request bodies)."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import parse_qsl

from stripe_sandbox.errors import invalid

# Far above what the API's own parameters need, low enough that a hostile body costs nothing.
FIELDS_MAX = 2000
DEPTH_MAX = 8

_KEY = re.compile(r"^([^\[\]]+)((?:\[[^\[\]]*\])*)$")
_PART = re.compile(r"\[([^\[\]]*)\]")


def decode_form(text: str) -> dict[str, Any]:
    """Decode a form body or query string; raises StripeError on a malformed one."""
    try:
        pairs = parse_qsl(text, keep_blank_values=True, max_num_fields=FIELDS_MAX, errors="strict")
    except ValueError:
        raise invalid("Invalid request: the body could not be read as application/x-www-form-urlencoded.") from None
    tree: dict[str, Any] = {}
    for key, value in pairs:
        _insert(tree, _path(key), value)
    return {key: _listed(value) for key, value in tree.items()}


def _path(key: str) -> list[str]:
    match = _KEY.match(key)
    if match is None:
        raise invalid(f"Invalid request: could not read the parameter name {key[:100]!r}.", param=key[:100])
    path = [match[1], *_PART.findall(match[2])]
    if len(path) > DEPTH_MAX:
        raise invalid("Invalid request: parameters are nested too deeply.", param=match[1])
    return path


def _insert(tree: dict[str, Any], path: list[str], value: str) -> None:
    node = tree
    for part in path[:-1]:
        child = node.setdefault(_slot(node, part), {})
        if not isinstance(child, dict):
            raise invalid(f"Invalid request: {path[0]} is given both as a value and as a hash.", param=path[0])
        node = child
    node[_slot(node, path[-1])] = value


def _slot(node: dict[str, Any], part: str) -> str:
    """``[]`` appends: the next free index."""
    return part or str(len(node))


def _listed(value: Any) -> Any:
    """Turn hashes whose keys are all indexes into lists."""
    if not isinstance(value, dict):
        return value
    if value and all(key.isdigit() for key in value):
        return [_listed(value[key]) for key in sorted(value, key=int)]
    return {key: _listed(item) for key, item in value.items()}
