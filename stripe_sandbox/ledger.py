"""The truth ledger: what was really authorized, captured, released and refunded, per PaymentIntent.

Tests compare the payment system's books with this; the entries, not the Stripe objects, are the authority.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

    from stripe_sandbox.call import Call
    from stripe_sandbox.errors import Json
    from stripe_sandbox.store import Record, Store

_ENTRY = ("at", "act", "intent", "charge", "refund", "amount", "currency", "request_id")


def enter(call: Call, act: str, charge: Json, amount: int, refund: str | None = None) -> None:
    """Append an entry in the caller's transaction; raises AssertionError when money would come from nowhere."""
    call.store.db.execute(
        "INSERT INTO ledger (at, intent, charge, refund, act, amount, currency, request_id) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (call.now, charge["payment_intent"], charge["id"], refund, act, amount, charge["currency"], call.request_id),
    )
    faults = imbalances(entries(call.store, charge["payment_intent"]))
    if faults:
        # An assert would vanish under -O; a sandbox that invents money must stop.
        raise AssertionError(f"the sandbox's ledger does not balance: {faults}")


def entries(store: Store, intent: str) -> list[Json]:
    """The entries of one PaymentIntent, oldest first."""
    rows = store.db.execute(
        "SELECT at, act, intent, charge, refund, amount, currency, request_id FROM ledger "
        "WHERE intent = ? ORDER BY seq",
        (intent,),
    )
    return [dict(zip(_ENTRY, row, strict=True)) for row in rows.fetchall()]


def sums(items: Iterable[Json]) -> dict[str, int]:
    """Authorized, captured, released and refunded amounts (a failed refund is taken back)."""
    total: dict[str, int] = defaultdict(int)
    for item in items:
        total[item["act"]] += item["amount"]
    return {
        "amount_authorized": total["authorize"],
        "amount_captured": total["capture"],
        "amount_released": total["release"],
        "amount_refunded": total["refund"] - total["refund_failed"],
        "amount_disputed": total["dispute"] - total["dispute_won"],
    }


def imbalances(items: Iterable[Json]) -> list[str]:
    """What could not happen with real money, per charge; empty when all is well."""
    by_charge: dict[str, list[Json]] = defaultdict(list)
    for item in items:
        by_charge[item["charge"]].append(item)
    found = []
    for charge, own in by_charge.items():
        total = sums(own)
        if total["amount_captured"] + total["amount_released"] > total["amount_authorized"]:
            found.append(f"{charge}: captured and released more than was authorized")
        if not 0 <= total["amount_refunded"] <= total["amount_captured"]:
            found.append(f"{charge}: refunded more than was captured")
    return found


def _charge_line(record: Record, own: list[Json]) -> Json:
    body = record.body
    shown = (
        "id",
        "amount",
        "currency",
        "captured",
        "status",
        "disputed",
        "failure_code",
        "balance_transaction",
        "created",
    )
    line: Json = {name: body[name] for name in shown}
    line["decline_code"] = record.inner.get("decline_code")
    return {**line, **sums(own)}


def _refund_line(record: Record) -> Json:
    shown = ("id", "amount", "currency", "status", "charge", "reason", "metadata", "created")
    return {**{name: record.body[name] for name in shown}, "failure_reason": record.body.get("failure_reason")}


def intent_line(store: Store, record: Record) -> Json:
    """One PaymentIntent in the ledger's answer."""
    shown = (
        "id",
        "amount",
        "currency",
        "status",
        "capture_method",
        "metadata",
        "customer",
        "created",
        "cancellation_reason",
    )
    own = entries(store, record.id)
    charges = store.children("charge", record.id)
    refunds = [refund for charge in charges for refund in store.children("refund", charge.id)]
    return {
        **{name: record.body[name] for name in shown},
        **sums(own),
        "charges": [_charge_line(charge, [e for e in own if e["charge"] == charge.id]) for charge in charges],
        "refunds": [_refund_line(refund) for refund in refunds],
        "entries": own,
    }


def summary(store: Store) -> Json:
    """``GET /_sandbox/ledger?summary=1``: count and totals of everything, cheap however much there is."""
    (count,) = store.db.execute("SELECT count(*) FROM objects WHERE kind = 'payment_intent'").fetchone()
    acts: dict[str, list[Json]] = defaultdict(list)
    for currency, act, amount in store.db.execute("SELECT currency, act, sum(amount) FROM ledger GROUP BY 1, 2"):
        acts[currency].append({"act": act, "amount": amount})
    return {"count": count, "totals": {currency: sums(items) for currency, items in acts.items()}}


def report(store: Store, records: list[Record]) -> Json:
    """``GET /_sandbox/ledger``: the intents oldest first, totals per currency, and what does not balance."""
    lines = [intent_line(store, record) for record in records]
    totals: dict[str, Any] = defaultdict(lambda: defaultdict(int))
    for line in lines:
        for name in ("amount_authorized", "amount_captured", "amount_released", "amount_refunded", "amount_disputed"):
            totals[line["currency"]][name] += line[name]
    return {
        "payment_intents": lines,
        "count": len(lines),
        "totals": totals,
        "imbalances": [fault for line in lines for fault in imbalances(line["entries"])],
    }
