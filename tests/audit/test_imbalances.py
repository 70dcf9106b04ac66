"""Each class of imbalance, made by hand past all guards, is one row: in the view, and in the audit's findings."""

import pytest
from structlog.testing import capture_logs

from payments.reconciler.audit import audit
from tests.audit.driving import Auditor
from tests.audit.sound_books import id_of, past_the_triggers
from tests.audit.spoilt_books import CASES, PLACES, Spoilt, moved
from tests.database.rows import insert_payment
from tests.development.databases import Database

pytestmark = pytest.mark.anyio


def spoil(auditor: Auditor, case: Spoilt) -> None:
    with past_the_triggers(auditor.conn):
        for statement in case.statements:
            auditor.conn.execute(statement, PLACES)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
async def test_each_imbalance_shows_as_exactly_its_row_and_goes_with_its_cause(
    database: Database, case: Spoilt
) -> None:
    async with Auditor.on_sound_books(database) as auditor:
        await audit(auditor.around)
        spoil(auditor, case)
        expected = [(PLACES[case.payment], case.kind)]
        assert auditor.view() == expected
        with capture_logs() as logs:
            await audit(auditor.around)
            assert auditor.findings() == expected
            await audit(auditor.around)
        found = [entry for entry in logs if entry["event"] == "audit.imbalance_found"]
        assert [(entry["payment_id"], entry["kind"]) for entry in found] == [(str(expected[0][0]), case.kind)]


def test_every_kind_is_made_above(database: Database) -> None:
    with database.connect() as conn:
        kinds = conn.execute("select unnest(payments.imbalance_kinds())").fetchall()
    assert {row[0] for row in kinds} == {case.kind for case in CASES.values()}


HELD = "amount_authorized = amount, capture_method = 'manual'"
OPEN = {
    "ACTION_REQUIRED": "next_action = '{}'",
    "PROCESSING": "version = version",
    "AUTHORIZED": HELD,
    "CAPTURING": f"{HELD}, capture_id = gen_random_uuid(), amount_to_capture = amount",
    "VOIDING": HELD,
}
ENDED = {
    "SUCCEEDED": "amount_authorized = amount, amount_captured = amount",
    "FAILED": "failure_reason = 'CARD_DECLINED'",
    "VOIDED": "version = version",
    "EXPIRED": HELD,
}

# The others are also what payments become of which Stripe never heard.
BY_STRIPE = {
    status: (OPEN | ENDED)[status]
    for status in ("ACTION_REQUIRED", "PROCESSING", "AUTHORIZED", "CAPTURING", "SUCCEEDED")
}


@pytest.mark.parametrize(
    ("statuses", "kind"),
    [(OPEN, "payment_unwatched"), (ENDED, "outcome_untold"), (BY_STRIPE, "stripe_unasked")],
    ids=["open", "ended", "brought about by Stripe alone"],
)
def test_no_state_is_left_out(database: Database, statuses: dict[str, str], kind: str) -> None:
    with database.connect() as conn, past_the_triggers(conn):
        for status, columns in statuses.items():
            payment_id = insert_payment(conn)
            conn.execute("delete from payments.watches")
            conn.execute(
                f"update payments.payments set status = %s, {columns} where payment_id = %s", (status, payment_id)
            )
            found = conn.execute("select payment_id from payments.imbalances where kind = %s", (kind,)).fetchall()
            assert (payment_id,) in found, status


async def test_sound_books_show_nothing_and_a_mended_one_is_told_of(database: Database) -> None:
    async with Auditor.on_sound_books(database) as auditor:
        assert auditor.view() == []
        with past_the_triggers(auditor.conn):
            auditor.conn.execute("update payments.payments set disputed = not disputed where status = 'SUCCEEDED'")
            await audit(auditor.around)
            charged = ("paid", "disputed", "lost")
            assert auditor.findings() == [(id_of(name), "disputed_off") for name in charged]
            auditor.conn.execute(
                "update payments.payments set disputed = not disputed where payment_id = %(paid)s", PLACES
            )
        with capture_logs() as logs:
            await audit(auditor.around)
        gone = [entry["payment_id"] for entry in logs if entry["event"] == "audit.imbalance_gone"]
        assert gone == [str(id_of("paid"))]
        assert auditor.findings() == [(id_of(name), "disputed_off") for name in ("disputed", "lost")]


async def test_what_has_changed_since_stripes_list_was_read_is_not_compared_yet(database: Database) -> None:
    """Stripe's list may not tell yet of what our books already know, nor the other way round."""
    async with Auditor.on_sound_books(database) as auditor:
        with past_the_triggers(auditor.conn):
            auditor.conn.execute("update payments.balance_transactions set moved = moved - 1")
            off = auditor.conn.execute("select kind from payments.imbalances").fetchall()
            assert {kind for (kind,) in off} == {
                "balance_captured_off",
                "balance_refunded_off",
                "balance_disputed_off",
            }
            for table in ("payments", "refunds", "disputes"):
                auditor.conn.execute(f"update payments.{table} set updated_at = now() + interval '1 hour'")
        assert auditor.view() == []


async def test_a_payment_of_which_news_wait_to_be_weighed_is_not_compared_with_the_balance_yet(
    database: Database,
) -> None:
    """A refund made in the Dashboard beside one of ours may wait for days, and Stripe has moved it all the same."""
    async with Auditor.on_sound_books(database) as auditor:
        with past_the_triggers(auditor.conn):
            auditor.conn.execute(moved("disputed", "refund", "re_9", -10), PLACES)
            auditor.conn.execute(
                "insert into payments.inbox (source, message_id, message_type, payment_id, payload)"
                " values ('stripe-webhook', 'evt_9', 'refund.created', %(disputed)s, '{}')",
                PLACES,
            )
        assert auditor.view() == []
        auditor.conn.execute(
            "update payments.inbox set processed_at = now(), outcome = 'ignored' where outcome is null"
        )
        assert auditor.view() == [(id_of("disputed"), "balance_refunded_off")]
