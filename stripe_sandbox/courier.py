"""Delivers webhooks and lets time pass.

Deliveries are rows; a SIGKILL between an attempt and its record means one more attempt, never one less.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import aiohttp
import msgspec

from stripe_sandbox import events, jobs
from stripe_sandbox.signature import sign

if TYPE_CHECKING:
    from stripe_sandbox.errors import Json
    from stripe_sandbox.sandbox import Sandbox

# Enough to provoke races in a receiver; few enough for one core.
CONCURRENCY_MAX = 32
# How long the loop sleeps at most: a clock moved by another process's restart is noticed by then.
NAP_S_MAX = 0.5
PRUNE_EVERY_S = 5.0
# A reset waits this long for deliveries under way, so that none of them reaches the next test.
SETTLE_S = 1.0

_USER_AGENT = "Stripe/1.0 (+https://stripe.com/docs/webhooks)"


@dataclass(frozen=True)
class Delivery:
    """One event on its way to one endpoint."""

    id: int
    event: str
    endpoint: str
    attempts: int
    created: float


class Courier:
    """Runs on the sandbox's event loop; ``run`` ends only when cancelled."""

    def __init__(self, sandbox: Sandbox) -> None:
        """Nothing is sent before ``run`` or ``deliver``."""
        self._sandbox = sandbox
        self._session: aiohttp.ClientSession | None = None
        self._under_way: dict[int, asyncio.Task[Json]] = {}
        self._pruned_at = 0.0

    async def run(self) -> None:
        """Deliver what is due, for ever."""
        sandbox = self._sandbox
        while True:
            sandbox.stirred.clear()
            sandbox.pass_time()
            self._prune()
            self._launch()
            try:
                async with asyncio.timeout(self._nap_s()):
                    await sandbox.stirred.wait()
            except TimeoutError:
                pass

    def _prune(self) -> None:
        if time.monotonic() - self._pruned_at > PRUNE_EVERY_S:
            self._pruned_at = time.monotonic()
            self._sandbox.prune()

    def _launch(self) -> None:
        room = CONCURRENCY_MAX - len(self._under_way)
        if room <= 0:
            return
        for delivery in self._due(room + len(self._under_way)):
            if delivery.id not in self._under_way and len(self._under_way) < CONCURRENCY_MAX:
                task = asyncio.create_task(self.attempt(delivery))
                self._under_way[delivery.id] = task
                task.add_done_callback(partial(self._landed, delivery.id))

    def _landed(self, identifier: int, _task: asyncio.Task[Json]) -> None:
        self._under_way.pop(identifier, None)
        self._sandbox.wake()

    def _due(self, limit: int) -> list[Delivery]:
        order = "random()" if self._sandbox.webhooks.steering.reorder else "next_at, id"
        sql = (
            "SELECT id, event, endpoint, attempts, created FROM deliveries "  # noqa: S608 - one of two fixed orders
            f"WHERE status = 'pending' AND next_at <= ? ORDER BY {order} LIMIT ?"
        )
        rows = self._sandbox.store.db.execute(sql, (self._sandbox.clock.now(), limit)).fetchall()
        return [Delivery(*row) for row in rows]

    def _nap_s(self) -> float:
        store, now = self._sandbox.store, self._sandbox.clock.now()
        row = store.db.execute("SELECT min(next_at) FROM deliveries WHERE status = 'pending' AND next_at > ?", (now,))
        times = [when for when in (row.fetchone()[0], jobs.next_due(store)) if when is not None]
        return min([NAP_S_MAX, *(max(when - now, 0.001) for when in times)])

    def find(self, identifier: int) -> Delivery:
        """A delivery by its id; raises LookupError."""
        sql = "SELECT id, event, endpoint, attempts, created FROM deliveries WHERE id = ?"
        row = self._sandbox.store.db.execute(sql, (identifier,)).fetchone()
        if row is None:
            raise LookupError(f"no delivery {identifier}")
        return Delivery(*row)

    async def attempt(self, delivery: Delivery) -> Json:
        """Send once, signed now, and record what came of it."""
        sandbox = self._sandbox
        endpoint = sandbox.webhooks.endpoints.get(delivery.endpoint)
        record = sandbox.store.find("event", delivery.event)
        if endpoint is None or record is None:
            return self._record(delivery, None, "the endpoint or the event is gone")
        body = events.shown(sandbox.store, record)
        body = {**body, "api_version": endpoint.api_version, "livemode": endpoint.livemode}
        if endpoint.account is not None:
            body["account"] = endpoint.account
        payload = msgspec.json.format(msgspec.json.encode(body), indent=2)
        # Real time, not the sandbox's: the receiver checks it against its own clock.
        signature = sign(payload, endpoint.secrets, int(time.time()))
        try:
            status = await self._post(endpoint.url, payload, signature)
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            return self._record(delivery, None, type(error).__name__)
        return self._record(delivery, status, None)

    async def _post(self, url: str, payload: bytes, signature: str) -> int:
        if self._session is None:
            connector = aiohttp.TCPConnector(limit=CONCURRENCY_MAX * 2)
            self._session = aiohttp.ClientSession(connector=connector, headers={"User-Agent": _USER_AGENT})
        headers = {"Content-Type": "application/json; charset=utf-8", "Stripe-Signature": signature}
        timeout = aiohttp.ClientTimeout(total=self._sandbox.webhooks.steering.timeout_s)
        # A redirect counts as a failure (https://docs.stripe.com/webhooks#events-overview), so none is followed.
        request = self._session.post(url, data=payload, headers=headers, timeout=timeout, allow_redirects=False)
        async with request as response:
            return response.status

    def _record(self, delivery: Delivery, http_status: int | None, error: str | None) -> Json:
        sandbox, now = self._sandbox, self._sandbox.clock.now()
        attempts = delivery.attempts + 1
        delivered = http_status is not None and 200 <= http_status < 300
        given_up = now - delivery.created > sandbox.webhooks.steering.give_up_s
        status = "delivered" if delivered else "exhausted" if given_up else "pending"
        next_at = sandbox.webhooks.retry_at(attempts, now)
        with sandbox.store.transaction():
            sandbox.store.db.execute(
                # What was forgotten while it was on its way is not tried again.
                "UPDATE deliveries SET"
                " status = CASE WHEN status = 'dropped' AND ?1 = 'pending' THEN status ELSE ?1 END,"
                " attempts = ?2, next_at = ?3, last_status = ?4, last_error = ?5, delivered = ?6 WHERE id = ?7",
                (status, attempts, next_at, http_status, error, now if delivered else None, delivery.id),
            )
        return {
            "id": delivery.id,
            "event": delivery.event,
            "status": status,
            "http_status": http_status,
            "error": error,
        }

    async def settle(self) -> None:
        """Let the deliveries under way end, for a moment, then cut them off."""
        tasks = list(self._under_way.values())
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=SETTLE_S)
            for task in late:
                task.cancel()

    async def close(self) -> None:
        """Stop sending; what was not delivered stays pending."""
        for task in list(self._under_way.values()):
            task.cancel()
        if self._session is not None:
            await self._session.close()
