"""The books of refunds hold whoever writes by hand: never more than was captured, sums that agree with the rows."""

import threading
from collections.abc import Iterator
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from psycopg import IsolationLevel

from tests.conftest import wait_until
from tests.database.rows import insert_payment, insert_refund, settle
from tests.development.databases import Database

pytestmark = pytest.mark.every_postgres
CHECK = psycopg.errors.CheckViolation
DENIED = psycopg.errors.InsufficientPrivilege
LEVELS = [IsolationLevel.READ_COMMITTED, IsolationLevel.REPEATABLE_READ, IsolationLevel.SERIALIZABLE]


@pytest.fixture(scope="module")
def admin(module_database: Database) -> Iterator[psycopg.Connection[Any]]:
    with module_database.connect() as conn:
        yield conn


@pytest.fixture(scope="module")
def worker(module_database: Database) -> Iterator[psycopg.Connection[Any]]:
    with module_database.connect("payments_worker") as conn:
        yield conn


@pytest.fixture(scope="module")
def api(module_database: Database) -> Iterator[psycopg.Connection[Any]]:
    with module_database.connect("payments_api") as conn:
        yield conn


def sums(conn: psycopg.Connection[Any], payment_id: UUID) -> tuple[int, int]:
    """What the payment says of its refunds; fails unless its refunds say the same."""
    row = conn.execute(
        """
        select p.amount_reserved, p.amount_refunded, p.amount_captured,
          coalesce(sum(r.amount) filter (where r.status <> 'FAILED'), 0),
          coalesce(sum(r.amount) filter (where r.status = 'PROCESSED' and p.amount_captured > 0), 0)
        from payments.payments p left join payments.refunds r using (payment_id)
        where p.payment_id = %s group by p.payment_id
        """,
        (payment_id,),
    ).fetchone()
    assert row is not None
    assert row[:2] == row[3:]
    return row[0], row[1]


def move(conn: psycopg.Connection[Any], refund_id: UUID, status: str) -> None:
    conn.execute(
        """
        update payments.refunds
        set status = %(status)s, processor_reference = coalesce(processor_reference, 're_' || %(refund_id)s::text),
          failure_reason = case when %(status)s = 'FAILED' then 'declined' end
        where refund_id = %(refund_id)s
        """,
        {"status": status, "refund_id": refund_id},
    )


def paid(admin: psycopg.Connection[Any], amount: int = 1000) -> UUID:
    payment_id = insert_payment(admin, amount=amount)
    settle(admin, payment_id, "SUCCEEDED")
    return payment_id


def test_the_sums_follow_a_refund_on_its_way(admin: psycopg.Connection[Any], worker: psycopg.Connection[Any]) -> None:
    payment_id = paid(admin)
    refund_id = insert_refund(worker, payment_id, 600)
    assert sums(admin, payment_id) == (600, 0)
    when = "select updated_at from payments.refunds where refund_id = %s"
    for status, expected in [("PENDING", (600, 0)), ("PROCESSED", (600, 600)), ("FAILED", (0, 0))]:
        before = admin.execute(when, (refund_id,)).fetchall()
        move(worker, refund_id, status)
        assert admin.execute(when, (refund_id,)).fetchall() > before
        assert sums(admin, payment_id) == expected
    again = insert_refund(worker, payment_id, 1000)
    move(worker, again, "PROCESSED")
    assert sums(admin, payment_id) == (1000, 1000)


@pytest.mark.parametrize(
    "walk", ["PENDING REQUESTED", "PROCESSED PENDING", "PROCESSED REQUESTED", "FAILED PENDING", "FAILED PROCESSED"]
)
def test_a_refund_never_goes_back(admin: psycopg.Connection[Any], worker: psycopg.Connection[Any], walk: str) -> None:
    payment_id = paid(admin)
    refund_id = insert_refund(worker, payment_id, 600)
    first, second = walk.split()
    move(worker, refund_id, first)
    before = sums(admin, payment_id)
    with pytest.raises(CHECK, match=f"cannot go from {first} to {second}"):
        move(worker, refund_id, second)
    assert sums(admin, payment_id) == before


