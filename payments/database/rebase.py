"""Brings a restored database back: `payments migrate --rebase` (docs/adr/0015-after-a-restore.md).

One transaction. In another cluster the outbox's transaction ids mean nothing, so from stored values alone it settles
what was dispatched, sends the rest, and lets every lane begin anew in the ids of this cluster. In any cluster, what
happened at Stripe since the backup may be missing here: it notes since when, and until the reconciler has looked at all
of that, the API takes no wish and the worker makes no call.
"""

from datetime import datetime, timedelta
from typing import Any

import msgspec
import psycopg

from payments.database.operator_connection import operator_connection
from payments.database.queries import load_queries
from payments.errors import RebaseRefused

# Before the newest time that is stored, or the one that was named: clocks differ, transactions take their time, and
# what Stripe did a moment earlier may not have been told any more.
MARGIN = timedelta(minutes=10)
# A database has lost nothing from before it was made. Whoever knows the day only names its beginning, in some zone.
BEFORE_ALL = timedelta(days=1)
# Who writes for longer is at work, and has to be stopped.
LOCK_TIMEOUT = "5s"

_QUERIES = load_queries("rebase")
_MIGRATE = load_queries("migrate")
_CONNECTIONS = load_queries("connections")


class Rebased(msgspec.Struct, frozen=True):
    """What was done.

    `has_moved`: the database came from another cluster. `sent`: messages by queue. `unlisted_since`: from when on
    Stripe has to be looked at; None, with `has_moved` false: nothing had to be done.
    """

    has_moved: bool
    sent: dict[str, int]
    restamped: int
    unlisted_since: datetime | None


def is_home(admin_dsn: str) -> bool:
    """Whether the migrated database still lives in the cluster whose transaction ids it remembers.

    Raises what operator_connection raises.
    """
    with operator_connection(admin_dsn) as conn:
        row = conn.execute(_CONNECTIONS["is_home"]).fetchone()
    return row is not None and bool(row[0])


def rebase(admin_dsn: str, since: datetime | None) -> Rebased:
    """Settles dispatch where the database has moved; notes since when Stripe is to be listed, and commits.

    `since`: when the backup was taken; without it the newest time that is stored counts, and a database that is at home
    is left alone. Safe to repeat. Raises RebaseRefused (also for a time before the database was made), and what
    operator_connection raises.
    """
    with operator_connection(admin_dsn) as conn:
        conn.execute(_QUERIES["be_patient"], {"lock_timeout": LOCK_TIMEOUT})
        try:
            conn.execute(_MIGRATE["lock"])
            conn.execute(_MIGRATE["become_owner"])
            conn.execute(_QUERIES["lock_writers_out"])
        except psycopg.errors.LockNotAvailable as error:
            raise RebaseRefused(
                "Somebody is writing to this database.",
                advice="Stop every api, relay and worker; pg_stat_activity and pg_locks name other sessions.",
            ) from error
        return _rebase(conn, since)


def _rebase(conn: psycopg.Connection[Any], since: datetime | None) -> Rebased:
    row = conn.execute(_QUERIES["look"]).fetchone()
    assert row is not None, "every migrated database has its row"
    is_home, now, unlisted_since, newest, oldest = row
    if since is not None:
        _refuse_mistyped(since, oldest, now)
    if is_home and since is None:
        return Rebased(has_moved=False, sent={}, restamped=0, unlisted_since=None)
    sent, restamped = ({}, 0) if is_home else _settle(conn)
    known_until = (since or newest) - MARGIN
    unlisted_since = known_until if unlisted_since is None else min(unlisted_since, known_until)
    conn.execute(_QUERIES["record_rebase"], {"since": unlisted_since})
    conn.execute(_QUERIES["forget_listing"])
    conn.execute(_QUERIES["begin_audit"])
    return Rebased(has_moved=not is_home, sent=sent, restamped=restamped, unlisted_since=unlisted_since)


def _refuse_mistyped(since: datetime, oldest: datetime, now: datetime) -> None:
    """A time that is too early could not be taken back: it may be an earlier restore's, so the earlier one counts."""
    if since > now:
        raise RebaseRefused(f"{since.isoformat()} lies in the future.", advice="Say when the backup was taken.")
    if since < oldest - BEFORE_ALL:
        raise RebaseRefused(
            f"{since.isoformat()} lies before all that this database can have lost.",
            advice=f"Mind the year and the month; the database was made at {oldest.isoformat(timespec='seconds')}.",
        )


def _settle(conn: psycopg.Connection[Any]) -> tuple[dict[str, int], int]:
    sent: dict[str, int] = {}
    for (queue,) in conn.execute(_QUERIES["lanes"]).fetchall():
        try:
            sent[queue] = _number(conn, "settle_lane", {"queue": queue})
        except psycopg.errors.UndefinedTable as error:
            raise RebaseRefused(
                f"The lane {queue} is owed events, and its queue is gone.",
                advice=f"`payments consumers remove {queue}` if nobody needs it; then try again. Nothing was changed.",
            ) from error
    return sent, _number(conn, "begin_anew", {})


def _number(conn: psycopg.Connection[Any], query: str, values: dict[str, object]) -> int:
    row = conn.execute(_QUERIES[query], values).fetchone()
    assert row is not None
    return int(row[0])
