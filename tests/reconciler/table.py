"""Wishes, calls, dead letters and news by hand, where no worker takes them up and no Stripe is asked."""

from typing import Any
from uuid import UUID, uuid4

from payments.database.connections import open_pool
from payments.reconciler.jobs import Surroundings
from payments.reconciler.lost import send_lost_commands
from payments.settings import Settings
from tests.database.rows import insert_payment
from tests.development.databases import Database

ROLE = "payments_worker"
QUEUES = ("payment_requested", "capture_requested", "void_requested", "refund_requested")


class Notices:
    def __init__(self) -> None:
        self.sent: list[tuple[str, str]] = []

    def notify(self, channel: str, payload: str = "") -> None:
        self.sent.append((channel, payload))


class Table:
    """A database without a worker: what the job sends stays where it is sent to."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.conn = database.connect()
        self.notices = Notices()

    def payment(self, status: str = "REQUESTED", **columns: Any) -> UUID:
        payment_id = insert_payment(self.conn, capture_method=columns.pop("capture_method", "automatic"))
        self.change(payment_id, status=status, updated_at="-infinity", **columns)
        return payment_id

    def change(self, payment_id: UUID, **columns: Any) -> None:
        self.conn.execute("alter table payments.payments disable trigger user")
        changes = ", ".join(f"{column} = %({column})s" for column in columns)
        self.conn.execute(
            f"update payments.payments set {changes} where payment_id = %(id)s", {"id": payment_id, **columns}
        )
        self.conn.execute("alter table payments.payments enable trigger user")

    def dispatch_and_lose(self) -> None:
        for queue in QUEUES:
            self.conn.execute("select payments.dispatch(%s, 100)", (queue,))
            self.conn.execute(f"delete from pgmq.q_{queue}")

    def messages(self, queue: str) -> list[Any]:
        rows = self.conn.execute(f"select message, headers from pgmq.q_{queue} order by msg_id").fetchall()
        return [(message, headers) for message, headers in rows]

    def call(self, payment_id: UUID, subject_id: UUID, operation: str, state: str, outcome: str | None = None) -> None:
        self.conn.execute(
            "insert into payments.stripe_requests"
            " (payment_id, subject_id, operation, idempotency_key, parameters, state, outcome, answered_at)"
            " values (%s, %s, %s, %s, '{}', %s, %s, case when %s = 'answered' then now() end)",
            (payment_id, subject_id, operation, f"{subject_id}/{operation}/1", state, outcome, state),
        )

    def letter(
        self,
        payment_id: UUID,
        payload: str,
        resolved_at: str,
        resolution: str,
        *,
        origin: str = "queue:refund_requested",
        message_id: str | None = None,
    ) -> None:
        self.conn.execute(
            "insert into payments.dead_letters"
            " (origin, message_id, payment_id, payload, attempts, error, resolved_at, resolution)"
            f" values (%s, %s, %s, %s::jsonb, 5, 'x', {resolved_at}, {resolution})",
            (origin, message_id or str(uuid4()), payment_id, payload),
        )

    def news(self, payment_id: UUID, last_error: str) -> None:
        self.conn.execute(
            "insert into payments.inbox (source, message_id, message_type, payment_id, payload, last_error)"
            " values ('stripe-webhook', %s, 'x', %s, '{}', %s)",
            (str(uuid4()), payment_id, last_error),
        )

    async def run(self) -> dict[str, int]:
        async with open_pool(self.database.dsn(ROLE), ROLE, 2) as pool:
            around = Surroundings(pool, None, self.notices, Settings.load({}))  # type: ignore[arg-type]  # asks nobody
            await send_lost_commands(around)
            return dict(around.found)
