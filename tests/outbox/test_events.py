import json
import os
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any
from uuid import UUID

import jsonschema_rs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from payments.domain.states import EventType
from payments.outbox.asyncapi import QUEUES, document
from payments.outbox.events import (
    EVENTS,
    CaptureRequested,
    DisputeClosed,
    DisputeOpened,
    Event,
    PaymentActionRequired,
    PaymentAuthorized,
    PaymentExpired,
    PaymentFailed,
    PaymentRequested,
    PaymentSucceeded,
    PaymentVoided,
    RefundFailed,
    RefundProcessed,
    RefundRequested,
    VoidRequested,
    decode,
    encode,
    rfc3339,
)
from tests.development.databases import Database

# The neighbours' own schemas (of the public EventCatalog example) are not ours to ship: compared with where they
# stand beside the checkout, or where PAYMENTS_CONTRACTS says.
CONTRACTS = Path(os.environ.get("PAYMENTS_CONTRACTS") or Path(__file__).parents[3] / "shared" / "contracts")
with_contracts = pytest.mark.skipif(
    not CONTRACTS.is_dir(), reason="PAYMENTS_CONTRACTS names no schemas of the neighbours"
)
AGREED = [
    EventType.PAYMENT_REQUESTED,
    EventType.PAYMENT_SUCCEEDED,
    EventType.PAYMENT_FAILED,
    EventType.REFUND_REQUESTED,
    EventType.REFUND_PROCESSED,
]
ASYNCAPI = Path(__file__).parents[2] / "docs" / "asyncapi.json"

P, ORDER, C = UUID(int=1), UUID(int=2), UUID(int=3)
AT = datetime(2026, 8, 1, 12, 0, 0, tzinfo=UTC)
LATER = datetime(2026, 8, 8, 14, 30, 0, 123456, tzinfo=timezone(timedelta(hours=2)))
MONEY: dict[str, Any] = {"payment_id": P, "order_id": ORDER, "amount": 1999, "currency": "EUR"}
REFUND: dict[str, Any] = {**MONEY, "refund_id": UUID(int=4)}
DISPUTE: dict[str, Any] = {**MONEY, "dispute_id": UUID(int=5)}

_P, _ORDER, _C = f'"paymentId":"{P}"', f'"orderId":"{ORDER}"', f'"customerId":"{C}"'
_M = f'{_P},{_ORDER},"amount":1999,"currency":"EUR"'
_R = f'{_P},"refundId":"{UUID(int=4)}",{_ORDER},"amount":1999,"currency":"EUR"'
_D = f'{_P},"disputeId":"{UUID(int=5)}",{_ORDER},"amount":1999,"currency":"EUR"'
_AT = '"2026-08-01T12:00:00.000000Z"'

# Version 1, byte for byte: what was once published stays readable, and a changed byte is a new version.
GOLDEN: list[tuple[Event, str]] = [
    (PaymentRequested(**MONEY, requested_at=AT), f'{{{_M},"requestedAt":{_AT}}}'),
    (
        PaymentRequested(**MONEY, customer_id=C, requested_at=AT),
        f'{{{_P},{_ORDER},{_C},"amount":1999,"currency":"EUR","requestedAt":{_AT}}}',
    ),
    (PaymentAuthorized(**MONEY, authorized_at=AT), f'{{{_M},"authorizedAt":{_AT}}}'),
    (
        PaymentAuthorized(**MONEY, processor_reference="ch_1", capture_before=LATER, authorized_at=AT),
        f'{{{_M},"processorReference":"ch_1","captureBefore":"2026-08-08T12:30:00.123456Z","authorizedAt":{_AT}}}',
    ),
    (
        PaymentSucceeded(**MONEY, processor_reference="ch_1", succeeded_at=AT),
        f'{{{_M},"processorReference":"ch_1","succeededAt":{_AT}}}',
    ),
    (
        PaymentFailed(payment_id=P, order_id=ORDER, reason="CARD_DECLINED", failed_at=AT),
        f'{{{_P},{_ORDER},"reason":"CARD_DECLINED","failedAt":{_AT}}}',
    ),
    (PaymentVoided(**MONEY, voided_at=AT), f'{{{_M},"voidedAt":{_AT}}}'),
    (PaymentExpired(**MONEY, expired_at=AT), f'{{{_M},"expiredAt":{_AT}}}'),
    (
        PaymentActionRequired(**MONEY, action="use_stripe_sdk", action_required_at=AT),
        f'{{{_M},"action":"use_stripe_sdk","actionRequiredAt":{_AT}}}',
    ),
    (
        CaptureRequested(**MONEY, capture_id=UUID(int=6), requested_at=AT),
        f'{{{_P},"captureId":"{UUID(int=6)}",{_ORDER},"amount":1999,"currency":"EUR","requestedAt":{_AT}}}',
    ),
    (VoidRequested(**MONEY, requested_at=AT), f'{{{_M},"requestedAt":{_AT}}}'),
    (
        RefundRequested(**REFUND, reason="requested_by_customer", requested_at=AT),
        f'{{{_R},"reason":"requested_by_customer","requestedAt":{_AT}}}',
    ),
    (RefundProcessed(**REFUND, processed_at=AT), f'{{{_R},"processedAt":{_AT}}}'),
    (
        RefundFailed(**REFUND, reason="expired_or_canceled_card", failed_at=AT),
        f'{{{_R},"reason":"expired_or_canceled_card","failedAt":{_AT}}}',
    ),
    (DisputeOpened(**DISPUTE, reason="fraudulent", opened_at=AT), f'{{{_D},"reason":"fraudulent","openedAt":{_AT}}}'),
    (DisputeClosed(**DISPUTE, status="lost", closed_at=AT), f'{{{_D},"status":"lost","closedAt":{_AT}}}'),
]


