"""Disputes by hand: what is disputed never changes, and a dispute never goes back."""

import itertools
from collections.abc import Iterator
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest

from payments.domain import disputes
from tests.database.rows import insert_payment, settle
from tests.development.databases import Database

pytestmark = pytest.mark.every_postgres
CHECK = psycopg.errors.CheckViolation
DENIED = psycopg.errors.InsufficientPrivilege
ENDS = ["warning_closed", "prevented", "won", "lost"]
APPEALS = ["appeal_needs_response", "appeal_under_review"]
STATUSES = ["warning_needs_response", "warning_under_review", "needs_response", "under_review", *APPEALS, *ENDS]


@pytest.fixture(scope="module")
def worker(module_database: Database) -> Iterator[psycopg.Connection[Any]]:
    with module_database.connect("payments_worker") as conn:
        yield conn


def dispute(database: Database, status: str) -> UUID:
    with database.connect() as admin:
        payment_id = insert_payment(admin)
        settle(admin, payment_id, "SUCCEEDED")
        dispute_id = uuid4()
        admin.execute(
            """
            insert into payments.disputes (
              dispute_id, payment_id, processor_reference, amount, currency, status, opened_at, closed_at
            )
            values (%s, %s, %s, 1000, 'EUR', %s, now(), case when %s then now() end)
            """,
            (dispute_id, payment_id, f"dp_{dispute_id}", status, status in ENDS),
        )
    return dispute_id


def move(conn: psycopg.Connection[Any], dispute_id: UUID, status: str) -> None:
    conn.execute(
        "update payments.disputes set status = %s, closed_at = case when %s then now() end where dispute_id = %s",
        (status, status in ENDS, dispute_id),
    )


@pytest.mark.parametrize(("old", "new"), list(itertools.permutations(STATUSES, 2)))
def test_a_dispute_never_goes_back_but_for_an_appeal(
    module_database: Database, worker: psycopg.Connection[Any], old: str, new: str
) -> None:
    dispute_id = dispute(module_database, old)
    if disputes._rank(new) >= disputes._rank(old) or (old in ENDS and new in APPEALS):
        move(worker, dispute_id, new)
        row = worker.execute("select status from payments.disputes where dispute_id = %s", (dispute_id,)).fetchone()
        assert row == (new,)
    else:
        with pytest.raises(CHECK, match=f"cannot go from {old} back to {new}"):
            move(worker, dispute_id, new)


@pytest.mark.parametrize("status", ["", "charge_refunded", "WON"])
def test_a_status_that_nobody_knows_is_refused(
    module_database: Database, worker: psycopg.Connection[Any], status: str
) -> None:
    dispute_id = dispute(module_database, "needs_response")
    with pytest.raises(CHECK):
        move(worker, dispute_id, status)


@pytest.mark.parametrize("change", ["closed_at = now()", "status = 'lost'"])
def test_a_dispute_is_closed_at_its_end(
    module_database: Database, worker: psycopg.Connection[Any], change: str
) -> None:
    dispute_id = dispute(module_database, "under_review")
    with pytest.raises(CHECK, match="disputes_closed_has_time"):
        worker.execute(f"update payments.disputes set {change} where dispute_id = %s", (dispute_id,))


@pytest.mark.parametrize(
    "change",
    [
        "amount = 1",
        "currency = 'USD'",
        "payment_id = gen_random_uuid()",
        "processor_reference = 'dp_other'",
        "reason = 'other'",
        "opened_at = now() + '1 s'",
    ],
)
def test_what_is_disputed_never_changes(
    module_database: Database, worker: psycopg.Connection[Any], change: str
) -> None:
    dispute_id = dispute(module_database, "needs_response")
    statement = f"update payments.disputes set {change} where dispute_id = %s"
    with pytest.raises(DENIED):
        worker.execute(statement, (dispute_id,))
    with module_database.connect() as admin, pytest.raises(CHECK, match="what is disputed never changes"):
        admin.execute(statement, (dispute_id,))


@pytest.mark.parametrize("role", ["payments_api", "payments_relay", "payments_readonly"])
@pytest.mark.parametrize(
    "statement",
    [
        "update payments.disputes set status = 'won'",
        "insert into payments.disputes (dispute_id) values (gen_random_uuid())",
    ],
)
def test_only_the_worker_hears_of_disputes(module_database: Database, role: str, statement: str) -> None:
    with module_database.connect(role) as conn, pytest.raises(DENIED):
        conn.execute(statement)
