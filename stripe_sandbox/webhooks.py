"""Who gets events, and how their delivery is steered. The sending itself is ``courier``.

Retries: Stripe tries for up to three days with exponential back-off (https://docs.stripe.com/webhooks#retries); here
the first retries come after 1, 2, 4 … seconds, an hour at most, by the sandbox's clock.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import msgspec

from stripe_sandbox.settings import API_VERSION

if TYPE_CHECKING:
    from stripe_sandbox.errors import Json
    from stripe_sandbox.store import Store

# The spread of ``reorder`` when no jitter is given: enough to shuffle, short enough to wait for.
REORDER_SPREAD_S = 0.3
# No steering may ask for more copies of one event than this.
DUPLICATES_MAX = 20


class Endpoint(msgspec.Struct, frozen=True):
    """A webhook endpoint (https://docs.stripe.com/api/webhook_endpoints/object). Several secrets: a rotation."""

    url: str
    secrets: tuple[str, ...]
    api_version: str | None = API_VERSION
    enabled_events: tuple[str, ...] = ("*",)
    livemode: bool = False
    # A connected account's events name it (https://docs.stripe.com/api/events/object#event_object-account).
    account: str | None = None


class Steering(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What happens to the deliveries of new events."""

    mode: str = "deliver"
    duplicate: int = 0
    # A second Event, under an id of its own, for one and the same change.
    twins: bool = False
    reorder: bool = False
    delay_s: float = 0.0
    jitter_s: float = 0.0
    timeout_s: float = 10.0
    retry_base_s: float = 1.0
    retry_cap_s: float = 3600.0
    give_up_s: float = 3 * 24 * 3600.0
    drop_probability: float = 0.0
    types: tuple[str, ...] | None = None


MODES = ("deliver", "hold", "drop")
MAIN = "we_main"


class Webhooks:
    """Endpoints and steering, kept in the state file."""

    def __init__(self, store: Store) -> None:
        """Load what the last process left."""
        self._store = store
        self.endpoints: dict[str, Endpoint] = msgspec.convert(store.meta("endpoints", {}), dict[str, Endpoint])
        self.steering: Steering = msgspec.convert(store.meta("steering", {}), Steering)

    def put_endpoint(self, name: str, endpoint: Endpoint | None) -> None:
        """Add, replace or (None) remove an endpoint, inside the caller's transaction."""
        if endpoint is None:
            self.endpoints.pop(name, None)
        else:
            self.endpoints[name] = endpoint
        self._store.put_meta("endpoints", self.endpoints)

    def steer(self, steering: Steering) -> None:
        """Replace the steering, inside the caller's transaction."""
        self._store.put_meta("steering", steering)
        self.steering = steering

    def mute(self) -> None:
        """Nothing more of this account is sent; what is pending is dropped."""
        with self._store.transaction():
            self._store.db.execute("UPDATE deliveries SET status = 'dropped' WHERE status = 'pending'")

    def enqueue(self, event: Json, now: float) -> None:
        """Write the deliveries of a new event beside it, in the same transaction."""
        kind = event["type"]
        for name, endpoint in self.endpoints.items():
            if "*" in endpoint.enabled_events or kind in endpoint.enabled_events:
                for _copy in range(1 + self.steering.duplicate):
                    self.add_delivery(event, name, self._first_status(kind), now, self._first_delay())

    def add_delivery(self, event: Json, endpoint: str, status: str, now: float, delay_s: float = 0.0) -> int:
        """One more delivery of an event; returns its id."""
        cursor = self._store.db.execute(
            "INSERT INTO deliveries (event, type, object, endpoint, status, next_at, created) "
            "VALUES (?, ?, ?, ?, ?, ?, ?)",
            (event["id"], event["type"], event["data"]["object"].get("id", ""), endpoint, status, now + delay_s, now),
        )
        return cursor.lastrowid or 0

    def retry_at(self, attempts: int, now: float) -> float:
        """When the next attempt is due after ``attempts`` failures."""
        return now + min(self.steering.retry_base_s * 2.0 ** min(attempts - 1, 30), self.steering.retry_cap_s)

    def _first_status(self, kind: str) -> str:
        steering = self.steering
        if steering.types is not None and kind not in steering.types:
            return "pending"
        if steering.mode == "hold":
            return "held"
        # S311: chance in a test double, not a secret.
        lost = steering.mode == "drop" or random.random() < steering.drop_probability
        return "dropped" if lost else "pending"

    def _first_delay(self) -> float:
        spread = self.steering.jitter_s or (REORDER_SPREAD_S if self.steering.reorder else 0.0)
        return self.steering.delay_s + random.random() * spread
