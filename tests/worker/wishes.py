"""Wishes of every kind, as the API leaves them, with what they need at Stripe."""

import json
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from payments.domain.identifiers import new_id
from tests.worker.world import INTENTS, World

CREATE, CAPTURE = "create_payment_intent", "capture_payment_intent"
CANCEL, REFUND = "cancel_payment_intent", "create_refund"
QUEUES = {
    CREATE: "payment_requested",
    CAPTURE: "capture_requested",
    CANCEL: "void_requested",
    REFUND: "refund_requested",
}
AMOUNT, PART = 1000, 700


@dataclass(frozen=True)
class Wish:
    """One wish, and what became of it."""

    world: World
    operation: str
    payment_id: UUID
    subject_id: UUID
    intent_id: str | None
    command: dict[str, str]

    @property
    def queue(self) -> str:
        return QUEUES[self.operation]

    def send(self, **more: str) -> None:
        self.world.send({**self.command, **more}, queue=self.queue)

    def key(self, generation: int = 1) -> str:
        return f"{self.subject_id}/{self.operation}/{generation}"

    def fault(self, fault: str, generation: int = 1, **fields: Any) -> None:
        match = {"idempotency_key": self.key(generation)}
        self.world.sandbox.steer("POST", "faults", fault=fault, match=match, **fields)

    def lines(self) -> list[dict[str, Any]]:
        """What Stripe has seen of it, in order."""
        lines = self.world.sandbox.steer("GET", "requests?limit=1000")["requests"]
        mine = f"{self.subject_id}/{self.operation}/"
        return [line for line in lines if (line["idempotency_key"] or "").startswith(mine)]

    def keys(self) -> set[str]:
        return {line["idempotency_key"] for line in self.lines()}

    def intents(self) -> list[dict[str, Any]]:
        return self.world.sandbox.intents(self.payment_id)

    def effects(self) -> list[int]:
        """The amounts of what was really done for it at Stripe."""
        entries = [entry for intent in self.intents() for entry in intent["entries"]]
        match self.operation:
            case "create_payment_intent" | "capture_payment_intent":
                return [entry["amount"] for entry in entries if entry["act"] == "capture"]
            case "cancel_payment_intent":
                return [entry["amount"] for entry in entries if entry["act"] == "release"]
            case _:
                refunds = [refund for intent in self.intents() for refund in intent["refunds"]]
                return [one["amount"] for one in refunds if one["metadata"].get("refundId") == str(self.subject_id)]

    @property
    def wanted(self) -> list[int]:
        return [AMOUNT] if self.operation in {CREATE, CANCEL} else [PART]

    def calls(self) -> list[dict[str, Any]]:
        """Its generations, the oldest first."""
        columns = ("call_id", "generation", "state", "outcome", "attempts", "http_status", "parameters")
        rows = self.world.rows(
            f"select {', '.join(columns)} from payments.stripe_requests where subject_id = %s and operation = %s "
            "order by generation",
            self.subject_id,
            self.operation,
        )
        return [dict(zip(columns, row, strict=True)) for row in rows]

    def state(self) -> str | None:
        calls = self.calls()
        return str(calls[-1]["state"]) if calls else None

    def answers(self) -> list[dict[str, Any]]:
        query = (
            "select payload from payments.inbox where message_type = %s and payload ->> 'subjectId' = %s "
            "order by inbox_id"
        )
        return [row[0] for row in self.world.rows(query, f"api.{self.operation}", str(self.subject_id))]

    def done(self) -> bool:
        return self.state() == "answered" and self.world.queued(self.queue) == 0

    def at_rest(self) -> bool:
        return self.world.queued(self.queue) == 0


def wish_for(world: World, operation: str, *, sends: bool = True) -> Wish:
    """A wish, its payment in the state in which the API leaves it, and its command in the queue."""
    if operation == CREATE:
        payment_id = world.request() if sends else world.payment()
        return Wish(world, operation, payment_id, payment_id, None, {"paymentId": str(payment_id)})
    is_held = operation != REFUND
    payment_id = world.payment("manual" if is_held else "automatic")
    intent = charge(world, payment_id, "manual" if is_held else "automatic")
    subject_id, command = payment_id, {"paymentId": str(payment_id)}
    if operation == CAPTURE:
        subject_id = new_id()
        command["captureId"] = str(subject_id)
    change(
        world,
        payment_id,
        status={CAPTURE: "CAPTURING", CANCEL: "VOIDING", REFUND: "SUCCEEDED"}[operation],
        processor_payment_intent=intent["id"],
        amount_authorized=AMOUNT,
        amount_captured=0 if is_held else AMOUNT,
        capture_id=subject_id if operation == CAPTURE else None,
        amount_to_capture=PART if operation == CAPTURE else None,
    )
    if operation == REFUND:
        subject_id = request_refund(world, payment_id, PART)
        command["refundId"] = str(subject_id)
    wish = Wish(world, operation, payment_id, subject_id, str(intent["id"]), command)
    if sends:
        wish.send()
    return wish


def charge(world: World, payment_id: UUID, capture_method: str) -> dict[str, Any]:
    """A PaymentIntent at Stripe, as our call would have made it."""
    form = {
        "amount": AMOUNT,
        "currency": "eur",
        "confirm": "true",
        "payment_method": "pm_card_visa",
        "allowed_payment_method_types[]": "card",
        "capture_method": capture_method,
        "metadata[paymentId]": str(payment_id),
    }
    answer = world.sandbox.call("POST", INTENTS, data=form)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def change(world: World, payment_id: UUID, **columns: Any) -> None:
    """Puts a payment into a state, past its guards."""
    with world.database.connect() as conn, conn.transaction():
        conn.execute("alter table payments.payments disable trigger user")
        changes = ", ".join(f"{column} = %({column})s" for column in columns)
        conn.execute(f"update payments.payments set {changes} where payment_id = %(id)s", {"id": payment_id, **columns})
        conn.execute("alter table payments.payments enable trigger user")


def request_refund(world: World, payment_id: UUID, amount: int, reason: str | None = None) -> UUID:
    """A refund as the API leaves it."""
    refund_id = new_id()
    world.execute(
        "insert into payments.refunds (refund_id, payment_id, amount, currency, reason) values (%s, %s, %s, 'EUR', %s)",
        refund_id,
        payment_id,
        amount,
        reason,
    )
    return refund_id


def attempted(wish: Wish, parameters: dict[str, Any], ago: str = "1 hour", **columns: Any) -> None:
    """An attempt that another worker, perhaps of another version, has made and not lived to record."""
    fields = {
        "payment_id": wish.payment_id,
        "subject_id": wish.subject_id,
        "operation": wish.operation,
        "idempotency_key": wish.key(),
        "parameters": json.dumps(parameters),
        "attempts": 1,
        "state": "in_flight",
        **columns,
    }
    values = ", ".join(f"%({name})s" for name in fields)
    with wish.world.database.connect() as conn:
        conn.execute(
            f"insert into payments.stripe_requests ({', '.join(fields)}, first_attempt_at) "
            f"values ({values}, clock_timestamp() - %(ago)s::interval)",
            {**fields, "ago": ago},
        )
