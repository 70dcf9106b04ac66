"""A wish that stands and that nobody works on is sent again; one that somebody works on never is."""

import json
from collections.abc import Iterator
from typing import Any
from uuid import UUID, uuid4

import pytest

from payments.database.connections import open_pool
from payments.domain.refunds import DOES_NOT_FIT
from payments.reconciler.jobs import Surroundings
from payments.reconciler.lost import send_lost_commands
from payments.settings import Settings
from tests.database.rows import insert_event, insert_payment
from tests.development.databases import Database

pytestmark = pytest.mark.anyio
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


@pytest.fixture
def table(database: Database) -> Iterator[Table]:
    table = Table(database)
    yield table
    table.conn.close()


async def test_lost_request_is_sent_again_once(table: Table) -> None:
    payment_id = table.payment()
    table.dispatch_and_lose()
    assert await table.run() == {"lost commands sent again": 1}
    ((message, headers),) = table.messages("payment_requested")
    assert message["paymentId"] == str(payment_id)
    assert set(message) >= {"orderId", "amount", "currency", "requestedAt"}
    assert (headers["ce-type"], headers["x-pgmq-group"]) == ("payment-requested", str(payment_id))
    assert table.notices.sent == [("payments_queue", "payment_requested")]
    assert await table.run() == {}, "now it is in its queue"


async def test_a_payment_that_somebody_keeps_locked_holds_up_no_other_command(table: Table) -> None:
    locked, other = table.payment(), table.payment()
    held = {"capture_method": "manual", "amount_authorized": 1000, "processor_payment_intent": "pi_1"}
    captured = table.payment("CAPTURING", **held, capture_id=uuid4(), amount_to_capture=600)
    table.dispatch_and_lose()
    with table.database.connect(autocommit=False) as operator:
        operator.execute("select from payments.payments where payment_id = %s for update", (locked,))
        assert await table.run() == {"lost commands sent again": 2, "commands of locked payments": 1}
    assert [message["paymentId"] for message, _ in table.messages("payment_requested")] == [str(other)]
    assert [message["paymentId"] for message, _ in table.messages("capture_requested")] == [str(captured)]
    assert await table.run() == {"lost commands sent again": 1}


@pytest.mark.parametrize("state", ["intended", "in_flight", "in_doubt"])
async def test_lost_request_of_a_call_under_way_is_sent_again(table: Table, state: str) -> None:
    payment_id = table.payment()
    table.call(payment_id, payment_id, "create_payment_intent", state)
    table.dispatch_and_lose()
    assert await table.run() == {"lost commands sent again": 1}


@pytest.mark.parametrize(
    "why",
    ["young", "not dispatched", "queued", "inbox", "dead letter", "to_reconcile", "parked", "answered", "settled"],
)
async def test_request_that_somebody_works_on_is_left_alone(table: Table, why: str) -> None:
    payment_id = table.payment()
    if why != "not dispatched":
        table.dispatch_and_lose()
    match why:
        case "young":
            table.change(payment_id, updated_at="now()")
        case "queued":
            table.conn.execute(
                "select pgmq.send('payment_requested', %s::jsonb)", (json.dumps({"paymentId": str(payment_id)}),)
            )
        case "inbox":
            table.conn.execute(
                "insert into payments.inbox (source, message_id, message_type, payment_id, payload)"
                " values ('stripe-api', 'x', 'x', %s, '{}')",
                (payment_id,),
            )
        case "dead letter":
            table.conn.execute(
                "insert into payments.dead_letters (origin, message_id, payment_id, payload, attempts, error)"
                " values ('queue:payment_requested', 'x', %s, '{}', 1, 'x')",
                (payment_id,),
            )
        case "to_reconcile" | "parked":
            table.call(payment_id, payment_id, "create_payment_intent", why)
        case "answered":
            table.call(payment_id, payment_id, "create_payment_intent", "answered", "answered")
        case "settled":
            table.change(payment_id, status="FAILED", failure_reason="CARD_DECLINED")
        case _:
            pass
    before = len(table.messages("payment_requested"))
    assert await table.run() == {}
    assert len(table.messages("payment_requested")) == before


