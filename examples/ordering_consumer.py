"""An example consumer: Ordering keeps what it hears about payments in a database of its own.

    payments consumers add ordering        # prints the dsn, once
    PAYMENTS_DSN=… ORDERS_DSN=… python examples/ordering_consumer.py

It reads the pgmq queue `ordering` with the `pgmq` package, checks each message against docs/asyncapi.json, and survives
what may happen to it: a message that comes twice, late or broken, and its own death at any instruction. Any number of
copies may run. docs/consumers.md explains it.
"""

import json
import logging
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any
from uuid import UUID

import jsonschema_rs
import psycopg
from pgmq import Message, PGMQueue
from psycopg.types.json import Jsonb

QUEUE = "ordering"
ASYNCAPI = Path(__file__).parent.parent / "docs" / "asyncapi.json"
# A message that is not acknowledged by then comes again: longer than a batch ever takes.
LEASE_S = 30
BATCH = 20
# Read so often without success, it is the message that is at fault: set aside for a human, the others go on.
READS_MAX = 5
PAUSE_S = 1.0

SCHEMA = """
create table if not exists heard (
  event_id uuid primary key,
  heard_at timestamptz not null default now()
);
create table if not exists latest (
  subject uuid primary key,
  payment_id uuid not null,
  sequence int not null,
  event text not null,
  payload jsonb not null
);
create table if not exists set_aside (
  queue_id bigint primary key,
  why text not null,
  message jsonb,
  headers jsonb,
  set_aside_at timestamptz not null default now()
);
"""
HEARD = "insert into heard (event_id) values (%s) on conflict do nothing"
LATEST = """
insert into latest (subject, payment_id, sequence, event, payload) values (%s, %s, %s, %s, %s)
on conflict (subject) do update
set sequence = excluded.sequence, event = excluded.event, payload = excluded.payload
where latest.sequence < excluded.sequence
"""
SET_ASIDE = "insert into set_aside (queue_id, why, message, headers) values (%s, %s, %s, %s) on conflict do nothing"

log = logging.getLogger("ordering")


class Contract:
    """The events as docs/asyncapi.json describes them."""

    def __init__(self, path: Path = ASYNCAPI) -> None:
        document = json.loads(path.read_text(encoding="utf-8"))
        components = {"components": document["components"]}
        self._events = {
            event: [
                (part, jsonschema_rs.validator_for(message[part] | components, validate_formats=True))
                for part in ("headers", "payload")
            ]
            for event, message in document["components"]["messages"].items()
        }

    def knows(self, message: Message) -> bool:
        """Whether this release of ours has heard of the event; a later release of Payments may send more."""
        return bool(message.headers) and message.headers.get("ce-type") in self._events

    def fault(self, message: Message) -> str | None:
        """What is wrong with a message; None: nothing."""
        if not isinstance(message.headers, dict) or "ce-type" not in message.headers:
            return "no ce-type in the headers"
        parts = {"headers": message.headers, "payload": message.message}
        for part, validator in self._events.get(message.headers["ce-type"], []):
            for error in validator.iter_errors(parts[part]):
                return f"{part}: {error.message}"
        return None


def subject_of(payload: dict[str, Any]) -> UUID:
    """What an event is news of: a refund, a dispute, or else the payment."""
    return UUID(payload.get("refundId") or payload.get("disputeId") or payload["paymentId"])


def handle(orders: psycopg.Connection[Any], contract: Contract, message: Message) -> str:
    """Takes one message into our database, in one transaction; says what became of it. Then it may be archived."""
    with orders.transaction():
        fault = contract.fault(message)
        if fault is None and message.read_ct > READS_MAX:
            fault = f"read {message.read_ct} times without success"
        if fault is not None:
            values = (message.msg_id, fault, Jsonb(message.message), Jsonb(message.headers))
            orders.execute(SET_ASIDE, values)
            return "set aside"
        if not contract.knows(message):
            return "unknown"
        if orders.execute(HEARD, (message.headers["ce-id"],)).rowcount == 0:
            return "repeated"
        sequence = int(message.headers["ce-sequence"])
        values = (
            subject_of(message.message), message.message["paymentId"], sequence, message.headers["ce-type"],
            Jsonb(message.message),
        )  # fmt: skip
        applied = orders.execute(LATEST, values).rowcount == 1
        # Here Ordering would do what the news mean to it, in this same transaction.
        return "applied" if applied else "stale"


def work(queue: PGMQueue, orders: psycopg.Connection[Any], contract: Contract, poll_s: int = 5) -> int:
    """One batch: waits for messages, handles each, archives what was handled. How many there were."""
    messages = queue.read_with_poll(QUEUE, vt=LEASE_S, qty=BATCH, max_poll_seconds=poll_s)
    # Mostly they come in this order anyway; a batch sorted so has less that is stale.
    messages.sort(key=lambda one: one.msg_id)
    for message in messages:
        try:
            outcome = handle(orders, contract, message)
        except psycopg.OperationalError:
            # Our database is away, which is no fault of the message: let it come again as soon as we are back.
            queue.set_vt(QUEUE, [one.msg_id for one in messages], 0)
            raise
        except Exception:
            log.exception("message %s: failed, comes again in %s s", message.msg_id, LEASE_S)
            continue
        queue.archive(QUEUE, message.msg_id)
        log.info("message %s: %s", message.msg_id, outcome)
    return len(messages)


def main() -> None:
    """Works until SIGTERM or Ctrl-C, through outages of either database."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    contract = Contract()
    queue = PGMQueue(conn_string=os.environ["PAYMENTS_DSN"], init_extension=False, pool_size=1)
    try:
        while not stop.is_set():
            try:
                with psycopg.connect(os.environ["ORDERS_DSN"], autocommit=True) as orders:
                    orders.execute(SCHEMA)
                    while not stop.is_set():
                        work(queue, orders, contract)
            except psycopg.OperationalError as error:
                log.warning("a database is away: %s", error)
                time.sleep(PAUSE_S)
    finally:
        queue.close()


if __name__ == "__main__":
    main()
