"""What each check came to. Pure: rows in, findings out."""

from enum import StrEnum
from typing import Any

import msgspec

OPEN_TRANSACTION_S_MAX = 1800  # half an hour: from here on dead rows pile up where rows are updated
AUDIT_AGE_S_MAX = 600  # it runs every minute, and a long run is some minutes
CLOCK_S_MAX = 30  # far beyond what NTP leaves, far below the 300 s at which an API refuses Stripe's webhooks
Row = tuple[Any, ...]


class Level(StrEnum):
    """How bad it is."""

    OK = "ok"
    WARNING = "warning"
    FAULT = "fault"


class Finding(msgspec.Struct, frozen=True):
    """One check: how bad, what was found, and what to do about it."""

    level: Level
    check: str
    found: str
    advice: str = ""


def judge_server(version: str, synchronous_commit: str, *, durable: bool, standby: bool) -> list[Finding]:
    """A server that forgets commits, or takes none, is no place for money."""
    findings = [Finding(Level.OK, "server", f"PostgreSQL {version}")]
    if not durable:
        findings.append(
            Finding(
                Level.FAULT, "durability", "fsync or full_page_writes is off", "Switch both on; a crash loses payments."
            )
        )
    if synchronous_commit == "off":
        findings.append(
            Finding(
                Level.FAULT, "durability", "synchronous_commit is off", "Set it to on; an answered 201 could be lost."
            )
        )
    if standby:
        findings.append(
            Finding(
                Level.FAULT,
                "server",
                "a standby: it takes no writes",
                "Point DATABASE_URL at the primary, e.g. with several hosts and target_session_attrs=read-write.",
            )
        )
    return findings


def judge_standbys(*, named: bool, waited_for: bool, there: bool) -> list[Finding]:
    """Where a synchronous standby is named, commits wait for it, and it comes."""
    if not named:
        return []
    if not waited_for:
        return [
            Finding(
                Level.FAULT,
                "standby",
                "commits do not wait for the synchronous standby",
                "Set synchronous_commit to on; a failover could lose an answered 201.",
            )
        ]
    if not there:
        return [
            Finding(
                Level.FAULT,
                "standby",
                "commits wait for a synchronous standby, and none is there",
                "Start it, with an application_name that synchronous_standby_names has. After a promotion, or to go on "
                "without one: reset that.",
            )
        ]
    return [Finding(Level.OK, "standby", "commits wait for it")]


def judge_way(*, pooled: bool) -> list[Finding]:
    """Notifications come only straight from the server."""
    if not pooled:
        return []
    return [
        Finding(
            Level.WARNING,
            "notifications",
            "a pooler stands before the server, and passes on none",
            "Set DATABASE_DIRECT_URL to the server's own address; until then, work is found by looking.",
        )
    ]


def judge_clock(ahead_s: float) -> list[Finding]:
    """Only webhooks depend on a host's clock, all else on the database's."""
    if abs(ahead_s) <= CLOCK_S_MAX:
        return []
    found = f"this host is {abs(ahead_s):.0f} s {'ahead of' if ahead_s > 0 else 'behind'} the database"
    advice = "Set it by NTP: an API on a host that is 300 s off refuses every webhook (`delivery.refused` in its log)."
    return [Finding(Level.WARNING, "clock", found, advice)]


def judge_roles(rows: list[Row]) -> list[Finding]:
    """All five roles exist, and all but the owner can log in."""
    missing = [name for name, can_login in rows if can_login is None]
    shut_out = [name for name, can_login in rows if can_login is False and name != "payments_owner"]
    if missing:
        return [Finding(Level.FAULT, "roles", f"missing: {', '.join(missing)}", "Run `payments migrate`.")]
    if shut_out:
        return [
            Finding(Level.WARNING, "roles", f"cannot log in: {', '.join(shut_out)}", "ALTER ROLE … LOGIN PASSWORD …")
        ]
    return [Finding(Level.OK, "roles", "all there")]


def judge_restore(unlisted_since: str | None, unweighed: int) -> Finding:
    """After a restore nothing is taken until Stripe has been looked at."""
    if unlisted_since is None:
        return Finding(Level.OK, "restore", "the database is at home, and Stripe does not know more than it does")
    return Finding(
        Level.FAULT,
        "restore",
        f"Stripe is being looked at from {unlisted_since} on ({unweighed} rows of the inbox wait); no wish is taken",
        "It ends by itself: is a worker running, and does Stripe answer it? Its log says `stripe.listed` at the end.",
    )


