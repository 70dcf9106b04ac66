"""Reading one pgmq queue, flat: whatever waits invisibly or lies dead in it costs nothing.

`pgmq.read` walks all that is not visible yet and all dead tuples, and `pgmq.delete` lets a worker whose lease ran out
remove what another is working on. Here a read goes by the queue's own vt index from a trailing floor on, with a full
sweep now and then; and ack, extension, hand-back and dead-lettering match (msg_id, read_ct), which names one lease. All
other pgmq functions work on the queue at the same time.
"""

import time
from collections.abc import Callable, Sequence
from typing import Any, cast
from uuid import UUID

import msgspec
from psycopg import sql

from payments.database.connections import Connection
from payments.database.queries import load_queries

# The floor trails the newest message seen by so much: transactions mostly commit within it, so what a sender or a
# hand-back commits a little late is seen at once and not by the next sweep.
FLOOR_TRAIL_S = 0.25
# A sweep from the start finds what lies below the floor: late commits, leases rolled back, a vt set into the past.
# Every second, so that nothing waits longer; under a pinned xmin it gets slow, and may take a twentieth of the time.
SWEEP_EVERY_S = 1.0
SWEEP_SHARE = 20
FAULTS_HEADER = "x-payments-faults"

_FROM_THE_START = "-infinity"
_QUERIES = load_queries("queues")


class Leased(msgspec.Struct, frozen=True):
    """A message and the lease on it: (msg_id, read_ct) names the lease, `ends_at` when it runs out at the latest."""

    msg_id: int
    read_ct: int
    message: Any
    headers: Any
    ends_at: float  # time.monotonic(), taken before the database's own clock: never later than there

    @property
    def faults(self) -> int:
        """How often the handling of this message broke so far."""
        count = self.headers.get(FAULTS_HEADER, 0) if isinstance(self.headers, dict) else 0
        return count if isinstance(count, int) else 0


class Queue:
    """One queue, one reader: it remembers how far it has read. Methods join the caller's transaction, which commits."""

    def __init__(self, name: str, lease_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.name = name
        self.lease_s = lease_s
        self._clock = clock
        self._floor = _FROM_THE_START
        self._sweep_at = float("-inf")
        table = sql.Identifier("pgmq", f"q_{name}")
        self._queries = {
            query: sql.SQL(_QUERIES[query].decode()).format(queue=table)
            for query in ("count_due", "lease", "ack", "postpone", "postpone_faulty", "dead_letter")
        }

    async def count_due(self, conn: Connection, quantity_max: int) -> int:
        """How many messages could be leased now, counted up to `quantity_max`; locks nothing."""
        began, floor = self._begin_look()
        await conn.execute(_QUERIES["guard_plans"])
        row = await (
            await conn.execute(self._queries["count_due"], {"floor": floor, "quantity": quantity_max})
        ).fetchone()
        assert row is not None
        due = int(str(row[0]))
        if due == 0:  # else the lease that follows looks as far
            self._end_look(began, floor)
        return due

    async def lease(self, conn: Connection, quantity_max: int) -> list[Leased]:
        """Leases up to `quantity_max` due messages, the longest due first; no more than can be worked on at once."""
        began, floor = self._begin_look()
        ends_at = began + self.lease_s
        values = {"floor": floor, "quantity": quantity_max, "lease_s": self.lease_s, "trail_s": FLOOR_TRAIL_S}
        await conn.execute(_QUERIES["guard_plans"])
        rows = await (await conn.execute(self._queries["lease"], values)).fetchall()
        self._end_look(began, floor)
        if rows:
            self._floor = str(rows[0][4])
        return [Leased(cast("int", row[0]), cast("int", row[1]), row[2], row[3], ends_at) for row in rows]

    async def ack(self, conn: Connection, leases: Sequence[Leased]) -> set[int]:
        """Removes messages; returns the ids of those whose lease still held."""
        return await self._change(conn, "ack", _fences(leases))

    async def extend(self, conn: Connection, leases: Sequence[Leased]) -> list[Leased]:
        """Leases that begin anew now, for those that still held."""
        ends_at = self._clock() + self.lease_s
        held = await self.postpone(conn, leases, [self.lease_s] * len(leases))
        return [msgspec.structs.replace(lease, ends_at=ends_at) for lease in leases if lease.msg_id in held]

    async def postpone(self, conn: Connection, leases: Sequence[Leased], delays_s: Sequence[float]) -> set[int]:
        """Hands messages back, each to be due after its delay; returns the ids of those whose lease still held."""
        return await self._change(conn, "postpone", {**_fences(leases), "delays_s": list(delays_s)})

    async def postpone_faulty(self, conn: Connection, lease: Leased, delay_s: float) -> bool:
        """Hands a message back whose handling broke, counting that in its headers; False when the lease was lost."""
        values = {**_fence(lease), "delay_s": delay_s, "header": FAULTS_HEADER, "faults": lease.faults + 1}
        return bool(await self._change(conn, "postpone_faulty", values))

    async def dead_letter(self, conn: Connection, lease: Leased, payment_id: UUID | None, error: str) -> bool:
        """Moves a message to payments.dead_letters; False when the lease was lost."""
        values = {**_fence(lease), "origin": f"queue:{self.name}", "payment_id": payment_id, "error": error}
        return bool(await self._change(conn, "dead_letter", values))

    async def _change(self, conn: Connection, query: str, values: dict[str, Any]) -> set[int]:
        await conn.execute(_QUERIES["guard_plans"])
        return {cast("int", row[0]) for row in await (await conn.execute(self._queries[query], values)).fetchall()}

    def _begin_look(self) -> tuple[float, str]:
        now = self._clock()
        return now, _FROM_THE_START if now >= self._sweep_at else self._floor

    def _end_look(self, began: float, floor: str) -> None:
        if floor == _FROM_THE_START:
            now = self._clock()
            self._sweep_at = now + max(SWEEP_EVERY_S, SWEEP_SHARE * (now - began))


def _fence(lease: Leased) -> dict[str, Any]:
    return {"id": lease.msg_id, "count": lease.read_ct}


def _fences(leases: Sequence[Leased]) -> dict[str, Any]:
    return {"ids": [lease.msg_id for lease in leases], "counts": [lease.read_ct for lease in leases]}