@pytest.mark.parametrize(
    "conflict",
    ["(refund_id) do nothing", "do nothing", "(refund_id) do update set failure_reason = null"],
)
def test_a_refund_inserted_again_is_counted_once(
    admin: psycopg.Connection[Any], worker: psycopg.Connection[Any], conflict: str
) -> None:
    """A BEFORE trigger runs for rows that ON CONFLICT then leaves out, and what it did elsewhere stays."""
    payment_id = paid(admin)
    refund_id = uuid4()
    for _ in range(3):
        worker.execute(
            f"""
            insert into payments.refunds (refund_id, payment_id, amount, currency) values (%s, %s, 300, 'EUR')
            on conflict {conflict}
            """,
            (refund_id, payment_id),
        )
    assert sums(admin, payment_id) == (300, 0)


def test_many_refunds_of_one_statement_are_all_counted(
    admin: psycopg.Connection[Any], worker: psycopg.Connection[Any]
) -> None:
    payment_id = paid(admin)
    statement = """
        insert into payments.refunds (refund_id, payment_id, amount, currency)
        select gen_random_uuid(), %s, 250, 'EUR' from generate_series(1, %s)
        """
    with pytest.raises(CHECK, match="payments_reserved_within_captured"):
        worker.execute(statement, (payment_id, 5))
    assert sums(admin, payment_id) == (0, 0)
    worker.execute(statement, (payment_id, 4))
    assert sums(admin, payment_id) == (1000, 0)
    worker.execute(
        "update payments.refunds set status = 'PROCESSED', processor_reference = refund_id::text where payment_id = %s",
        (payment_id,),
    )
    assert sums(admin, payment_id) == (1000, 1000)


def test_a_refund_and_its_payment_change_in_one_statement(
    admin: psycopg.Connection[Any], api: psycopg.Connection[Any]
) -> None:
    payment_id = paid(admin)
    with api.transaction():
        api.execute(
            """
            with made as (
              insert into payments.refunds (refund_id, payment_id, amount, currency)
              values (gen_random_uuid(), %(payment_id)s, 400, 'EUR') returning payment_id
            ), changed as (
              update payments.payments p set last_sequence = last_sequence + 1 from made
              where p.payment_id = made.payment_id
              returning p.payment_id, p.last_sequence
            )
            insert into payments.outbox (event_id, event_type, aggregate_id, sequence, payload, headers)
            select gen_random_uuid(), 'refund-requested', payment_id, last_sequence, '{}', '{}' from changed
            """,
            {"payment_id": payment_id},
        )
    assert sums(admin, payment_id) == (400, 0)


@pytest.mark.parametrize("level", LEVELS, ids=lambda level: level.name)
def test_two_sessions_at_once_never_refund_too_much(module_database: Database, level: IsolationLevel) -> None:
    """Neither sees the other's refund; the second waits for the payment's row, then it is too much, or begins again."""
    with module_database.connect() as admin, module_database.connect("payments_api") as one:
        payment_id = paid(admin)
        outcomes: list[type[BaseException] | None] = []

        def refund_beside() -> None:
            with module_database.connect("payments_api", autocommit=False) as two:
                two.set_isolation_level(level)
                two.execute("select amount_captured from payments.payments where payment_id = %s", (payment_id,))
                started.set()
                try:
                    insert_refund(two, payment_id, 600)
                    two.commit()
                    outcomes.append(None)
                except psycopg.Error as error:
                    outcomes.append(type(error))

        started = threading.Event()
        one.autocommit = False
        one.set_isolation_level(level)
        insert_refund(one, payment_id, 600)
        beside = threading.Thread(target=refund_beside)
        beside.start()
        started.wait(10)
        wait_until(
            lambda: admin.execute(
                "select 1 from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'"
            ).fetchone()
        )
        one.commit()
        beside.join(10)
        expected = CHECK if level is IsolationLevel.READ_COMMITTED else psycopg.errors.SerializationFailure
        assert outcomes == [expected]
        assert sums(admin, payment_id) == (600, 0)


