"""The log of calls received, for tests that count them; never a body, never an API key."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stripe_sandbox.idempotency import KEY_LENGTH_MAX

if TYPE_CHECKING:
    from stripe_sandbox.api import Answer, Request
    from stripe_sandbox.errors import Json
    from stripe_sandbox.store import Store

# A day of a busy test bench; older rows go.
KEPT_MAX = 200_000
PRUNE_EVERY = 1_000

_SHOWN = (
    "seq",
    "at",
    "method",
    "path",
    "idempotency_key",
    "request_id",
    "status",
    "replayed",
    "executed",
    "fault",
    "payment_id",
)


def write(store: Store, now: float, request: Request, answer: Answer | None, fault: str | None) -> None:
    """Add a line in the caller's transaction; ``answer`` None: the connection was dropped before anything happened."""
    key = request.key[:KEY_LENGTH_MAX] if request.key else None
    metadata = request.given.get("metadata")
    payment = metadata.get("paymentId") if isinstance(metadata, dict) else None
    outcome = (answer.status, answer.replayed, answer.executed) if answer else (None, False, False)
    cursor = store.db.execute(
        "INSERT INTO requests (at, method, path, idempotency_key, request_id, status, replayed, executed, fault, "
        "payment_id) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (now, request.method, request.path, key, request.request_id, *outcome, fault, payment),
    )
    newest = cursor.lastrowid or 0
    if newest % PRUNE_EVERY == 0:
        store.db.execute("DELETE FROM requests WHERE seq <= ?", (newest - KEPT_MAX,))


def read(store: Store, filters: dict[str, str], after: int, limit: int) -> list[Json]:
    """Lines newer than ``after``, oldest first, filtered by columns; ``path`` is a glob."""
    where = ["seq > ?"]
    bound: list[object] = [after]
    for name in ("method", "idempotency_key", "payment_id", "request_id"):
        if name in filters:
            where.append(f"{name} = ?")
            bound.append(filters[name])
    if "path" in filters:
        where.append("path GLOB ?")
        bound.append(filters["path"])
    columns = ", ".join(_SHOWN)
    sql = f"SELECT {columns} FROM requests WHERE {' AND '.join(where)} ORDER BY seq LIMIT ?"  # noqa: S608 - fixed names
    rows = store.db.execute(sql, (*bound, limit)).fetchall()
    lines = [dict(zip(_SHOWN, row, strict=True)) for row in rows]
    return [{**line, "replayed": bool(line["replayed"]), "executed": bool(line["executed"])} for line in lines]