async def test_lost_capture_cancel_and_refund_are_sent_again(table: Table) -> None:
    capture_id, refund_id = uuid4(), uuid4()
    held = {"amount_authorized": 1000, "processor_payment_intent": "pi_1", "capture_method": "manual"}
    capturing = table.payment("CAPTURING", **held, capture_id=capture_id, amount_to_capture=600)
    voiding = table.payment("VOIDING", **{**held, "processor_payment_intent": "pi_2"})
    unasked = table.payment("VOIDING")
    paid = table.payment("SUCCEEDED", amount_authorized=1000, amount_captured=1000, processor_payment_intent="pi_3")
    table.conn.execute(
        "insert into payments.refunds (refund_id, payment_id, amount, currency, updated_at)"
        " values (%s, %s, 300, 'EUR', '-infinity')",
        (refund_id, paid),
    )
    insert_event(table.conn, capturing, "capture-requested", 2)
    insert_event(table.conn, paid, "refund-requested", 2)
    table.dispatch_and_lose()
    assert await table.run() == {"lost commands sent again": 4}
    (((capture, _),), ((cancel, _),), ((refund, _),), ((create, _),)) = (
        table.messages(queue)
        for queue in ("capture_requested", "void_requested", "refund_requested", "payment_requested")
    )
    assert (capture["captureId"], capture["amount"]) == (str(capture_id), 600)
    assert (cancel["paymentId"], cancel["cancellationReason"]) == (str(voiding), "requested_by_customer")
    assert (refund["refundId"], refund["amount"]) == (str(refund_id), 300)
    assert create["paymentId"] == str(unasked), "nothing was asked of Stripe: the worker voids it without a call"
    assert await table.run() == {}


@pytest.mark.parametrize("wish", ["REQUESTED", "CAPTURING", "VOIDING", "refund"])
async def test_wish_that_was_given_up_to_an_operator_is_left_alone(table: Table, wish: str) -> None:
    columns: dict[str, Any] = {"processor_payment_intent": "pi_1", "amount_authorized": 1000}
    match wish:
        case "REQUESTED":
            payment_id = table.payment()
        case "CAPTURING":
            payment_id = table.payment(
                "CAPTURING", **columns, capture_method="manual", capture_id=uuid4(), amount_to_capture=600
            )
        case "VOIDING":
            payment_id = table.payment("VOIDING", **columns, capture_method="manual")
        case _:
            payment_id = table.payment("SUCCEEDED", **columns, amount_captured=1000)
            table.conn.execute(
                "insert into payments.refunds (refund_id, payment_id, amount, currency, updated_at)"
                " values (%s, %s, 300, 'EUR', '-infinity')",
                (uuid4(), payment_id),
            )
    table.dispatch_and_lose()
    table.conn.execute(
        "insert into payments.dead_letters (origin, message_id, payment_id, payload, attempts, error)"
        " values ('queue:x', 'x', %s, '{}', 1, 'x')",
        (payment_id,),
    )
    assert await table.run() == {}
    table.conn.execute("update payments.dead_letters set resolved_at = now(), resolution = 'tried again'")
    assert await table.run() == {"lost commands sent again": 1}


