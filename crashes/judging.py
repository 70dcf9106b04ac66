"""When all is at rest, and what must be true then: soak/books.py, and that each outcome was published, once."""

import asyncio
import time
from collections.abc import Iterable

import psycopg

from soak.books import LOST, Fault, compare
from soak.lives import Told
from soak.system import System

RESTS_S = 60.0  # leases, retries, a turn of the reconciler that died
AGREES_S = 30.0  # what only the reconciler can find out
PAUSE_S = 0.15
# A PaymentIntent without our metadata is somebody else's.
STRANGER = Fault(LOST, "Stripe has payment , we have not")
LANE = "crashes_everything"  # nobody reads it: it holds every event for the comparison
UNDER_WAY = """
select
  (select count(*) from payments.inbox_pending)
  + (select count(*) from payments.outbox_status where not dispatched)
  + (select count(*) from payments.payments where status in ('REQUESTED', 'PROCESSING', 'CAPTURING', 'VOIDING'))
  + (select count(*) from payments.refunds where status in ('REQUESTED', 'PENDING'))
  + (select count(*) from payments.stripe_requests where state not in ('answered', 'parked'))
  + (select coalesce(sum(length), 0) from payments.queue_lengths() where queue_name like '%\\_requested')
"""
UNTOLD = """
select p.payment_id || ' is ' || p.status from payments.payments p
where p.status in ('SUCCEEDED', 'FAILED', 'VOIDED', 'EXPIRED') and not exists (
  select from payments.outbox o where o.aggregate_id = p.payment_id and o.event_type = 'payment-' || lower(p.status)
)
union all
select 'refund ' || r.refund_id || ' is ' || r.status from payments.refunds r
where r.status in ('PROCESSED', 'FAILED') and not exists (
  select from payments.outbox o
  where o.event_type = 'refund-' || lower(r.status) and o.payload ->> 'refundId' = r.refund_id::text
)
"""


class Judge:
    """Compares again and again; a disagreement is told of once."""

    def __init__(self, system: System) -> None:
        self._system = system
        self._known: set[Fault] = {STRANGER}
        with system.connect(autocommit=True) as conn:
            conn.execute("select payments.create_lane(%s, 'holds events for the crashes', '{#}', true)", (LANE,))

    async def come_to_rest(self) -> bool:
        """Waits until nothing is under way, no webhook either; False when that takes too long."""
        deadline = time.monotonic() + RESTS_S
        while time.monotonic() < deadline:
            # In this order: a webhook that is delivered has left a row.
            _, hooks = await self._system.sandbox("GET", "/webhooks?status=pending")
            if not hooks["deliveries"] and await asyncio.to_thread(self._is_at_rest):
                return True
            await asyncio.sleep(PAUSE_S)
        return False

    def _is_at_rest(self) -> bool:
        try:
            return bool(self._system.rows(UNDER_WAY)[0][0] == 0)
        except psycopg.OperationalError:
            return False

    async def judge(self, told: dict[str, Told]) -> list[Fault]:
        """What does not agree, and did agree the last time."""
        deadline = time.monotonic() + AGREES_S
        while found := [fault for fault in await self._compare(told) if fault not in self._known]:
            if time.monotonic() > deadline:
                break
            await asyncio.sleep(PAUSE_S * 5)
        self._known.update(found)
        return found

    async def _compare(self, told: dict[str, Told]) -> Iterable[Fault]:
        untold = [Fault(LOST, f"nobody was told: {row[0]}") for row in self._system.rows(UNTOLD)]
        return [*await compare(self._system, told, ["ordering", LANE]), *untold]
