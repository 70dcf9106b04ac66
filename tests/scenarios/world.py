"""One scenario's view of a running system: its HTTP API, its tables and queues, and Stripe on the other side."""

import os
import signal
from typing import Any
from uuid import uuid4

import httpx
import psycopg
from psycopg.rows import dict_row

from tests.conftest import wait_until
from tests.scenarios.books import Allowed, Known, find_differences, read_books, read_known
from tests.scenarios.stripe import Stripe
from tests.system.running import System

AGREE_S = 25.0  # polls, retries and leases of a busy machine; a healthy system agrees within two seconds
AMOUNT = 1999


class World:
    """A running system, and what was there before the scenario began."""

    def __init__(self, system: System, stripe: Stripe) -> None:
        self.system = system
        self.http = system.http
        self.stripe = stripe
        with system.connect() as conn:
            self._known: Known = read_known(conn, stripe.ledger())

    def count_everything(self) -> None:
        """From the first payment on, whatever was there when this view began."""
        self._known = Known(set(), set(), set())

    def authorize(self, wait_s: int | None = 20, key: str | None = None, **changes: Any) -> httpx.Response:
        """Ask for a payment of 19.99 EUR by a card that works, but for the changes (None: left away)."""
        body = {"cartId": str(uuid4()), "amount": AMOUNT, "currency": "EUR", "paymentMethod": "pm_card_visa"} | changes
        body = {name: value for name, value in body.items() if value is not None}
        headers = {"Idempotency-Key": key or str(uuid4())} | ({"Prefer": f"wait={wait_s}"} if wait_s else {})
        return self.http.post("/payments/authorize", json=body, headers=headers)

    def accepted(self, **changes: Any) -> dict[str, Any]:
        """A payment as it is accepted, before anything has happened."""
        answer = self.authorize(wait_s=None, **changes)
        assert answer.status_code == 201, answer.text
        return dict(answer.json())

    def paid(self, **changes: Any) -> dict[str, Any]:
        """A payment that has succeeded."""
        return self._settled("SUCCEEDED", **changes)

    def held(self, **changes: Any) -> dict[str, Any]:
        """A payment whose money is held, for an order that is known (so that nobody takes it for an orphan)."""
        return self._settled("AUTHORIZED", **({"captureMethod": "manual", "orderId": str(uuid4())} | changes))

    def _settled(self, status: str, **changes: Any) -> dict[str, Any]:
        answer = self.authorize(**changes)
        assert (answer.status_code, answer.json().get("status")) == (201, status), answer.text
        return dict(answer.json())

    def payment(self, payment_id: str) -> dict[str, Any]:
        return dict(self.http.get(f"/payments/{payment_id}").raise_for_status().json())

    def until(self, payment_id: str, *statuses: str, deadline_s: float = AGREE_S) -> dict[str, Any]:
        """The payment once it is in one of these states."""

        def reached() -> dict[str, Any] | None:
            found = self.payment(payment_id)
            return found if found["status"] in statuses else None

        payment = wait_until(reached, deadline_s)
        assert payment is not None
        return payment

    def act(self, payment_id: str, what: str, body: Any = None, **headers: str) -> httpx.Response:
        """POST capture, void or refunds, and wait until the wish is settled."""
        content = {} if body is None else {"json": body}
        return self.http.post(f"/payments/{payment_id}/{what}", headers={"Prefer": "wait=20"} | headers, **content)

    def refunds(self, payment_id: str) -> list[dict[str, Any]]:
        return list(self.http.get(f"/payments/{payment_id}/refunds").raise_for_status().json()["items"])

    def refund_until(self, refund_id: str, status: str) -> dict[str, Any]:
        """The refund once it is in this state."""

        def reached() -> dict[str, Any] | None:
            found = dict(self.http.get(f"/refunds/{refund_id}").raise_for_status().json())
            return found if found["status"] == status else None

        refund = wait_until(reached, AGREE_S)
        assert refund is not None
        return refund

    def history(self, payment_id: str) -> list[dict[str, Any]]:
        return list(self.http.get(f"/payments/{payment_id}/history").raise_for_status().json()["items"])

    def way(self, payment_id: str) -> list[str]:
        """The states that a payment went through."""
        return [one["to"] for one in self.history(payment_id) if one["from"] != one["to"]]

    def events(self, payment_id: str) -> list[str]:
        """What was published of a payment, in its order."""
        query = "select event_type from payments.outbox where aggregate_id = %s order by sequence"
        return [row[0] for row in self.system.rows(query, payment_id)]

    def call(self, payment_id: str, operation: str = "create_payment_intent") -> dict[str, Any]:
        """The newest intended call of a payment; empty while there is none."""
        query = "select * from payments.stripe_requests where payment_id = %s and operation = %s order by call_id desc"
        return next(iter(self.dicts(f"{query} limit 1", payment_id, operation)), {})

    def in_doubt(self, payment_id: str, operation: str = "create_payment_intent") -> dict[str, Any]:
        """The call once its outcome is known to be unknown."""
        return wait_until(
            lambda: call if (call := self.call(payment_id, operation)).get("state") == "in_doubt" else {}, AGREE_S
        )

    def inbox(self, message_id: str) -> dict[str, Any]:
        """A row of the inbox; empty while there is none."""
        return next(iter(self.dicts("select * from payments.inbox where message_id = %s", message_id)), {})

    def heard(self, payment_id: str, kind: str) -> dict[str, Any]:
        """An event about a payment as its webhook brought it, once it did."""
        query = """select payload from payments.inbox
            where payment_id = %s and message_type = %s and source = 'stripe-webhook'"""
        return dict(wait_until(lambda: self.dicts(query, payment_id, kind), AGREE_S)[0]["payload"])

    def weighed(self, message_id: str) -> dict[str, Any]:
        """A row of the inbox once it is done with."""
        return wait_until(lambda: row if (row := self.inbox(message_id)).get("processed_at") else {}, AGREE_S)

    def dead_letters(self, payment_id: str | None) -> list[dict[str, Any]]:
        query = "select * from payments.dead_letters where payment_id is not distinct from %s and resolved_at is null"
        return self.dicts(query, payment_id)

    def dicts(self, query: str, *values: Any) -> list[dict[str, Any]]:
        return self.system.kept.ask(lambda conn: conn.cursor(row_factory=dict_row).execute(query, values).fetchall())

    def execute(self, statement: str, *values: Any) -> None:
        """Do something by hand, as an administrator could."""
        with self.system.connect() as conn:
            conn.execute(statement, values)

    def logged(self, *words: str) -> bool:
        """Whether one line of the log has all the words."""
        lines = self.system.output.read_text(errors="replace").splitlines()
        return any(all(word in line for word in words) for line in lines)

    def deliver(self, body: bytes, headers: dict[str, str]) -> httpx.Response:
        """Send something to the webhook endpoint."""
        return httpx.post(f"{self.system.env['API_URL']}/webhooks/stripe", content=body, headers=headers, timeout=20.0)

    @property
    def webhook_secrets(self) -> list[str]:
        return self.system.env["STRIPE_WEBHOOK_SECRETS"].split(",")

    def freeze(self, process: str) -> int:
        """SIGSTOP a process; returns its id for `thaw`."""
        pid = self.system.pid(process)
        assert pid is not None
        os.kill(pid, signal.SIGSTOP)
        return pid

    def freeze_at_rest(self, process: str) -> int:
        """SIGSTOP a relay or worker in a moment in which none of its kind holds a lock of the database's."""
        busy = "select 1 from pg_stat_activity where usename = %s and xact_start is not null"
        role = f"payments_{process.partition('.')[0]}"
        with self.system.connect() as conn:
            while True:
                pid = self.freeze(process)
                for _ in range(5):
                    if not conn.execute(busy, (role,)).fetchall():
                        return pid
                self.thaw(pid)

    @staticmethod
    def thaw(pid: int) -> None:
        os.kill(pid, signal.SIGCONT)

    def agree(self, *, deadline_s: float = AGREE_S, **allowed: Any) -> None:
        """The end of every scenario: our books, Stripe's, and what was published say the same.

        Everything since the scenario began is compared, once nothing is under way any more. `Allowed` lists what a
        scenario may leave behind.
        """
        exceptions = Allowed(**allowed)
        found: list[str] = ["not compared yet"]

        def agrees() -> bool:
            try:
                books = self.system.kept.ask(lambda conn: read_books(conn, self.stripe.ledger(), self._known))
                webhooks = self.stripe.deliveries(status="pending")
            except (psycopg.OperationalError, httpx.TransportError) as error:  # killed on purpose a moment ago
                found[:] = [repr(error)]
                return False
            found[:] = find_differences(books, exceptions)
            found.extend(f"a webhook is under way: {one['type']}" for one in webhooks)
            return not found

        try:
            wait_until(agrees, deadline_s)
        except AssertionError:
            raise AssertionError("the books do not agree:\n" + "\n".join(found)) from None
