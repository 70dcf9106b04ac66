"""From a row of the inbox to the signal in it; pure."""

from collections.abc import Mapping
from typing import Any
from uuid import UUID

import msgspec

from payments.domain.facts import intent_id_of, payment_id_of
from payments.domain.signals import Elsewhere, Signal, UnreadableSignal, intent_id_in, read_answer, read_event
from payments.settings import Settings
from payments.stripe_gateway.api_version import STRIPE_API_VERSION


class InboxRow(msgspec.Struct, frozen=True):
    """A claimed row, columns in the order of the claiming queries."""

    inbox_id: int
    source: str
    message_id: str
    message_type: str
    payment_id: UUID | None
    payload: Mapping[str, Any]
    attempts: int
    age_s: float = 0.0


class Message(msgspec.Struct, frozen=True):
    """A row that was read: its signal, and by what its payment may be found."""

    row: InboxRow
    signal: Signal | Elsewhere
    payment_id: UUID | None
    intent_id: str | None


def read_row(row: InboxRow, settings: Settings) -> Message:
    """Reads a row; raises UnreadableSignal or UnreadableObject when nobody can."""
    match row.source:
        case "stripe-webhook":
            event = row.payload
            signal = read_event(
                event,
                livemode=settings.stripe_livemode,
                account=settings.stripe_account,
                api_version=STRIPE_API_VERSION,
            )
            data = event.get("data")
            thing = data.get("object") if isinstance(data, dict) else None
            return Message(row, signal, row.payment_id or payment_id_of(thing), intent_id_of(thing))
        case "stripe-api" | "reconciler":
            answer = read_answer(row.payload)
            owner = row.payment_id or payment_id_of(row.payload.get("object"))
            return Message(row, answer, owner, intent_id_in(answer))
        case _:
            raise UnreadableSignal(f"nobody here knows the source {row.source}")


def stripe_request_id(row: InboxRow) -> str | None:
    """Stripe's id of the call that caused the row, for their support."""
    if row.source == "stripe-webhook":
        request = row.payload.get("request")
        value = request.get("id") if isinstance(request, dict) else request  # a plain id in API versions before 2017
    else:
        value = row.payload.get("requestId")
    return value[:255] if isinstance(value, str) else None
