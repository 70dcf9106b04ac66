"""`payments dead-letters`: what an operator can do about what was given up, and what is kept of it."""

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest

from tests.commands.test_operator_commands import payments
from tests.conftest import wait_until
from tests.database.rows import insert_payment
from tests.development.databases import Database

PARKED = """
insert into payments.stripe_requests (
  payment_id, subject_id, operation, idempotency_key, parameters, state, attempts, http_status, first_attempt_at
) values (%(id)s, %(id)s, 'create_payment_intent', %(id)s, '{}', 'parked', %(attempts)s, %(http_status)s, now())
"""

WAITING = "select count(*) from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()"


class Office:
    def __init__(self, database: Database) -> None:
        self.conn = database.connect()
        self._settings = {"DATABASE_URL": database.admin_dsn()}

    def command(self, *words: str) -> tuple[int, str]:
        finished = payments("dead-letters", *words, **self._settings)
        assert "Traceback" not in finished.stderr
        return finished.returncode, finished.stdout + finished.stderr

    def letter(self, origin: str, payload: Any, payment_id: UUID | None, headers: Any = None) -> int:
        row = self.conn.execute(
            "insert into payments.dead_letters (origin, message_id, payment_id, payload, headers, attempts, error)"
            " values (%s, 'ce-1', %s, %s::jsonb, %s::jsonb, 3, 'it broke with sk_test_51abcdefghijk')"
            " returning dead_letter_id",
            (origin, payment_id, json.dumps(payload), None if headers is None else json.dumps(headers)),
        ).fetchone()
        assert row is not None
        return int(row[0])

    def row(self, query: str, *values: Any) -> tuple[Any, ...]:
        (row,) = self.conn.execute(query, values).fetchall()
        return tuple(row)


@pytest.fixture
def office(database: Database) -> Any:
    office = Office(database)
    yield office
    office.conn.close()


def test_nothing_given_up_is_said_so(office: Office) -> None:
    assert office.command("list") == (0, "unsettled: 0\n")


def test_list_and_show_mask_secrets(office: Office) -> None:
    number = office.letter("queue:payment_requested", {"paymentId": "x", "note": "sk_test_51abcdefghijk"}, None)
    code, listed = office.command("list")
    assert code == 1
    assert "unsettled: 1" in listed
    code, shown = office.command("show", str(number))
    assert code == 0
    assert '"paymentId"' in shown
    assert "sk_test_51" not in listed + shown
    assert office.command("show", str(number + 1))[0] == 1


@pytest.mark.parametrize(
    ("attempts", "http_status", "state"),
    [(0, None, "intended"), (1, None, "in_doubt"), (1, 400, "to_reconcile")],
    ids=["never sent", "unanswered", "refused"],
)
def test_retry_puts_the_command_back_and_lets_its_call_go_on(
    office: Office, attempts: int, http_status: int | None, state: str
) -> None:
    payment_id = insert_payment(office.conn)
    office.conn.execute(PARKED, {"id": payment_id, "attempts": attempts, "http_status": http_status})
    headers = {"ce-id": "ce-1", "traceparent": "00-x", "x-payments-faults": 5}
    number = office.letter("queue:payment_requested", {"paymentId": str(payment_id)}, payment_id, headers)
    code, said = office.command("retry", str(number))
    assert (code, ("looks at Stripe first" in said)) == (0, state == "to_reconcile")
    message, sent = office.row("select message, headers from pgmq.q_payment_requested")
    assert message == {"paymentId": str(payment_id)}
    assert sent == {"ce-id": "ce-1", "traceparent": "00-x"}, "it may break as often as a new one"
    assert office.row("select state from payments.stripe_requests") == (state,)
    assert office.row("select resolution, resolved_at is not null from payments.dead_letters") == ("tried again", True)
    assert office.command("retry", str(number))[0] == 1, "settled already"
    assert office.row("select count(*) from pgmq.q_payment_requested") == (1,)


@pytest.mark.parametrize(
    ("queue", "operation", "subject"),
    [
        ("payment_requested", "create_payment_intent", "paymentId"),
        ("capture_requested", "capture_payment_intent", "captureId"),
        ("void_requested", "cancel_payment_intent", "paymentId"),
        ("refund_requested", "create_refund", "refundId"),
    ],
)
def test_retry_frees_the_call_of_the_wish_and_no_other(
    office: Office, queue: str, operation: str, subject: str
) -> None:
    ids = {"paymentId": insert_payment(office.conn), "captureId": uuid4(), "refundId": uuid4()}
    for subject_id in (ids[subject], uuid4()):
        office.conn.execute(
            "insert into payments.stripe_requests"
            " (payment_id, subject_id, operation, idempotency_key, parameters, state)"
            " values (%s, %s, %s, %s, '{}', 'parked')",
            (ids["paymentId"], subject_id, operation, subject_id),
        )
    payload = {"paymentId": str(ids["paymentId"]), subject: str(ids[subject])}
    number = office.letter(f"queue:{queue}", payload, ids["paymentId"])
    assert office.command("retry", str(number))[0] == 0
    freed = office.conn.execute("select subject_id from payments.stripe_requests where state <> 'parked'").fetchall()
    assert freed == [(ids[subject],)]