def judge_lanes(behind: list[Row]) -> list[Finding]:
    """Every queue gets its events within a minute."""
    if not behind:
        return [Finding(Level.OK, "outbox", "no lane is behind")]
    return [
        Finding(
            Level.FAULT,
            "outbox",
            f"{queue} waits for {waiting} events, for {lag_s} s",
            "Is a relay running? Its log names the lane and why it stopped (a lock, a missing grant, a dropped queue).",
        )
        for queue, waiting, lag_s in behind
    ]


def judge_inbox(old: int, failing: int) -> list[Finding]:
    """Stripe's words are recorded within a minute."""
    findings = []
    if old:
        findings.append(Finding(Level.FAULT, "inbox", f"{old} messages older than a minute", "Is a worker running?"))
    if failing:
        findings.append(
            Finding(
                Level.WARNING, "inbox", f"{failing} messages failed before", "payments.inbox_pending has last_error."
            )
        )
    return findings or [Finding(Level.OK, "inbox", "nothing waits")]


def judge_reconciliation(
    overdue: int, doubtful: int, events_unseen_s: int | None, events_behind_s: int | None
) -> list[Finding]:
    """The reconciler looks when it means to."""
    findings = []
    if overdue:
        findings.append(
            Finding(
                Level.FAULT,
                "reconciler",
                f"{overdue} payments should have been looked at five minutes ago",
                "Is a worker running, and does Stripe answer it? `payments reconcile` looks at once.",
            )
        )
    if doubtful:
        findings.append(
            Finding(
                Level.FAULT,
                "reconciler",
                f"{doubtful} calls in doubt for a quarter of an hour",
                "Is a worker running? `payments reconcile` looks for them at Stripe at once.",
            )
        )
    if events_unseen_s is not None:
        findings.append(
            Finding(
                Level.WARNING,
                "reconciler",
                f"Stripe's events were last compared {events_unseen_s // 60} minutes ago",
                "Is a worker running, and does Stripe answer it? It catches up by itself.",
            )
        )
    if events_behind_s is not None:
        findings.append(
            Finding(
                Level.WARNING,
                "reconciler",
                f"Stripe's events are compared up to {events_behind_s // 60} minutes ago only",
                "It catches up after a pause. If this grows, more happens at Stripe than it can read.",
            )
        )
    return findings or [Finding(Level.OK, "reconciler", "nothing is overdue")]


def judge_payments(stuck: list[Row], parked: int, dead: int, imbalances: list[Row]) -> list[Finding]:
    """Nothing is stuck, parked, dead or out of balance."""
    findings = [
        Finding(
            Level.WARNING, "payments", f"{count} in {status} for five minutes or more", "See payments.stuck_payments."
        )
        for status, count in stuck
    ]
    if parked:
        findings.append(
            Finding(
                Level.FAULT,
                "stripe",
                f"{parked} calls are parked",
                "`payments dead-letters list` has their commands, to try again or to discard.",
            )
        )
    if dead:
        findings.append(
            Finding(
                Level.FAULT, "dead letters", f"{dead} unsettled", "`payments dead-letters list`, then retry or discard."
            )
        )
    findings += [
        Finding(Level.FAULT, "balance", f"{payment_id}: {imbalance}", "See payments.payment_timeline for this payment.")
        for payment_id, imbalance in imbalances
    ]
    return findings or [Finding(Level.OK, "payments", "none stuck, dead or out of balance")]


def judge_audit(unseen_s: int | None) -> list[Finding]:
    """The audit runs every minute."""
    if unseen_s is None or unseen_s <= AUDIT_AGE_S_MAX:
        return []
    return [
        Finding(
            Level.WARNING,
            "audit",
            f"our books were last compared {unseen_s // 60} minutes ago",
            "Is a worker running? Its log has what keeps it from it.",
        )
    ]


def judge_oldest_transaction(open_s: int) -> list[Finding]:
    """A transaction left open for long keeps dead rows from being cleared."""
    if open_s <= OPEN_TRANSACTION_S_MAX:
        return []
    return [
        Finding(
            Level.WARNING, "server", f"a transaction has been open for {open_s} s", "See pg_stat_activity.xact_start."
        )
    ]
