"""One look of the reconciler at a time, in this process, at a Stripe that a test can hold up."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import psycopg

from payments.reconciler.jobs import Surroundings
from payments.stripe_gateway.outcomes import Answered, Outcome
from tests.database.rows import insert_payment


class Stripe:
    """A list of PaymentIntents, one a page, that can be held up."""

    def __init__(self) -> None:
        self.intents: list[dict[str, Any]] = []
        self.asked: list[tuple[int, int]] = []
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        self.has_endless_refunds = False
        self.behind = timedelta(0)

    def stripe_time(self) -> datetime:
        return datetime.now(UTC) - self.behind

    def add(self, number: int, payment_id: UUID | None = None) -> None:
        self.intents.insert(
            0,
            {
                "id": f"pi_{number}",
                "object": "payment_intent",
                "status": "succeeded",
                "created": int(datetime.now(UTC).timestamp()) - 1000 + number,
                "metadata": {"paymentId": str(payment_id)} if payment_id else {},
            },
        )

    async def list_payment_intents(self, gte: int, lte: int, after: str | None = None) -> Outcome:
        self.asked.append((gte, lte))
        await self.may_answer.wait()
        fitting = [one for one in self.intents if gte <= one["created"] <= lte]
        if after is not None:
            fitting = fitting[next(place for place, one in enumerate(fitting) if one["id"] == after) + 1 :]
        return Answered({"object": "list", "data": fitting[:1], "has_more": len(fitting) > 1}, 200, "req_list")

    async def retrieve_payment_intent(self, intent_id: str) -> Outcome:
        return Answered(next(one for one in self.intents if one["id"] == intent_id), 200, "req_one")

    async def list_refunds(self, _intent_id: str, starting_after: str | None = None) -> Outcome:
        """None, or ever more that somebody else has made."""
        number = int(starting_after.removeprefix("re_")) + 1 if starting_after else 0
        refunds = [{"id": f"re_{number}", "object": "refund", "status": "succeeded", "metadata": {}}]
        data = refunds if self.has_endless_refunds else []
        return Answered({"object": "list", "data": data, "has_more": self.has_endless_refunds}, 200, "req_list")


class Notices:
    def notify(self, channel: str, payload: str = "") -> None:
        pass


class Bench:
    def __init__(self, conn: psycopg.Connection[Any], around: Surroundings, stripe: Stripe) -> None:
        self.conn, self.around, self.stripe = conn, around, stripe

    def doubtful(self, payment_id: UUID | None = None) -> UUID:
        payment_id = payment_id or insert_payment(self.conn)
        self.conn.execute(
            "insert into payments.stripe_requests (payment_id, subject_id, operation, idempotency_key, parameters,"
            " attempts, state, http_status, first_attempt_at, last_attempt_at)"
            " values (%(id)s, %(id)s, 'create_payment_intent', %(id)s, '{}', 1, 'to_reconcile', 500,"
            " now() - interval '1000 s', now() - interval '900 s')",
            {"id": payment_id},
        )
        return payment_id

    def doubtful_refund(self) -> UUID:
        """A refund of a payment that has succeeded, and that Stripe answers for with a kept 500."""
        payment_id, refund_id = insert_payment(self.conn), uuid4()
        self.conn.execute(
            "update payments.payments set status = 'SUCCEEDED', amount_authorized = amount, amount_captured = amount,"
            " processor_payment_intent = 'pi_1' where payment_id = %s",
            (payment_id,),
        )
        self.conn.execute(
            "insert into payments.refunds (refund_id, payment_id, amount, currency) values (%s, %s, 100, 'EUR')",
            (refund_id, payment_id),
        )
        self.conn.execute(
            "insert into payments.stripe_requests (payment_id, subject_id, operation, idempotency_key, parameters,"
            " attempts, state, http_status, first_attempt_at, last_attempt_at)"
            " values (%(payment)s, %(refund)s, 'create_refund', %(refund)s, '{}', 1, 'to_reconcile', 500,"
            " now() - interval '1000 s', now() - interval '900 s')",
            {"payment": payment_id, "refund": refund_id},
        )
        return refund_id

    def failed(self) -> UUID:
        """A payment that has failed here, and whose PaymentIntent has succeeded at Stripe."""
        payment_id = insert_payment(self.conn)
        self.stripe.add(1, payment_id)
        self.conn.execute(
            "update payments.payments set status = 'FAILED', failure_reason = 'CARD_DECLINED',"
            " processor_payment_intent = 'pi_1' where payment_id = %s",
            (payment_id,),
        )
        return payment_id

    def watch(self, payment_id: UUID) -> None:
        """A look at this payment is due, and at no other."""
        self.conn.execute("delete from payments.watches")
        self.conn.execute(
            "insert into payments.watches (payment_id, looks, next_look_at) values (%s, 1, now())", (payment_id,)
        )

    def calls(self) -> list[tuple[Any, ...]]:
        query = "select state, outcome from payments.stripe_requests order by call_id"
        return self.conn.execute(query).fetchall()

    def commands(self) -> list[tuple[Any, ...]]:
        return self.conn.execute("select message ->> 'paymentId' from pgmq.q_payment_requested").fetchall()

    def refund_commands(self) -> list[tuple[Any, ...]]:
        return self.conn.execute("select message ->> 'refundId' from pgmq.q_refund_requested").fetchall()
