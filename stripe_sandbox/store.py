"""All state, in one SQLite file with one writer.

Guarantees: what happens inside ``transaction()`` is committed whole or not at all, and a SIGKILL loses nothing that was
answered (WAL survives the death of the process; ``synchronous=OFF`` gives up only on a power cut).
"""

from __future__ import annotations

import sqlite3
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from stripe_sandbox.errors import Json, StripeError

if TYPE_CHECKING:
    from collections.abc import Iterator

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode

_COLUMNS = "seq, id, kind, created, parent, tag, body, inner"


@dataclass
class Record:
    """A Stripe object and what only Stripe knows about it."""

    kind: str
    body: Json
    parent: str | None = None
    tag: str | None = None
    inner: Json = field(default_factory=dict)
    seq: int = 0

    @property
    def id(self) -> str:
        """The object's id."""
        return str(self.body["id"])


@dataclass(frozen=True)
class Query:
    """A page of objects, newest first (https://docs.stripe.com/api/pagination)."""

    kind: str
    parents: tuple[str, ...] | None = None
    tags: tuple[str, ...] | None = None
    created: tuple[tuple[str, int], ...] = ()
    # Of events: whether every delivery got its 2xx.
    delivered: bool | None = None
    after_seq: int | None = None
    before_seq: int | None = None
    limit: int = 10


class Store:
    """One connection, one thread."""

    def __init__(self, path: str) -> None:
        """Open or create the state; ``:memory:`` keeps none."""
        if path != ":memory:":
            Path(path).parent.mkdir(parents=True, exist_ok=True)
        self.db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        # Before WAL: its index then needs no shared memory, and a second sandbox on the same file is refused.
        self.db.execute("PRAGMA locking_mode = EXCLUSIVE")
        self.db.execute("PRAGMA journal_mode = WAL")
        self.db.execute("PRAGMA synchronous = OFF")
        # 64 MB of pages, and a checkpoint every 40 MB instead of 4: half the time of a call was spent in them.
        self.db.execute("PRAGMA cache_size = -65536")
        self.db.execute("PRAGMA wal_autocheckpoint = 10000")
        self.db.executescript(resources.files("stripe_sandbox").joinpath("schema.sql").read_text("utf-8"))

    def close(self) -> None:
        """Close the file."""
        self.db.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Commit on leaving, roll back on any exception."""
        self.db.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self.db.execute("ROLLBACK")
            raise
        self.db.execute("COMMIT")

    @contextmanager
    def effects(self) -> Iterator[None]:
        """Inside a transaction: undo what was done here when a StripeError says it keeps no effects."""
        self.db.execute("SAVEPOINT effects")
        try:
            yield
        except StripeError as error:
            if not error.keeps_effects:
                self.db.execute("ROLLBACK TO effects")
            raise
        finally:
            self.db.execute("RELEASE effects")

    def insert(self, record: Record) -> Record:
        """Add an object."""
        row = (record.id, record.kind, record.body["created"], record.parent, record.tag)
        cursor = self.db.execute(
            "INSERT INTO objects (id, kind, created, parent, tag, body, inner) VALUES (?, ?, ?, ?, ?, ?, ?)",
            (*row, _encode(record.body), _encode(record.inner)),
        )
        record.seq = cursor.lastrowid or 0
        return record

    def save(self, record: Record) -> None:
        """Write a changed object back."""
        self.db.execute(
            "UPDATE objects SET body = ?, inner = ? WHERE seq = ?",
            (_encode(record.body), _encode(record.inner), record.seq),
        )

    def adopt(self, record: Record, parent: str) -> None:
        """Give an object another parent, and write it back."""
        record.parent = parent
        self.db.execute("UPDATE objects SET parent = ? WHERE seq = ?", (parent, record.seq))
        self.save(record)

    def find(self, kind: str, identifier: str) -> Record | None:
        """One object, or None."""
        row = self.db.execute(
            f"SELECT {_COLUMNS} FROM objects WHERE id = ? AND kind = ?",  # noqa: S608 - column names only
            (identifier, kind),
        ).fetchone()
        return _record(row) if row else None

    def must(self, kind: str, identifier: str) -> Record:
        """An object that our own state refers to."""
        record = self.find(kind, identifier)
        if record is None:
            raise LookupError(f"{kind} {identifier} is gone from the state file")
        return record

    def select(self, query: Query) -> list[Record]:
        """A page; with ``before_seq`` alone the page next to it, still newest first."""
        where, values = _conditions(query)
        backwards = query.before_seq is not None and query.after_seq is None
        order = "ASC" if backwards else "DESC"
        sql = f"SELECT {_COLUMNS} FROM objects WHERE {where} ORDER BY seq {order} LIMIT ?"  # noqa: S608 - fixed parts
        rows = self.db.execute(sql, (*values, query.limit)).fetchall()
        return [_record(row) for row in (reversed(rows) if backwards else rows)]

    def children(self, kind: str, parent: str) -> list[Record]:
        """All objects of a parent, oldest first."""
        sql = f"SELECT {_COLUMNS} FROM objects WHERE parent = ? AND kind = ? ORDER BY seq"  # noqa: S608 - column names
        return [_record(row) for row in self.db.execute(sql, (parent, kind)).fetchall()]

    def meta(self, name: str, default: Any = None) -> Any:
        """A setting kept across restarts."""
        row = self.db.execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()
        return _decode(row[0]) if row else default

    def put_meta(self, name: str, value: Any) -> None:
        """Keep a setting."""
        self.db.execute("INSERT OR REPLACE INTO meta (name, value) VALUES (?, ?)", (name, _encode(value)))

    def wipe(self) -> None:
        """Forget everything."""
        with self.transaction():
            for table in ("meta", "objects", "ledger", "idempotency", "deliveries", "jobs", "faults", "requests"):
                self.db.execute(f"DELETE FROM {table}")  # noqa: S608 - the names above


def _conditions(query: Query) -> tuple[str, list[Any]]:
    parts = ["kind = ?"]
    bound: list[Any] = [query.kind]
    for column, wanted in (("parent", query.parents), ("tag", query.tags)):
        if wanted is not None:
            parts.append(f"{column} IN ({', '.join('?' * len(wanted))})")
            bound.extend(wanted)
    for operator, value in query.created:
        parts.append(f"created {operator} ?")
        bound.append(value)
    if query.delivered is not None:
        open_ones = "EXISTS (SELECT 1 FROM deliveries WHERE event = objects.id AND status <> 'delivered')"
        parts.append(f"NOT {open_ones}" if query.delivered else open_ones)
    if query.after_seq is not None:
        parts.append("seq < ?")
        bound.append(query.after_seq)
    if query.before_seq is not None:
        parts.append("seq > ?")
        bound.append(query.before_seq)
    return " AND ".join(parts), bound


def _record(row: tuple[Any, ...]) -> Record:
    seq, _id, kind, _created, parent, tag, body, inner = row
    return Record(kind=kind, body=_decode(body), parent=parent, tag=tag, inner=_decode(inner), seq=seq)
