"""Payments and refunds as callers see them, read from the database."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, cast
from uuid import UUID

import msgspec

from payments.api.problems import Refusal
from payments.database.connections import Connection
from payments.database.queries import load_queries
from payments.domain.states import UNSETTLED, PaymentStatus

_QUERIES = load_queries("api")


class PaymentView(msgspec.Struct, frozen=True):
    """A payment at one version: its JSON, and what decides how it is answered."""

    payment_id: UUID
    status: PaymentStatus
    version: int
    answer: bytes
    failure_reason: str | None
    decline_code: str | None
    failure_message: str | None

    @property
    def is_settled(self) -> bool:
        """Whether a caller who waits is to be answered."""
        return self.status not in UNSETTLED

    @property
    def etag(self) -> str:
        """The entity tag of this version."""
        return f'"{self.version}"'

    @property
    def id(self) -> UUID:
        """What a waiter names it by."""
        return self.payment_id


class RefundView(msgspec.Struct, frozen=True):
    """A refund as it stands."""

    refund_id: UUID
    payment_id: UUID
    status: str
    answer: bytes

    @property
    def is_settled(self) -> bool:
        """Whether a caller who waits is to be answered: Stripe has said something."""
        return self.status != "REQUESTED"

    @property
    def id(self) -> UUID:
        """What a waiter names it by."""
        return self.refund_id


View = PaymentView | RefundView


class Subject(NamedTuple):
    """A kind of thing that callers read and wait for: its queries, and how a row becomes a view."""

    find: str
    find_settled: str
    ids: str
    read: Callable[[tuple[Any, ...]], View]


def _payment_view(row: tuple[Any, ...]) -> PaymentView:
    payment_id, status, version, answer, *failure = row
    return PaymentView(payment_id, PaymentStatus(status), version, answer.encode(), *failure)


def _refund_view(row: tuple[Any, ...]) -> RefundView:
    refund_id, payment_id, status, answer = row
    return RefundView(refund_id, payment_id, status, answer.encode())


PAYMENTS = Subject("find_payments", "find_settled", "payment_ids", _payment_view)
REFUNDS = Subject("find_refunds", "find_settled_refunds", "refund_ids", _refund_view)


async def find(conn: Connection, subject: Subject, ids: list[UUID]) -> list[View]:
    """Those that exist, in no order."""
    return await _views(conn, subject, subject.find, ids)


async def find_settled(conn: Connection, subject: Subject, ids: list[UUID]) -> list[View]:
    """Those that have settled, in no order."""
    return await _views(conn, subject, subject.find_settled, ids)


async def _views(conn: Connection, subject: Subject, query: str, ids: list[UUID]) -> list[View]:
    rows = await (await conn.execute(_QUERIES[query], {subject.ids: ids})).fetchall()
    return [subject.read(cast("tuple[Any, ...]", row)) for row in rows]


def declined(view: PaymentView, headers: Mapping[str, str]) -> Refusal:
    """The answer to a caller who waited for a payment that failed."""
    return Refusal(
        "payment_declined",
        view.failure_message or "The payment failed; ask the customer for another way to pay.",
        headers=headers,
        payment_id=str(view.payment_id),
        reason=view.failure_reason,
        decline_code=view.decline_code,
    )
