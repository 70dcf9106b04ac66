"""Whatever the service's roles write by hand, in whatever order: no row is left that contradicts the books."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from random import Random
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from psycopg.rows import dict_row

from payments.domain.states import PaymentStatus, may_change
from tests.database.rows import insert_payment, settle
from tests.development.databases import Database

AMOUNT = 1000
TRANSACTIONS = 40
ENDED = {"FAILED", "VOIDED", "EXPIRED"}

# What roles may want to write into a column: what is right at times, and what never is.
STATUSES = [f"'{status}'" for status in PaymentStatus]
AMOUNTS = ["0", "1", "400", "999", "1000", "1001", "-1", "amount", "amount_authorized", "amount_captured"]
IDS = ["gen_random_uuid()", "null"]
PAYMENT_VALUES = {
    "status": STATUSES,
    "amount_authorized": AMOUNTS,
    "amount_captured": AMOUNTS,
    "amount_to_capture": [*AMOUNTS, "null"],
    "amount_reserved": AMOUNTS,
    "amount_refunded": AMOUNTS,
    "capture_id": IDS,
    "order_id": IDS,
    "failure_reason": ["'CARD_DECLINED'", "'EXPIRED_CARD'", "null"],
    "next_action": ["""'{"clientSecret": "x"}'""", "null"],
    "processor_payment_intent": ["'pi_' || payment_id", "'pi_other_' || payment_id", "null"],
    "last_sequence": ["last_sequence + 1", "last_sequence - 1", "1", "7"],
    "amount": ["1", "99999999"],
    "disputed": ["true", "false"],
}
NUMBER = "update payments.payments set last_sequence = last_sequence + 1 where payment_id = %(payment_id)s"
# The way a payment goes when all is well, so that walks get far enough to do harm there.
STEPS = [
    "status = 'AUTHORIZED', amount_authorized = amount, next_action = null",
    "status = 'SUCCEEDED', amount_authorized = amount, amount_captured = amount, next_action = null",
    "status = 'SUCCEEDED', amount_captured = 400",
    "status = 'FAILED', failure_reason = 'CARD_DECLINED', next_action = null, amount_authorized = 0",
    "status = 'VOIDED', next_action = null",
    "status = 'ACTION_REQUIRED', next_action = '{}'",
    "status = 'CONFLICTED', next_action = null",
    "status = 'CAPTURING', capture_id = gen_random_uuid(), amount_to_capture = amount_authorized",
    "status = 'VOIDING', next_action = null",
]
REFUND_VALUES = {
    "status": ["'REQUESTED'", "'PENDING'", "'PROCESSED'", "'FAILED'"],
    "processor_reference": ["'re_' || refund_id", "null"],
    "failure_reason": ["'declined'", "null"],
    "amount": ["1", "1000"],
}
REFUND_STEPS = [
    "status = 'PENDING', processor_reference = 're_' || refund_id",
    "status = 'PROCESSED', processor_reference = 're_' || refund_id, failure_reason = null",
    "status = 'FAILED', failure_reason = 'declined'",
]
EVENTS = [
    "payment-succeeded",
    "payment-failed",
    "refund-requested",
    "void-requested",
    "refund-processed",
    "dispute-opened",
]


def assignments(random: Random, values: dict[str, list[str]]) -> str:
    columns = random.sample(sorted(values), random.randint(1, 3))
    return ", ".join(f"{column} = {random.choice(values[column])}" for column in columns)


def update(random: Random, table: str, steps: list[str], values: dict[str, list[str]]) -> str:
    change = random.choice(steps) if random.random() < 0.7 else assignments(random, values)
    return f"update payments.{table} set {change} where payment_id = %(payment_id)s"


def refund(random: Random) -> str:
    refund_id = random.choice(["gen_random_uuid()", "gen_random_uuid()", "%(refund_id)s"])
    reason = random.choice(["null", "null", "'duplicate'", "'compensation'", "'compensation'"])
    conflict = random.choice(
        ["", "on conflict do nothing", "on conflict (refund_id) do update set failure_reason = null"]
    )
    return f"""
        insert into payments.refunds (refund_id, payment_id, amount, currency, reason)
        values ({refund_id}, %(payment_id)s, {random.choice([1, 100, 300, 400, 600, 1001])}, 'EUR', {reason}) {conflict}
        """


def event(random: Random) -> str:
    sequence = random.choice(["last_sequence", "last_sequence", "last_sequence + 1", "9"])
    return f"""
        insert into payments.outbox (event_id, event_type, aggregate_id, sequence, payload, headers)
        select gen_random_uuid(), '{random.choice(EVENTS)}', payment_id, {sequence}, '{{}}', '{{}}'
        from payments.payments
        where payment_id = %(payment_id)s
        """


def transaction(random: Random) -> list[str]:
    """One to three statements, most of them such as the service might make."""
    match random.choices(["payment", "refund", "refunds", "event", "mixed"], [4, 5, 4, 2, 3])[0]:
        case "payment":
            return [update(random, "payments", STEPS, PAYMENT_VALUES)]
        case "refund":
            return [refund(random)]
        case "refunds":
            return [update(random, "refunds", REFUND_STEPS, REFUND_VALUES)]
        case "event":
            return random.choice([[NUMBER, event(random)], [event(random)], [NUMBER], [event(random), NUMBER]])
        case _:
            return [*transaction(random)[:2], *transaction(random)[:1]]


@dataclass
class Books:
    """One payment, watched by the superuser."""

    admin: psycopg.Connection[dict[str, Any]]
    payment_id: UUID
    status: str = "REQUESTED"
    captured: int = 0
    refunds: dict[UUID, tuple[str, int]] = field(default_factory=dict)

    def rows(self, table: str, key: str = "payment_id") -> list[dict[str, Any]]:
        return self.admin.execute(f"select * from payments.{table} where {key} = %s", (self.payment_id,)).fetchall()

    def check(self) -> None:
        (payment,) = self.rows("payments")
        refunds = self.rows("refunds")
        self.check_payment(payment)
        self.check_refunds(payment, refunds)
        sequences = sorted(row["sequence"] for row in self.rows("outbox", "aggregate_id"))
        assert sequences == list(range(1, payment["last_sequence"] + 1))
        self.status, self.captured = payment["status"], payment["amount_captured"]
        self.refunds = {row["refund_id"]: (row["status"], row["amount"]) for row in refunds}

    def check_payment(self, payment: dict[str, Any]) -> None:
        status = payment["status"]
        assert payment["amount"] == AMOUNT
        assert 0 <= payment["amount_refunded"] <= payment["amount_captured"] <= payment["amount_authorized"] <= AMOUNT
        assert self.captured in (0, payment["amount_captured"])
        assert (payment["amount_captured"] > 0) >= (status == "SUCCEEDED")
        assert (payment["next_action"] is not None) == (status == "ACTION_REQUIRED")
        assert (payment["failure_reason"] is not None) >= (status == "FAILED")
        if status == "CAPTURING":
            assert payment["capture_id"] is not None
            assert 1 <= payment["amount_to_capture"] <= payment["amount_authorized"]

    def check_refunds(self, payment: dict[str, Any], refunds: list[dict[str, Any]]) -> None:
        alive = [row for row in refunds if row["status"] != "FAILED"]
        processed = [row for row in refunds if row["status"] == "PROCESSED"]
        reserved = sum(row["amount"] for row in alive)
        assert payment["amount_reserved"] == reserved
        assert payment["amount_refunded"] == (sum(r["amount"] for r in processed) if payment["amount_captured"] else 0)
        assert reserved <= (payment["amount_captured"] or AMOUNT)
        if refunds and not payment["amount_captured"]:
            assert payment["status"] in {*ENDED, "CONFLICTED"}
            assert all(row["reason"] == "compensation" for row in refunds)
        order = ["REQUESTED", "PENDING", "PROCESSED", "FAILED"]
        now = {row["refund_id"]: row for row in refunds}
        for refund_id, (status, amount) in self.refunds.items():
            assert now[refund_id]["amount"] == amount
            assert order.index(now[refund_id]["status"]) >= order.index(status)

    def check_step(self, role: str, before: str) -> None:
        """A transaction of one statement goes one legal step, and the API's are wishes."""
        if self.status != before:
            assert may_change(PaymentStatus(before), PaymentStatus(self.status))
            assert role == "payments_worker" or self.status in ("CAPTURING", "VOIDING")