@pytest.mark.parametrize(
    "statement", ["amount_reserved = 0", "amount_refunded = 0", "amount_refunded = amount_reserved"]
)
def test_the_sums_are_written_by_nobody_by_hand(
    admin: psycopg.Connection[Any], worker: psycopg.Connection[Any], statement: str
) -> None:
    payment_id = paid(admin)
    move(worker, insert_refund(worker, payment_id, 100), "PROCESSED")
    insert_refund(worker, payment_id, 300)
    with pytest.raises(CHECK, match="sums of its refunds"):
        admin.execute(f"update payments.payments set {statement} where payment_id = %s", (payment_id,))
    assert sums(admin, payment_id) == (400, 100)


@pytest.mark.parametrize(
    "change",
    [
        "amount = 1",
        "currency = 'USD'",
        "reason = 'other'",
        "external = true",
        "created_at = now()",
        "payment_id = gen_random_uuid()",
        "refund_id = gen_random_uuid()",
        "processor_reference = 're_other'",
    ],
)
def test_what_was_asked_for_never_changes(admin: psycopg.Connection[Any], change: str) -> None:
    payment_id = paid(admin)
    refund_id = insert_refund(admin, payment_id, 100)
    move(admin, refund_id, "PENDING")
    with pytest.raises(CHECK, match="never changes"):
        admin.execute(f"update payments.refunds set {change} where refund_id = %s", (refund_id,))


@pytest.mark.parametrize(
    "status", ["REQUESTED", "PROCESSING", "ACTION_REQUIRED", "AUTHORIZED", "CAPTURING", "VOIDING", "CONFLICTED"]
)
@pytest.mark.parametrize("reason", ["compensation", "duplicate"])
def test_what_has_not_ended_gives_nothing_back(
    admin: psycopg.Connection[Any], worker: psycopg.Connection[Any], status: str, reason: str
) -> None:
    payment_id = insert_payment(admin, capture_method="manual")
    settle(admin, payment_id, status)
    with pytest.raises(CHECK):
        insert_refund(worker, payment_id, 100, reason)
    assert sums(admin, payment_id) == (0, 0)


@pytest.mark.parametrize("status", ["FAILED", "VOIDED", "EXPIRED"])
def test_late_money_goes_back_as_compensation_only(
    admin: psycopg.Connection[Any], worker: psycopg.Connection[Any], api: psycopg.Connection[Any], status: str
) -> None:
    payment_id = insert_payment(admin)
    settle(admin, payment_id, status)
    for reason in (None, "duplicate", "Compensation"):
        with pytest.raises(CHECK, match="nothing was captured"):
            insert_refund(worker, payment_id, 100, reason)
    with pytest.raises(CHECK, match="only the service itself compensates"):
        insert_refund(api, payment_id, 100, "compensation")
    with pytest.raises(CHECK, match="payments_reserved_within_captured"):
        insert_refund(worker, payment_id, 1001, "compensation")
    refund_id = insert_refund(worker, payment_id, 700, "compensation")
    with pytest.raises(CHECK, match="payments_reserved_within_captured"):
        insert_refund(worker, payment_id, 301, "compensation")
    move(worker, refund_id, "PROCESSED")
    assert sums(admin, payment_id) == (700, 0)
    move(worker, refund_id, "FAILED")
    assert sums(admin, payment_id) == (0, 0)


def test_the_api_never_compensates_nor_says_what_became_of_a_refund(
    admin: psycopg.Connection[Any], api: psycopg.Connection[Any]
) -> None:
    payment_id = paid(admin)
    with pytest.raises(CHECK, match="only the service itself compensates"):
        insert_refund(api, payment_id, 100, "compensation")
    refund_id = insert_refund(api, payment_id, 100)
    with pytest.raises(DENIED):
        move(api, refund_id, "PROCESSED")
    for column, value in [("status", "'PROCESSED'"), ("external", "true"), ("processor_reference", "'re_1'")]:
        with pytest.raises(DENIED):
            api.execute(
                f"insert into payments.refunds (refund_id, payment_id, amount, currency, {column}) "
                f"values (gen_random_uuid(), %s, 100, 'EUR', {value})",
                (payment_id,),
            )