async def test_wish_that_an_operator_has_discarded_is_not_sent_again_nor_called_lost(table: Table) -> None:
    """They have paid by hand, perhaps. Another wish of the same payment is another letter's."""
    held = {"amount_authorized": 1000, "capture_method": "manual"}
    requested = table.payment()
    capturing = table.payment(
        "CAPTURING", **held, capture_id=uuid4(), amount_to_capture=600, processor_payment_intent="pi_1"
    )
    voiding = table.payment("VOIDING", **held, processor_payment_intent="pi_2")
    paid = table.payment("SUCCEEDED", amount_authorized=1000, amount_captured=1000, processor_payment_intent="pi_3")
    for _ in range(2):
        table.conn.execute(
            "insert into payments.refunds (refund_id, payment_id, amount, currency, updated_at)"
            " values (%s, %s, 300, 'EUR', '-infinity')",
            (uuid4(), paid),
        )
    table.dispatch_and_lose()
    assert await table.run() == {"lost commands sent again": 5}
    for queue in QUEUES:
        messages = [message for message, _ in table.messages(queue)]
        for number, message in enumerate(messages[:1] if queue == "refund_requested" else messages):
            table.conn.execute(
                "insert into payments.dead_letters"
                " (origin, message_id, payment_id, payload, attempts, error, resolved_at, resolution)"
                " values (%s, %s, %s, %s::jsonb, 5, 'x', '-infinity', 'discarded: paid by hand')",
                (f"queue:{queue}", f"{queue}/{number}", message["paymentId"], json.dumps(message)),
            )
        if queue == "refund_requested":
            left = messages[1]["refundId"]
        table.conn.execute(f"delete from pgmq.q_{queue}")
    found = table.conn.execute("select kind, subject_id::text from payments.imbalances where kind like '%%unowned'")
    assert found.fetchall() == [("refund_unowned", left)]
    # A void is wished for until it is done: nothing would be gained by a hold that lapses a week later.
    assert await table.run() == {"lost commands sent again": 2, "refunds given up": 1}
    ((cancel, _),) = table.messages("void_requested")
    assert cancel["paymentId"] == str(voiding)
    ((refund, _),) = table.messages("refund_requested")
    assert refund["refundId"] == left
    assert {requested, capturing, voiding} == {
        row[0] for row in table.conn.execute("select payment_id from payments.dead_letters") if row[0] != paid
    }


@pytest.mark.parametrize(
    ("state", "outcome", "found"),
    [
        ("parked", None, "parked calls to look for"),
        ("in_doubt", None, "parked calls to look for"),
        ("to_reconcile", None, None),
        ("answered", "answered", None),
        ("answered", "settled", None),
        ("answered", "absent", "refunds given up"),
    ],
)
@pytest.mark.parametrize(
    "why_not", [None, "another letter is open", "queued", "young", "tried again since", "in conflict", "news"]
)
async def test_refund_that_was_given_up_ends_once_it_is_certain_that_stripe_has_not_made_it(
    table: Table, state: str, outcome: str | None, found: str | None, why_not: str | None
) -> None:
    payment_id, refund_id = given_up_refund(table, letter_at="now()" if why_not == "young" else "'-infinity'")
    table.call(payment_id, refund_id, "create_refund", state, outcome)
    message = json.dumps({"paymentId": str(payment_id), "refundId": str(refund_id)})
    match why_not:
        case "another letter is open":
            table.letter(payment_id, "{}", "null", "null", origin="queue:x")
        case "tried again since":
            table.letter(payment_id, message, "now()", "'tried again'")
        case "queued":
            table.conn.execute("select pgmq.send('refund_requested', %s::jsonb)", (message,))
        case "in conflict" if found == "refunds given up":
            table.change(payment_id, status="CONFLICTED")
        case "news" if found == "refunds given up":
            table.news(payment_id, "the payment is locked")
        case "in conflict" | "news":
            found = None if state == "answered" else found
    is_free = why_not is None or (why_not in {"in conflict", "news"} and found == "parked calls to look for")
    assert await table.run() == ({found: 1} if found is not None and is_free else {})


def given_up_refund(table: Table, reason: str | None = None, letter_at: str = "'-infinity'") -> tuple[UUID, UUID]:
    payment_id = table.payment("SUCCEEDED", amount_authorized=1000, amount_captured=1000, processor_payment_intent="pi")
    refund_id = uuid4()
    table.conn.execute(
        "insert into payments.refunds (refund_id, payment_id, amount, currency, reason, updated_at)"
        " values (%s, %s, 300, 'EUR', %s, '-infinity')",
        (refund_id, payment_id, reason),
    )
    table.dispatch_and_lose()
    message = json.dumps({"paymentId": str(payment_id), "refundId": str(refund_id)})
    table.letter(payment_id, message, letter_at, "'discarded: x'")
    return payment_id, refund_id


