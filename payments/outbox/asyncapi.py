"""The AsyncAPI 3 description of the queues, generated from the event types; docs/asyncapi.json is its output."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import msgspec

from payments.domain.states import EventType
from payments.outbox.events import DATASCHEMA, EVENTS, VERSION

OUTCOMES = tuple(event for event in EventType if not event.endswith("-requested"))

# The queues that are there from the start, as sql/schema.sql makes them; a test compares the two.
QUEUES: Mapping[str, tuple[str, tuple[EventType, ...]]] = MappingProxyType(
    {
        "payment_requested": ("The worker charges", (EventType.PAYMENT_REQUESTED,)),
        "refund_requested": ("The worker refunds", (EventType.REFUND_REQUESTED,)),
        "capture_requested": ("The worker captures", (EventType.CAPTURE_REQUESTED,)),
        "void_requested": ("The worker cancels", (EventType.VOID_REQUESTED,)),
        "ordering": ("The Ordering domain hears every outcome", OUTCOMES),
    }
)

INFO = {
    "title": "Payments: events",
    "version": f"{VERSION}.0.0",
    "description": (
        "Each event reaches each queue that is bound to it exactly once, in the order of the outbox. Queues are pgmq "
        "queues in PostgreSQL: read with `pgmq.read`, acknowledge with `pgmq.archive` or `pgmq.delete`. A consumer "
        "that dies before it acknowledges reads a message again: recognise it by `ce-id`. `ce-sequence` counts the "
        "events of one payment from 1, without gap. A further queue is made by `payments consumers add`; any of the "
        "events may be bound to it."
    ),
}


def document() -> dict[str, Any]:
    """The whole description, ready to be written as JSON."""
    return {
        "asyncapi": "3.0.0",
        "info": INFO,
        "defaultContentType": "application/json",
        "channels": {queue: _channel(queue, purpose, events) for queue, (purpose, events) in QUEUES.items()},
        "operations": {f"send_{queue}": _operation(queue, events) for queue, (_, events) in QUEUES.items()},
        "components": {
            "messages": {event.value: _message(event) for event in EventType},
            "schemas": {**_payloads(), "Headers": _headers()},
        },
    }


def _channel(queue: str, purpose: str, events: tuple[EventType, ...]) -> dict[str, Any]:
    return {
        "address": queue,
        "description": f"{purpose}.",
        "messages": {event.value: {"$ref": f"#/components/messages/{event.value}"} for event in events},
    }


def _operation(queue: str, events: tuple[EventType, ...]) -> dict[str, Any]:
    return {
        "action": "send",
        "channel": {"$ref": f"#/channels/{queue}"},
        "messages": [{"$ref": f"#/channels/{queue}/messages/{event.value}"} for event in events],
    }


def _message(event: EventType) -> dict[str, Any]:
    kind = EVENTS[event]
    own = {"ce-type": {"const": event.value}, "ce-dataschema": {"const": urn(event)}}
    return {
        "name": event.value,
        "title": kind.__name__,
        "summary": kind.__doc__,
        "contentType": "application/json",
        "headers": {"allOf": [{"$ref": "#/components/schemas/Headers"}, {"type": "object", "properties": own}]},
        "payload": {"$ref": f"#/components/schemas/{kind.__name__}"},
        "x-routing-key": event.routing_key,
    }


def urn(event: EventType) -> str:
    """The `ce-dataschema` of an event."""
    return DATASCHEMA.format(event_type=event.value, version=VERSION)


def _payloads() -> dict[str, Any]:
    _, components = msgspec.json.schema_components(EVENTS.values(), ref_template="#/components/schemas/{name}")
    for schema in components.values():
        for name, field in schema["properties"].items():
            schema["properties"][name] = _never_null(field)
    return dict(components)


def _never_null(field: dict[str, Any]) -> dict[str, Any]:
    """An optional field is left out rather than null."""
    choices = [choice for choice in field.get("anyOf", []) if choice != {"type": "null"}]
    rest = {key: value for key, value in field.items() if key not in {"anyOf", "default"}}
    return {**rest, **choices[0]} if len(choices) == 1 else field


def _headers() -> dict[str, Any]:
    text, uuid = {"type": "string"}, {"type": "string", "format": "uuid"}
    properties = {
        "ce-specversion": {"const": "1.0"},
        "ce-id": {**uuid, "description": "The event's id: recognise repetitions by it."},
        "ce-type": text,
        "ce-source": {"const": "/payments"},
        "ce-subject": {**uuid, "description": "The payment."},
        "ce-time": {"type": "string", "format": "date-time", "description": "When it was recorded; UTC, microseconds."},
        "ce-dataschema": text,
        "content-type": {"const": "application/json"},
        "ce-sequence": {
            "type": "string",
            "pattern": "^[0-9]{10}$",
            "description": "Counts the events of one payment from 1, without gap; zero-padded.",
        },
        "traceparent": {**text, "description": "W3C Trace Context of the request that caused it, if it had one."},
        "x-pgmq-group": {**uuid, "description": "The payment: pgmq's grouped reads keep its events in order."},
    }
    required = [name for name in properties if name != "traceparent"]
    return {
        "type": "object",
        "description": "CloudEvents 1.0 attributes, in the headers of the pgmq message.",
        "properties": properties,
        "required": required,
    }
