"""Payments and outbox rows put in place by SQL, and the comparison of what was written with what was delivered."""

from typing import Any
from uuid import UUID, uuid4

import psycopg

from payments.domain.identifiers import new_id
from tests.development.databases import Database

Connection = psycopg.Connection[Any]
INITIAL_LANES = ("payment_requested", "refund_requested", "capture_requested", "void_requested", "ordering")

# May happen to a payment any number of times, so a test can write as many as it likes.
REPEATABLE_TYPES = (
    "payment-authorized",
    "payment-action-required",
    "capture-requested",
    "void-requested",
    "refund-requested",
    "refund-processed",
    "dispute-opened",
)

_PAYMENT = """
insert into payments.payments (payment_id, cart_id, order_id, amount, currency, capture_method, client_id, fingerprint)
values (%(id)s, %(cart)s, %(cart)s, 1000, 'EUR', 'manual', 'tests', sha256('tests'))
"""
_EVENT = """
with bumped as (
  update payments.payments set last_sequence = last_sequence + 1 where payment_id = %(payment)s and not %(is_first)s
  returning last_sequence
)
insert into payments.outbox (event_id, event_type, aggregate_id, sequence, payload, headers)
select %(event)s, %(type)s, %(payment)s, s.sequence,
  jsonb_build_object('paymentId', %(payment)s::uuid, 'nr', s.sequence),
  payments.event_headers(%(event)s, %(type)s, %(payment)s, s.sequence, now(), null)
from (select coalesce((select last_sequence from bumped), 1) as sequence) s
returning outbox_id
"""
_HISTORY = """
with p as (
  insert into payments.payments
    (payment_id, cart_id, order_id, amount, currency, capture_method, client_id, fingerprint)
  values (%(id)s, %(id)s, %(id)s, 1000, 'EUR', 'manual', 'tests', sha256('tests')) returning payment_id
)
insert into payments.outbox (event_id, event_type, aggregate_id, sequence, payload, headers)
select gen_random_uuid(), %(type)s, payment_id, n, '{"a": 1}', '{"b": 2}' from p, generate_series(1, %(rows)s) n
"""


def insert_payment(conn: Connection) -> UUID:
    """A payment with its first event, `payment-requested`."""
    payment_id = new_id()
    conn.execute(_PAYMENT, {"id": payment_id, "cart": uuid4()})
    insert_event(conn, payment_id, "payment-requested", is_first=True)
    return payment_id


def insert_event(conn: Connection, payment_id: UUID, event_type: str, *, is_first: bool = False) -> int:
    """The payment's next event; returns its outbox id. Holds the payment's row lock until the transaction ends."""
    values = {"event": new_id(), "type": event_type, "payment": payment_id, "is_first": is_first}
    row = conn.execute(_EVENT, values).fetchone()
    assert row is not None
    return int(row[0])


def insert_lone_event(conn: Connection, event_type: str) -> int:
    """A payment whose only event this is: locks nothing that another transaction could want."""
    payment_id = new_id()
    conn.execute(_PAYMENT, {"id": payment_id, "cart": uuid4()})
    return insert_event(conn, payment_id, event_type, is_first=True)


def insert_many(conn: Connection, rows: int, event_type: str = "dispute-opened") -> None:
    """Many events of one payment, in one statement."""
    conn.execute(_HISTORY, {"id": uuid4(), "type": event_type, "rows": rows})


def dispatch(conn: Connection, lane: str, rows_max: int = 1000) -> int:
    """One batch, committed."""
    row = conn.execute("select payments.dispatch(%s, %s)", (lane, rows_max)).fetchone()
    assert row is not None
    return int(row[0])


def drain(conn: Connection, lane: str, rows_max: int = 1000) -> int:
    """All batches there are; how many rows were passed."""
    total = 0
    while (passed := dispatch(conn, lane, rows_max)) > 0:
        total += passed
    assert passed == 0
    return total


def delivered(conn: Connection, lane: str) -> list[int]:
    """The outbox ids of a queue's messages, in the queue's order."""
    rows = conn.execute(
        f"""select (select outbox_id from payments.outbox where event_id = (q.headers ->> 'ce-id')::uuid)
        from pgmq.q_{lane} q order by msg_id"""
    )
    return [row[0] for row in rows]


def owed(conn: Connection, lane: str) -> list[int]:
    """The outbox ids of everything committed whose type is bound to a queue."""
    rows = conn.execute(
        """select outbox_id from payments.outbox where exists (
          select from pgmq.topic_bindings where queue_name = %s and payments.routing_key(event_type) ~ compiled_regex
        ) order by outbox_id""",
        (lane,),
    )
    return [row[0] for row in rows]


def create_lane(conn: Connection, lane: str, patterns: list[str], *, from_beginning: bool) -> None:
    """A further consumer, as the owner of the schema would make it."""
    conn.execute("select payments.create_lane(%s, 'a test', %s, %s)", (lane, patterns, from_beginning))


def assert_delivered_exactly_once(database: Database, lanes: tuple[str, ...] = INITIAL_LANES) -> int:
    """Compares row by row; returns how many messages were compared."""
    compared = 0
    with database.connect() as conn:
        for lane in lanes:
            expected = owed(conn, lane)
            got = delivered(conn, lane)
            assert sorted(got) == expected, f"{lane}: each bound row exactly once, no other"
            compared += len(got)
            assert _rows(conn, _UNFAITHFUL.format(lane=lane)) == [], f"{lane}: payload and headers as in the outbox"
            assert _rows(conn, _OUT_OF_SEQUENCE.format(lane=lane)) == [], f"{lane}: each payment's events in sequence"
            _assert_windows_in_outbox_order(conn, lane, got)
    return compared


def _assert_windows_in_outbox_order(conn: Connection, lane: str, got: list[int]) -> None:
    windows: dict[str, list[int]] = {}
    position = 0
    for window, row_count in _rows(
        conn,
        "select upto_snapshot::text, row_count from payments.relay_batches where queue_name = %s order by batch_id",
        (lane,),
    ):
        windows.setdefault(window, []).extend(got[position : position + row_count])
        position += row_count
    assert position == len(got), f"{lane}: the batches tell of every message"
    for ids in windows.values():
        assert ids == sorted(ids), f"{lane}: a window is in outbox order"


def _rows(conn: Connection, query: str, values: tuple[object, ...] = ()) -> list[tuple[Any, ...]]:
    return conn.execute(query, values).fetchall()


_UNFAITHFUL = """
select q.msg_id from pgmq.q_{lane} q
left join payments.outbox o on o.event_id = (q.headers ->> 'ce-id')::uuid
where o.payload is distinct from q.message or o.headers is distinct from q.headers
  or q.headers ->> 'ce-type' <> o.event_type or q.headers ->> 'x-pgmq-group' <> o.aggregate_id::text
  or q.headers ->> 'ce-sequence' <> lpad(o.sequence::text, 10, '0')
  or q.headers ->> 'ce-subject' <> o.aggregate_id::text
"""
_OUT_OF_SEQUENCE = """
select * from (
  select q.msg_id, o.sequence, lag(o.sequence) over (partition by o.aggregate_id order by q.msg_id) as before
  from pgmq.q_{lane} q join payments.outbox o on o.event_id = (q.headers ->> 'ce-id')::uuid
) s where before >= sequence
"""