@pytest.fixture(scope="module")
def roles(module_database: Database) -> Iterator[dict[str, psycopg.Connection[Any]]]:
    with (
        module_database.connect("payments_api", autocommit=False) as api,
        module_database.connect("payments_worker", autocommit=False) as worker,
    ):
        yield {"payments_api": api, "payments_worker": worker}


def attempt(conn: psycopg.Connection[Any], statements: list[str], values: dict[str, Any], *, keep: bool) -> None:
    """One transaction; what is refused takes all of it along."""
    try:
        for statement in statements:
            conn.execute(statement, values)
        if keep:
            conn.commit()
        else:
            conn.rollback()
    except (psycopg.IntegrityError, psycopg.errors.InsufficientPrivilege):
        conn.rollback()


@pytest.mark.parametrize("seed", range(15))
@pytest.mark.parametrize("start", ["REQUESTED", "AUTHORIZED", "SUCCEEDED", "FAILED"])
def test_no_walk_leaves_a_contradiction(
    module_database: Database, roles: dict[str, psycopg.Connection[Any]], start: str, seed: int
) -> None:
    random = Random(f"{start} {seed}")
    with module_database.connect() as admin:
        payment_id = insert_payment(admin, amount=AMOUNT, capture_method="manual")
        settle(admin, payment_id, start)
        admin.row_factory = dict_row
        books = Books(admin, payment_id, start)
        values = {"payment_id": payment_id, "refund_id": uuid4()}
        for _ in range(TRANSACTIONS):
            role = random.choice(["payments_worker", "payments_worker", "payments_api"])
            statements, before = transaction(random), books.status
            attempt(roles[role], statements, values, keep=random.random() < 0.9)
            books.check()
            if len(statements) == 1:
                books.check_step(role, before)