def test_a_conflicted_payment_gives_back_only_what_stripe_says_it_gave(
    admin: psycopg.Connection[Any], worker: psycopg.Connection[Any]
) -> None:
    payment_id = paid(admin)
    insert_refund(worker, payment_id, 300)
    worker.execute("update payments.payments set status = 'CONFLICTED' where payment_id = %s", (payment_id,))
    with pytest.raises(CHECK, match="is CONFLICTED"):
        insert_refund(worker, payment_id, 100)
    worker.execute(
        """
        insert into payments.refunds (refund_id, payment_id, amount, currency, external, status, processor_reference)
        values (gen_random_uuid(), %s, 100, 'EUR', true, 'PROCESSED', gen_random_uuid())
        """,
        (payment_id,),
    )
    assert sums(admin, payment_id) == (400, 100)


def test_an_operator_may_recognise_money_that_was_given_back(
    admin: psycopg.Connection[Any], worker: psycopg.Connection[Any]
) -> None:
    """The sums stay true when an operator turns an ended, compensated payment into a captured one, and back."""
    payment_id = insert_payment(admin)
    settle(admin, payment_id, "FAILED")
    refund_id = insert_refund(worker, payment_id, 400, "compensation")
    move(worker, refund_id, "PROCESSED")
    admin.execute("update payments.payments set status = 'CONFLICTED' where payment_id = %s", (payment_id,))
    settle(admin, payment_id, "SUCCEEDED")
    assert sums(admin, payment_id) == (400, 400)
    admin.execute("update payments.payments set status = 'CONFLICTED' where payment_id = %s", (payment_id,))
    settle(admin, payment_id, "FAILED")
    assert sums(admin, payment_id) == (400, 0)
    move(worker, refund_id, "FAILED")
    assert sums(admin, payment_id) == (0, 0)


@pytest.mark.parametrize("amount", [0, -1, 2**63 - 1])
def test_amounts_beyond_reason_are_refused(
    admin: psycopg.Connection[Any], worker: psycopg.Connection[Any], amount: int
) -> None:
    payment_id = paid(admin)
    with pytest.raises((CHECK, psycopg.errors.NumericValueOutOfRange)):
        insert_refund(worker, payment_id, amount)
    with pytest.raises(CHECK, match="is in EUR"):
        worker.execute(
            """
            insert into payments.refunds (refund_id, payment_id, amount, currency)
            values (gen_random_uuid(), %s, 1, 'USD')
            """,
            (payment_id,),
        )
    assert sums(admin, payment_id) == (0, 0)


@pytest.mark.parametrize("status", ["PENDING", "PROCESSED"])
def test_stripes_word_on_a_refund_names_stripes_refund(
    admin: psycopg.Connection[Any], worker: psycopg.Connection[Any], status: str
) -> None:
    payment_id = paid(admin)
    refund_id = insert_refund(worker, payment_id, 100)
    with pytest.raises(CHECK, match="refunds_known_to_stripe"):
        worker.execute("update payments.refunds set status = %s where refund_id = %s", (status, refund_id))
    move(worker, refund_id, status)
    assert sums(admin, payment_id)[0] == 100


def test_a_refund_of_stripes_stands_in_one_row(admin: psycopg.Connection[Any], worker: psycopg.Connection[Any]) -> None:
    """Whichever payment it is written down for: the same money is never given back on paper twice."""
    insert = """
        insert into payments.refunds (refund_id, payment_id, amount, currency, external, status, processor_reference)
        values (gen_random_uuid(), %s, 100, 'EUR', true, 'PROCESSED', %s)
        """
    first, second, reference = paid(admin), paid(admin), f"re_{uuid4().hex}"
    worker.execute(insert, (first, reference))
    for payment_id in (first, second):
        with pytest.raises(psycopg.errors.UniqueViolation, match="processor_reference"):
            worker.execute(insert, (payment_id, reference))
    assert (sums(admin, first), sums(admin, second)) == ((100, 100), (0, 0))