@pytest.mark.parametrize(("reason", "is_given_up"), [(None, True), ("compensation", False)])
async def test_compensation_is_given_up_only_for_a_refund_that_waits_for_its_room(
    table: Table, reason: str | None, *, is_given_up: bool
) -> None:
    """Late money must go back. A refund in the Dashboard that does not fit is no news of the one that is in its way."""
    payment_id, _ = given_up_refund(table, reason)
    assert await table.run() == ({"refunds given up": 1} if is_given_up else {})
    table.conn.execute("delete from payments.inbox")
    table.news(payment_id, f"a refund of 300 {DOES_NOT_FIT}: 1000 of 1000 are spoken for")
    assert await table.run() == {"refunds given up": 1}


async def test_refund_whose_look_at_stripe_was_discarded_as_well_is_left_alone(table: Table) -> None:
    """Stripe does not show its PaymentIntent: looking once more would leave one more letter."""
    payment_id, refund_id = given_up_refund(table)
    table.call(payment_id, refund_id, "create_refund", "parked")
    (call_id,) = table.conn.execute("select call_id from payments.stripe_requests").fetchone() or (0,)
    message = json.dumps({"paymentId": str(payment_id), "refundId": str(refund_id)})
    table.letter(payment_id, message, "'-infinity'", "'discarded: x'", message_id=f"call/{call_id}")
    assert await table.run() == {}


async def test_void_of_a_payment_whose_request_was_discarded_is_carried_out(table: Table) -> None:
    payment_id = table.payment("VOIDING")
    table.dispatch_and_lose()
    table.conn.execute(
        "insert into payments.dead_letters"
        " (origin, message_id, payment_id, payload, attempts, error, resolved_at, resolution)"
        " values ('queue:payment_requested', 'x', %s, '{}', 5, 'x', now(), 'discarded: given up')",
        (payment_id,),
    )
    assert await table.run() == {"lost commands sent again": 1}


@pytest.mark.parametrize(
    ("status", "intent", "letter", "is_looked_for"),
    [
        ("VOIDING", None, "discarded: x", True),
        ("VOIDING", None, "none", True),
        ("VOIDING", None, "open", False),
        ("VOIDING", "pi_1", "discarded: x", False),
        ("REQUESTED", None, "discarded: x", False),
    ],
)
async def test_parked_call_of_a_void_is_left_to_the_sweep_once_no_operator_has_it(
    table: Table, status: str, intent: str | None, letter: str, *, is_looked_for: bool
) -> None:
    """While the letter is open, what is done about the call is the operator's."""
    payment_id = table.payment(status, processor_payment_intent=intent)
    table.call(payment_id, payment_id, "create_payment_intent", "parked")
    table.conn.execute("update payments.stripe_requests set attempts = 1, swept_to = now()")
    table.dispatch_and_lose()
    if letter != "none":
        table.conn.execute(
            "insert into payments.dead_letters (origin, message_id, payment_id, payload, attempts, error)"
            " values ('queue:payment_requested', 'x', %s, '{}', 5, 'x')",
            (payment_id,),
        )
    if letter.startswith("discarded"):
        table.conn.execute("update payments.dead_letters set resolved_at = now(), resolution = %s", (letter,))
    found = await table.run()
    assert found.get("parked calls to look for", 0) == is_looked_for
    calls = "select state, swept_to is null from payments.stripe_requests where operation = 'create_payment_intent'"
    assert table.conn.execute(calls).fetchall() == [("to_reconcile", True) if is_looked_for else ("parked", False)]
    assert table.messages("payment_requested") == []


