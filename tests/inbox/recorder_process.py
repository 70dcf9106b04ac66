"""A process that only records, for tests that kill it: `python -m tests.inbox.recorder_process DSN SETTINGS`.

Its Stripe is a table `truth (intent_id, object)` that the test has filled.
"""

import asyncio
import json
import sys
from typing import Any

import psycopg

from payments.database.connections import open_pool
from payments.inbox.recorder import Recorder
from payments.process import run_process
from payments.settings import Settings
from payments.stripe_gateway.outcomes import Answered, Outcome
from payments.wakeup import Listener, Notifier

ROLE = "payments_worker"


class TruthTable:
    """The calls that a recorder makes."""

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn

    async def retrieve_payment_intent(self, intent_id: str) -> Outcome:
        return await self._show(intent_id)

    async def retrieve_refund(self, refund_id: str) -> Outcome:
        return await self._show(refund_id)

    async def retrieve_dispute(self, dispute_id: str) -> Outcome:
        return await self._show(dispute_id)

    async def _show(self, object_id: str) -> Outcome:
        async with await psycopg.AsyncConnection.connect(self._dsn, autocommit=True) as conn:
            cursor = await conn.execute("select object from public.truth where object_id = %s", (object_id,))
            row: Any = await cursor.fetchone()
        return Answered(row[0], 200, None)


def main() -> int:
    dsn = sys.argv[1]
    settings = Settings.load({"DATABASE_URL": dsn, "STRIPE_API_KEY": "sk_test_x", **json.loads(sys.argv[2])})

    async def record(stop: asyncio.Event) -> None:
        async with (
            open_pool(dsn, ROLE, 6) as pool,
            Notifier(dsn, ROLE) as notifier,
            Listener(dsn, ROLE) as listener,
        ):
            await Recorder(pool, TruthTable(dsn), notifier, listener, settings).run(stop)

    return run_process("recorder", record)


if __name__ == "__main__":
    sys.exit(main())
