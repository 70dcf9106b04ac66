"""A day passes for some payments, at Stripe and with us. PostgreSQL's clock cannot be moved, so their rows grow old."""

from typing import Any

import psycopg

from tests.conftest import wait_until
from tests.scenarios.world import World

DAY_S = 25 * 3_600
ATTEMPT_S = 6  # longer than a call to Stripe may take here
QUEUES = ("payment_requested", "capture_requested", "void_requested", "refund_requested")

# Triggers would date each change today, and refuse some.
WITHOUT_TRIGGERS = "set local session_replication_role = replica"
# No call may be under way: one that is cannot be a day old.
HOLD_CALLS = "lock table payments.stripe_requests in share row exclusive mode"
IS_CALLING = """select from payments.stripe_requests where payment_id = any(%(ids)s::uuid[])
  and state = 'in_flight' and last_attempt_at > clock_timestamp() - make_interval(secs => %(attempt_s)s)"""
AGED = {
    "payments.payments": ("payment_id", "updated_at"),
    "payments.refunds": ("payment_id", "updated_at"),
    "payments.stripe_requests": ("payment_id", "created_at", "first_attempt_at", "last_attempt_at"),
    "payments.watches": ("payment_id", "next_look_at"),
    "payments.inbox": ("payment_id", "received_at", "next_attempt_at"),
} | {f"pgmq.q_{queue}": ("(message ->> 'paymentId')::uuid", "vt", "enqueued_at") for queue in QUEUES}


def a_day_passes(world: World, payment_ids: list[str]) -> None:
    """Once no call of theirs is under way; Stripe forgets keys, and every limit of a day is over."""
    wait_until(lambda: _grow_old(world, {"ids": payment_ids, "attempt_s": ATTEMPT_S}), 4 * ATTEMPT_S)
    world.stripe.advance(DAY_S)


def _grow_old(world: World, values: dict[str, Any]) -> bool:
    try:
        with world.system.connect() as conn, conn.transaction():
            conn.execute("set local lock_timeout = '500ms'")
            conn.execute(HOLD_CALLS)
            if conn.execute(IS_CALLING, values).fetchone():
                return False
            conn.execute(WITHOUT_TRIGGERS)
            for table, (owner, *times) in AGED.items():
                older = ", ".join(f"{time} = {time} - interval '25 hours'" for time in times)
                conn.execute(f"update {table} set {older} where {owner} = any(%(ids)s::uuid[])", values)
    except (psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected):
        return False
    return True
