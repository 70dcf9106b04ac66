"""What an operation needs while it runs inside one transaction."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from stripe_sandbox.behaviours import Behaviours
    from stripe_sandbox.store import Store
    from stripe_sandbox.webhooks import Webhooks


@dataclass(frozen=True)
class Call:
    """One API call, or (``request_id`` None) something Stripe does by itself."""

    store: Store
    now: float
    webhooks: Webhooks
    behaviours: Behaviours
    request_id: str | None = None
    idempotency_key: str | None = None
    api_version: str | None = None

    @property
    def at(self) -> int:
        """The time in whole seconds, as objects carry it."""
        return int(self.now)