def test_every_event_type_has_its_own_type_and_golden_bytes() -> None:
    assert set(EVENTS) == set(EventType)
    assert {event.event_type for event, _ in GOLDEN} == set(EventType)


@pytest.mark.parametrize(("event", "golden"), GOLDEN)
def test_event_is_encoded_byte_for_byte(event: Event, golden: str) -> None:
    assert encode(event).decode() == golden
    assert decode(event.event_type, golden.encode()) == event
    assert decode(event.event_type, (golden[:-1] + ',"later":{"version":2}}').encode()) == event


@with_contracts
@pytest.mark.parametrize(
    ("event", "golden"), [(event, golden) for event, golden in GOLDEN if event.event_type in AGREED]
)
def test_event_validates_against_its_contract(event: Event, golden: str) -> None:
    schema = json.loads((CONTRACTS / f"{event.event_type}.schema.json").read_text())
    payload = json.loads(golden)
    jsonschema_rs.validator_for(schema, validate_formats=True).validate(payload)
    assert set(schema["required"]) <= set(payload)


@pytest.mark.parametrize(("event", "golden"), GOLDEN)
def test_event_validates_against_our_own_schema(event: Event, golden: str) -> None:
    payload = json.loads(golden)
    ours = document()["components"]["schemas"][type(event).__name__]
    jsonschema_rs.validator_for(ours, validate_formats=True).validate(payload)
    assert set(payload) <= set(ours["properties"])


@with_contracts
@pytest.mark.parametrize("event_type", AGREED)
def test_contract_requires_nothing_that_an_event_may_leave_out(event_type: EventType) -> None:
    ours = document()["components"]["schemas"][EVENTS[event_type].__name__]
    contract = json.loads((CONTRACTS / f"{event_type}.schema.json").read_text())
    assert set(contract["required"]) <= set(ours["required"])


@pytest.mark.parametrize("amount", [True, 1.0, "1", -1, None])
def test_event_refuses_a_doubtful_amount(amount: Any) -> None:
    with pytest.raises((TypeError, ValueError)):
        PaymentVoided(**{**MONEY, "amount": amount}, voided_at=AT)


def test_event_refuses_a_time_without_a_zone() -> None:
    with pytest.raises(ValueError, match="voided_at"):
        PaymentVoided(**MONEY, voided_at=datetime(2026, 8, 1))  # noqa: DTZ001 - the point


@given(moment=st.datetimes(min_value=datetime(1970, 1, 1), max_value=datetime(2999, 1, 1), timezones=st.timezones()))  # noqa: DTZ001
def test_rfc3339_is_utc_with_microseconds_and_loses_nothing(moment: datetime) -> None:
    text = rfc3339(moment)
    assert len(text) == len("2026-08-01T12:00:00.000000Z")
    assert datetime.fromisoformat(text) == moment.astimezone(UTC)


def test_rfc3339_writes_times_as_sql_does(module_database: Database) -> None:
    with module_database.connect() as conn:
        row = conn.execute("select payments.rfc3339(%s), payments.rfc3339(%s)", (AT, LATER)).fetchone()
    assert row == (rfc3339(AT), rfc3339(LATER))


def test_events_have_no_field_for_secrets_or_customer_data() -> None:
    fields = {name for schema in document()["components"]["schemas"].values() for name in schema["properties"]}
    assert not {name for name in fields if any(word in name.lower() for word in ("secret", "card", "email", "name"))}


def test_asyncapi_document_is_current() -> None:
    assert json.loads(ASYNCAPI.read_text()) == document(), "run: payments outbox asyncapi > docs/asyncapi.json"


def test_asyncapi_references_lead_somewhere() -> None:
    whole = document()

    def references(value: Any) -> list[str]:
        match value:
            case dict():
                return (
                    [str(value["$ref"])]
                    if "$ref" in value
                    else [r for each in value.values() for r in references(each)]
                )
            case list():
                return [r for each in value for r in references(each)]
            case _:
                return []

    for reference in references(whole):
        target: Any = whole
        for step in reference.removeprefix("#/").split("/"):
            target = target[step]
        assert target


def test_asyncapi_channels_are_the_queues_of_the_schema(module_database: Database) -> None:
    with module_database.connect() as conn:
        rows = conn.execute("select queue_name, array_agg(pattern) from pgmq.topic_bindings group by 1").fetchall()
        purposes = dict(conn.execute("select queue_name, purpose from payments.lanes").fetchall())
    bound = {queue: set(patterns) for queue, patterns in rows}
    assert bound == {queue: {event.routing_key for event in events} for queue, (_, events) in QUEUES.items()}
    assert purposes == {queue: purpose for queue, (purpose, _) in QUEUES.items()}


def test_asyncapi_headers_are_those_that_sql_writes(module_database: Database) -> None:
    schema = document()["components"]["schemas"]["Headers"]
    with module_database.connect() as conn:
        for traceparent in (None, "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"):
            row = conn.execute(
                "select payments.event_headers(%s, 'payment-voided', %s, 7, %s, %s)", (C, P, AT, traceparent)
            ).fetchone()
            assert row is not None
            jsonschema_rs.validator_for(schema, validate_formats=True).validate(row[0])
            assert set(row[0]) == set(schema["properties"]) - ({"traceparent"} if traceparent is None else set())
