"""Payments in every state, made by hand, and a look at what was written about them."""

import uuid
from typing import Any

import httpx
import psycopg

from tests.api.driving import settle, wish

MONEY = {"amount": 1000, "currency": "EUR"}


def payment_in(shop: httpx.Client, eye: psycopg.Connection[Any], status: str, **changes: Any) -> str:
    """A payment of 10.00 EUR that has come to a status."""
    manual = status in {"AUTHORIZED", "CAPTURING", "EXPIRED"}
    body = wish(**{**MONEY, "captureMethod": "manual" if manual else "automatic", **changes})
    payment_id: str = shop.post("/payments/authorize", json=body).json()["paymentId"]
    for step in {"CAPTURING": ("AUTHORIZED",), "VOIDED": ("VOIDING",)}.get(status, ()):
        settle(eye, payment_id, step)
    if status != "REQUESTED":
        settle(eye, payment_id, status)
    return payment_id


def events_of(eye: psycopg.Connection[Any], payment_id: str) -> list[tuple[str, int, dict[str, Any], dict[str, Any]]]:
    return eye.execute(
        "select event_type, sequence, payload, headers from payments.outbox where aggregate_id = %s order by sequence",
        (payment_id,),
    ).fetchall()


def history_of(shop: httpx.Client, payment_id: str) -> list[tuple[str, str, str | None, str]]:
    items = shop.get(f"/payments/{payment_id}/history").json()["items"]
    return [(item["signal"], item["decision"], item["from"], item["to"]) for item in items]


def columns_of(eye: psycopg.Connection[Any], payment_id: str, *names: str) -> tuple[Any, ...]:
    found = eye.execute(f"select {', '.join(names)} from payments.payments where payment_id = %s", (payment_id,))
    return found.fetchone() or ()


def effects_of(eye: psycopg.Connection[Any], payment_id: str) -> dict[str, int]:
    """How often each event was published, and how many refunds and kept answers there are."""
    counts = dict(
        eye.execute(
            "select event_type, count(*) from payments.outbox where aggregate_id = %s group by event_type",
            (payment_id,),
        ).fetchall()
    )
    for table in ("refunds", "idempotency_keys"):
        row = eye.execute(f"select count(*) from payments.{table} where payment_id = %s", (payment_id,)).fetchone()
        counts[table] = (row or (0,))[0]
    return {name: count for name, count in counts.items() if count and name != "payment-requested"}


def new_key() -> dict[str, str]:
    return {"Idempotency-Key": str(uuid.uuid4())}
