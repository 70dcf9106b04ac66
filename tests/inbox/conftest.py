"""What the tests of the inbox share: a recorder as the worker's role, and a gateway that tells the truth."""

from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

import pytest

from payments.database.connections import Pool, open_pool
from payments.inbox.recorder import Recorder
from payments.settings import Settings
from payments.stripe_gateway.outcomes import Answered, Outcome, Refused
from payments.wakeup import Listener
from tests.development.databases import Database
from tests.inbox.rows import insert_message, insert_payment

ROLE = "payments_worker"


class Truth:
    """A gateway that shows objects as a test says they are now, and counts how often it was asked."""

    def __init__(self) -> None:
        self.intents: dict[str, dict[str, Any]] = {}
        self.refunds: dict[str, dict[str, Any]] = {}
        self.disputes: dict[str, dict[str, Any]] = {}
        self.instead: Outcome | None = None
        self.asked: list[str] = []

    async def retrieve_payment_intent(self, intent_id: str) -> Outcome:
        return self._show(self.intents, intent_id)

    async def retrieve_refund(self, refund_id: str) -> Outcome:
        return self._show(self.refunds, refund_id)

    async def retrieve_dispute(self, dispute_id: str) -> Outcome:
        return self._show(self.disputes, dispute_id)

    def _show(self, things: dict[str, dict[str, Any]], object_id: str) -> Outcome:
        self.asked.append(object_id)
        if self.instead is not None:
            return self.instead
        if object_id in things:
            return Answered(things[object_id], 200, f"req_fetch{len(self.asked)}")
        return Refused({"code": "resource_missing"}, 404, f"req_fetch{len(self.asked)}")


class Notices:
    """A notifier that remembers."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, str]] = []

    def notify(self, channel: str, payload: str = "") -> None:
        self.sent.append((channel, payload))


class Desk:
    """A database with one recorder at it, and eyes for a test: each look is a superuser's."""

    def __init__(self, database: Database, pool: Pool, settings: Settings) -> None:
        self.database = database
        self.pool = pool
        self.settings = settings
        self.truth = Truth()
        self.notices = Notices()
        self.recorder = self.another_recorder()
        self.admin = database.connect()

    def another_recorder(self) -> Recorder:
        listener = Listener(self.database.dsn(ROLE), ROLE)  # never entered: tests call run_once
        return Recorder(self.pool, self.truth, self.notices, listener, self.settings)

    def payment(self, **options: Any) -> UUID:
        return insert_payment(self.admin, **options)

    def webhook(self, event: dict[str, Any], payment_id: UUID | None = None) -> None:
        insert_message(self.admin, "stripe-webhook", event["id"], event["type"], payment_id, event)

    def answer(self, payload: dict[str, Any], payment_id: UUID, number: int = 1) -> None:
        kind = f"api.{payload['operation']}"
        insert_message(self.admin, "stripe-api", f"req_{payment_id}/{number}", kind, payment_id, payload)

    async def settle(self, recorder: Recorder | None = None, rounds_max: int = 100) -> None:
        """Runs a recorder until nothing is left to do, its fetches included."""
        recorder = recorder or self.recorder
        for _ in range(rounds_max):
            count = await recorder.run_once()
            await recorder.finish_fetches(5)
            self.sql("update payments.inbox set next_attempt_at = now() where next_attempt_at > now()")
            if not count and not self.sql("select from payments.inbox where processed_at is null"):
                return
        raise AssertionError("the inbox never came to rest")

    def sql(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        cursor = self.admin.execute(query, values)
        return cursor.fetchall() if cursor.description is not None else []

    def one(self, query: str, *values: Any) -> tuple[Any, ...]:
        (row,) = self.sql(query, *values)
        return row

    def status(self, payment_id: UUID) -> str:
        return str(self.one("select status from payments.payments where payment_id = %s", payment_id)[0])

    def events(self, payment_id: UUID) -> list[str]:
        rows = self.sql("select event_type from payments.outbox where aggregate_id = %s order by sequence", payment_id)
        return [row[0] for row in rows]

    def outcomes(self) -> list[str]:
        return [row[0] for row in self.sql("select outcome from payments.inbox order by inbox_id")]

    def history(self, payment_id: UUID) -> list[tuple[Any, ...]]:
        return self.sql(
            "select signal, source, from_status, to_status, decision, why, stripe_request_id"
            " from payments.payment_history where payment_id = %s order by history_id",
            payment_id,
        )

    def close(self) -> None:
        self.admin.close()


@pytest.fixture
def settings() -> Settings:
    return Settings.load({"STRIPE_API_KEY": "sk_test_x", "STRIPE_WEBHOOK_SECRETS": "whsec_tests"})


@pytest.fixture
async def desk(database: Database, settings: Settings, anyio_backend: str) -> AsyncIterator[Desk]:
    async with open_pool(database.dsn(ROLE), ROLE, 6) as pool:
        desk = Desk(database, pool, settings)
        yield desk
        desk.close()