def test_retry_of_a_letter_without_headers_keeps_its_name(office: Office) -> None:
    number = office.letter("queue:void_requested", {"paymentId": "what is this"}, None)
    assert office.command("retry", str(number))[0] == 0
    assert office.row("select headers from pgmq.q_void_requested") == ({"ce-id": "ce-1"},)


def test_retry_revives_a_dead_row_of_the_inbox(office: Office) -> None:
    row = office.conn.execute(
        "insert into payments.inbox (source, message_id, message_type, payload, processed_at, outcome, attempts)"
        " values ('stripe-webhook', 'evt_1', 'x', '{}', now(), 'dead', 8) returning inbox_id"
    ).fetchone()
    assert row is not None
    number = office.letter("inbox", {}, None)
    office.conn.execute("update payments.dead_letters set message_id = %s", (str(row[0]),))
    assert office.command("retry", str(number))[0] == 0
    assert office.row("select processed_at, outcome, attempts from payments.inbox") == (None, None, 0)
    again = office.letter("inbox", {}, None)
    office.conn.execute(
        "update payments.dead_letters set message_id = %s where dead_letter_id = %s", (f"0{row[0]}", again)
    )
    code, said = office.command("retry", str(again))
    assert (code, "not dead any more" in said) == (1, True)


def test_retry_without_its_queue_changes_nothing(office: Office) -> None:
    number = office.letter("queue:gone", {}, None)
    code, said = office.command("retry", str(number))
    assert (code, "no queue gone" in said) == (1, True)
    assert office.row("select resolved_at from payments.dead_letters") == (None,)


def test_discard_keeps_the_reason(office: Office) -> None:
    numbers = [str(office.letter(f"queue:{queue}", {}, None)) for queue in ("void_requested", "refund_requested")]
    assert office.command("discard", *numbers)[0] == 2, "a reason is needed"
    assert office.command("discard", *numbers, "--reason", " ")[0] == 2
    assert office.command("discard", *numbers, "--reason", "paid by hand")[0] == 0
    rows = office.conn.execute("select resolution from payments.dead_letters").fetchall()
    assert rows == [("discarded: paid by hand",)] * 2
    assert office.command("list")[0] == 0
    code, listed = office.command("list", "--all")
    assert (code, "unsettled: 0" in listed) == (0, True)


def test_what_others_said_is_shown_as_it_is(office: Office) -> None:
    """Brackets are no markup of ours, and :bug: is no picture."""
    said = "[card] [/log] :bug:"
    number = str(office.letter("queue:void_requested", {"note": said}, None))
    office.conn.execute("update payments.dead_letters set error = %s, origin = %s", (said, "queue:[/x]"))
    assert office.command("retry", number) == (1, f"{number}: there is no queue [/x] any more; discard the letter\n")
    assert office.command("show", number)[1].count(said) == 2
    assert office.command("discard", number, "--reason", said)[0] == 0
    code, listed = office.command("list", "--all")
    assert (code, [listed.count(word) for word in said.split()]) == (0, [2, 2, 2]), listed


@pytest.mark.parametrize("number", ["-1", "x", "9" * 30, "\u0661"])
def test_ids_that_are_none_are_wrong_usage(office: Office, number: str) -> None:
    assert office.command("show", number)[0] == 2


def test_worker_role_may_settle_too(database: Database, office: Office) -> None:
    number = office.letter("queue:void_requested", {}, None)
    finished = payments("dead-letters", "retry", str(number), DATABASE_URL=database.dsn("payments_worker"))
    assert finished.returncode == 0, finished.stderr
    with psycopg.connect(database.admin_dsn()) as conn:
        assert conn.execute("select resolution from payments.dead_letters").fetchall() == [("tried again",)]


def test_two_operators_with_one_letter_settle_it_once(database: Database, office: Office) -> None:
    number = office.letter("queue:payment_requested", {"paymentId": "x"}, None)
    with database.connect(autocommit=False) as other, ThreadPoolExecutor(1) as thread:
        other.execute("select from payments.dead_letters where dead_letter_id = %s for update", (number,))
        retried = thread.submit(office.command, "retry", str(number))
        wait_until(lambda: office.row(WAITING) == (1,))
        other.execute(
            "update payments.dead_letters set resolved_at = now(), resolution = 'discarded: known'"
            " where dead_letter_id = %s",
            (number,),
        )
        other.commit()
        code, said = retried.result()
    assert (code, "settled already" in said) == (1, True)
    assert office.row("select count(*) from pgmq.q_payment_requested") == (0,)