async def test_parked_call_of_a_void_that_somebody_keeps_locked_has_its_turn_later(table: Table) -> None:
    locked, other = table.payment("VOIDING"), table.payment("VOIDING")
    for payment_id in (locked, other):
        table.call(payment_id, payment_id, "create_payment_intent", "parked")
    table.dispatch_and_lose()
    with table.database.connect(autocommit=False) as somebody:
        somebody.execute("select from payments.payments where payment_id = %s for update", (locked,))
        assert await table.run() == {"parked calls to look for": 1}
    parked = "select payment_id from payments.stripe_requests where state = 'parked'"
    assert table.conn.execute(parked).fetchall() == [(locked,)]
    assert await table.run() == {"parked calls to look for": 1}


@pytest.mark.parametrize("outcome", ["absent", "superseded"])
async def test_lost_wish_whose_key_was_given_up_is_sent_again(table: Table, outcome: str) -> None:
    """A command follows on either; while that is lost as well, nobody has the wish."""
    capture_id, refund_id = uuid4(), uuid4()
    held = {"amount_authorized": 1000, "capture_method": "manual"}
    wish = {"capture_id": capture_id, "amount_to_capture": 600}
    paid = {"amount_authorized": 1000, "amount_captured": 1000}
    requested = table.payment()
    capturing = table.payment("CAPTURING", **held, **wish, processor_payment_intent="pi_1")
    voiding = table.payment("VOIDING", **held, processor_payment_intent="pi_2")
    refunding = table.payment("SUCCEEDED", **paid, processor_payment_intent="pi_3")
    table.conn.execute(
        "insert into payments.refunds (refund_id, payment_id, amount, currency, updated_at)"
        " values (%s, %s, 300, 'EUR', '-infinity')",
        (refund_id, refunding),
    )
    table.call(requested, requested, "create_payment_intent", "answered", outcome)
    table.call(capturing, capture_id, "capture_payment_intent", "answered", outcome)
    table.call(voiding, voiding, "cancel_payment_intent", "answered", outcome)
    table.call(refunding, refund_id, "create_refund", "answered", outcome)
    table.dispatch_and_lose()
    assert await table.run() == {"lost commands sent again": 4}
    assert [len(table.messages(queue)) for queue in QUEUES] == [1, 1, 1, 1]


async def test_request_whose_answer_went_by_gets_a_watch(table: Table) -> None:
    payment_id = table.payment(processor_payment_intent="pi_1")
    table.call(payment_id, payment_id, "create_payment_intent", "answered", "answered")
    table.dispatch_and_lose()
    assert await table.run() == {}
    assert table.conn.execute("select payment_id from payments.watches").fetchall() == [(payment_id,)]


async def test_audit_tells_of_lost_wishes_and_no_more_once_they_are_sent_again(table: Table) -> None:
    held = {"amount_authorized": 1000, "processor_payment_intent": "pi_1", "capture_method": "manual"}
    voiding = table.payment("VOIDING", **held)
    paid = table.payment("SUCCEEDED", amount_authorized=1000, amount_captured=1000, processor_payment_intent="pi_2")
    refund_id = uuid4()
    table.conn.execute(
        "insert into payments.refunds (refund_id, payment_id, amount, currency, updated_at)"
        " values (%s, %s, 300, 'EUR', '-infinity')",
        (refund_id, paid),
    )
    table.dispatch_and_lose()
    lost = {(voiding, "VOIDING, and nobody looks after it"), (paid, f"nobody is working on refund {refund_id}")}
    query = "select payment_id, imbalance from payments.audit_imbalances"
    found = set(table.conn.execute(query).fetchall())
    assert lost <= found
    stuck = table.conn.execute("select status from payments.stuck_payments order by status").fetchall()
    assert stuck == [("VOIDING",), ("refund REQUESTED",)]
    await table.run()
    table.conn.execute("insert into payments.watches (payment_id, next_look_at) values (%s, now())", (voiding,))
    assert not lost & set(table.conn.execute(query).fetchall())
