"""Payments as callers see them, read from the database."""

from collections.abc import Mapping
from typing import Any, cast
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


async def find_payments(conn: Connection, payment_ids: list[UUID]) -> list[PaymentView]:
    """Those of the payments that exist, in no order."""
    return await _views(conn, "find_payments", payment_ids)


async def find_settled(conn: Connection, payment_ids: list[UUID]) -> list[PaymentView]:
    """Those of the payments that have settled, in no order."""
    return await _views(conn, "find_settled", payment_ids)


async def _views(conn: Connection, query: str, payment_ids: list[UUID]) -> list[PaymentView]:
    rows = await (await conn.execute(_QUERIES[query], {"payment_ids": payment_ids})).fetchall()
    return [_view(cast("tuple[Any, ...]", row)) for row in rows]


def _view(row: tuple[Any, ...]) -> PaymentView:
    payment_id, status, version, answer, *failure = row
    return PaymentView(payment_id, PaymentStatus(status), version, answer.encode(), *failure)


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
