"""Faults that tests order: what the network and Stripe itself may do to a call.

``before_executing``  connection dropped, nothing happened
``after_executing``   executed and committed, then the connection is dropped without an answer
``mid_body``          executed, then half of the body and the connection is closed
``status``            another answer: 401, 403, 409, 429 (``rate_limit`` or ``lock_timeout``), 500, 503
``slow``              the answer is late; ``when`` says whether the wait is before or after executing
``alter``             executed, and top-level fields of the answer are replaced (``set``)
"""

from __future__ import annotations

import random
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from stripe_sandbox.errors import Json, StripeError, key_in_use, lock_timeout, rate_limited, server_error

if TYPE_CHECKING:
    from stripe_sandbox.store import Store

Kind = Literal["before_executing", "after_executing", "mid_body", "status", "slow", "alter"]
# A connection that hangs longer than any client's timeout is no use to a test.
DELAY_S_MAX = 600.0


class Match(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which calls: all that is given must match. ``path`` is a glob; ``metadata`` also looks at the object called."""

    method: str | None = None
    path: str | None = None
    metadata: dict[str, str] = {}
    idempotency_key: str | None = None


class Fault(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One order; ``times`` None: for ever. ``skip`` lets the first N matching calls pass."""

    fault: Kind
    match: Match = Match()
    status: int = 500
    error: dict[str, Any] = {}
    delay_s: float = 0.0
    when: Literal["before", "after"] = "after"
    # For status 500: whether the call took effect before Stripe failed.
    executed: bool = False
    set: dict[str, Any] = {}
    times: int | None = 1
    probability: float = 1.0
    skip: int = 0


class Faults:
    """The orders, kept in the state file with how often each fired."""

    def __init__(self, store: Store) -> None:
        """Find what the last process left."""
        self._store = store
        self._orders: dict[int, Fault] = {}
        self._counts: dict[int, list[int]] = {}
        for identifier, spec, seen, fired in store.db.execute("SELECT id, spec, seen, fired FROM faults ORDER BY id"):
            self._orders[identifier] = msgspec.json.decode(spec, type=Fault)
            self._counts[identifier] = [seen, fired]

    def add(self, fault: Fault) -> int:
        """Take an order; in the caller's transaction."""
        cursor = self._store.db.execute("INSERT INTO faults (spec) VALUES (?)", (msgspec.json.encode(fault),))
        identifier = cursor.lastrowid or 0
        self._orders[identifier] = fault
        self._counts[identifier] = [0, 0]
        return identifier

    def remove(self, identifier: int | None) -> int:
        """Withdraw one order, or (None) all; in the caller's transaction."""
        gone = [identifier] if identifier is not None else list(self._orders)
        for one in gone:
            self._store.db.execute("DELETE FROM faults WHERE id = ?", (one,))
            self._counts.pop(one, None)
        return sum(self._orders.pop(one, None) is not None for one in gone)

    def shown(self) -> list[Json]:
        """Every order with how often it was matched (``seen``) and applied (``fired``)."""
        return [
            {"id": one, **msgspec.to_builtins(fault), "seen": self._counts[one][0], "fired": self._counts[one][1]}
            for one, fault in self._orders.items()
        ]

    def pick(self, method: str, path: str, key: str | None, metadata: dict[str, str]) -> tuple[int, Fault] | None:
        """The first order that applies to this call, counted as fired."""
        for identifier, fault in self._orders.items():
            counts = self._counts[identifier]
            if (fault.times is not None and counts[1] >= fault.times) or not _matches(
                fault.match, method, path, key, metadata
            ):
                continue
            counts[0] += 1
            # S311: chance in a test double.
            fires = counts[0] > fault.skip and random.random() < fault.probability
            counts[1] += fires
            self._store.db.execute("UPDATE faults SET seen = ?, fired = ? WHERE id = ?", (*counts, identifier))
            if fires:
                return identifier, fault
        return None

    @property
    def reads_metadata(self) -> bool:
        """Whether any order looks at metadata, which costs a look-up."""
        return any(fault.match.metadata for fault in self._orders.values())

    @property
    def any(self) -> bool:
        """Whether there are orders at all."""
        return bool(self._orders)


def _matches(match: Match, method: str, path: str, key: str | None, metadata: dict[str, str]) -> bool:
    return (
        (match.method is None or match.method.upper() == method)
        and (match.path is None or fnmatchcase(path, match.path))
        and (match.idempotency_key is None or match.idempotency_key == key)
        and match.metadata.items() <= metadata.items()
    )


def error_of(fault: Fault, key: str | None) -> StripeError:
    """The answer of a ``status`` fault; ``error`` overrides its fields."""
    code = fault.error.get("code")
    match fault.status:
        case 401:
            error = StripeError(401, "Expired API Key provided: sk_test_****", code="api_key_expired")
        case 403:
            error = StripeError(403, "The provided key does not have the required permissions for this endpoint.")
        case 409:
            error = key_in_use(key or "")
        case 429:
            error = lock_timeout() if code == "lock_timeout" else rate_limited()
        case status if status >= 500:
            error = server_error(status)
        case status:
            error = StripeError(status, "The sandbox was told to refuse this request.", saved=True)
    error.extra = {**error.extra, **fault.error}
    return error
