"""The sandbox as a whole: state, clock, steering, and what is under way right now."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import msgspec

from stripe_sandbox import attempts, charges, disputes, fraud_warnings, idempotency, intents, jobs, refunds
from stripe_sandbox.behaviours import Behaviours
from stripe_sandbox.call import Call
from stripe_sandbox.clock import Clock
from stripe_sandbox.faults import Faults
from stripe_sandbox.identifiers import new_request_id
from stripe_sandbox.store import Store
from stripe_sandbox.webhooks import MAIN, Endpoint, Webhooks

if TYPE_CHECKING:
    from collections.abc import Callable

    from stripe_sandbox.settings import Settings

HANDLERS: dict[str, Callable[[Call, str], None]] = {
    "expire_hold": intents.expire,
    "settle_charge": charges.settle,
    "finish_processing": attempts.finish_processing,
    "finish_refund": refunds.finish,
    "fail_refund": refunds.fail,
    "open_dispute": disputes.open_dispute,
    "win_dispute": lambda call, target: disputes.decide(call, target, "won"),
    "lose_dispute": lambda call, target: disputes.decide(call, target, "lost"),
    "warn_of_fraud": fraud_warnings.warn,
}


class Sandbox:
    """Everything one process holds. All of it runs on one event loop; no call yields inside a transaction."""

    def __init__(self, settings: Settings) -> None:
        """Open the state and go on where the last process stopped."""
        self.settings = settings
        self.store = Store(settings.state)
        self.stirred = asyncio.Event()
        # Claimed while a request is under way; they die with the process, as its requests do.
        self.busy_keys: set[str] = set()
        self.busy_objects: set[str] = set()
        self._load()

    def _load(self) -> None:
        store = self.store
        self.clock = Clock(store)
        self.webhooks = Webhooks(store)
        self.faults = Faults(store)
        self.behaviours: Behaviours = msgspec.convert(store.meta("behaviours", {}), Behaviours)
        url, secret = self.settings.webhook_url, self.settings.webhook_secret
        if url and secret:
            with store.transaction():
                self.webhooks.put_endpoint(MAIN, Endpoint(url, (secret,)))

    def reset(self) -> None:
        """Back to an empty account with real time."""
        self.store.wipe()
        self._load()

    def behave(self, behaviours: Behaviours) -> None:
        """Change the delays; they outlive the process."""
        with self.store.transaction():
            self.store.put_meta("behaviours", behaviours)
        self.behaviours = behaviours

    def wake(self) -> None:
        """Tell the courier that there may be something to do."""
        self.stirred.set()

    def call(self, *, by_customer: bool = False) -> Call:
        """Something that no API call of ours caused; the customer's browser has a request id all the same."""
        request_id = new_request_id() if by_customer else None
        return Call(self.store, self.clock.now(), self.webhooks, self.behaviours, request_id)

    def pass_time(self) -> None:
        """Do what is due by the clock."""
        while jobs.run_due(self.call(), HANDLERS):
            self.wake()

    def prune(self) -> None:
        """Forget idempotency keys that are old enough."""
        with self.store.transaction():
            idempotency.prune(self.store, self.clock.now())
