"""Calls to Stripe, by the official client: each ends in an `Outcome`, whatever comes back or does not.

No retries here: the queue owns them. No database: whoever calls holds no transaction. Nothing is logged: an answer
holds the customer's data, and errors of the client quote bodies.
"""

from collections.abc import Awaitable, Callable, Mapping
from copy import copy
from datetime import datetime
from types import TracebackType
from typing import Any, Protocol, Self
from urllib.parse import quote

import msgspec
import stripe

from payments.settings import Settings
from payments.stripe_gateway.api_version import STRIPE_API_VERSION
from payments.stripe_gateway.outcomes import Outcome, Unknown
from payments.stripe_gateway.reading import read_answer
from payments.stripe_gateway.transport import NotOk, StrictTransport

Parameters = Mapping[str, Any]

INTENTS = "/v1/payment_intents"
REFUNDS = "/v1/refunds"
CHARGES = "/v1/charges"
DISPUTES = "/v1/disputes"
EVENTS = "/v1/events"
BALANCE_TRANSACTIONS = "/v1/balance_transactions"
PAGE_LIMIT_MAX = 100  # Stripe's own (https://docs.stripe.com/api/pagination)
# The charge says what was captured and until when it may be; one call instead of two.
EXPAND_CHARGE = ["latest_charge"]
EXPAND_SOURCE = ["data.source"]

stripe.enable_telemetry = False  # no measurements of earlier requests ride along


class Pace(Protocol):
    """Says when a call may be made; payments.worker.gate.Gate does."""

    async def read(self, call: Callable[[], Awaitable[Outcome]]) -> Outcome:
        """Makes the call once it may, or says in an outcome why not."""


class StripeGateway:
    """Stripe as the settings say: its key, its address, its time limit. `async with` closes the connections.

    Methods never raise for anything that Stripe, a proxy or the network does. Those that change something take the
    idempotency key; the same key and parameters may be sent again at any time within 24 hours. Lists give one page, the
    newest first: `object["data"]`, and `object["has_more"]` when `starting_after` the last id leads to another.
    """

    def __init__(self, settings: Settings) -> None:
        assert settings.stripe_api_key is not None, "the command checks that a key is set"
        base = settings.stripe_api_base
        self._transport = StrictTransport(settings.stripe_timeout_s)
        self._client = stripe.StripeClient(
            settings.stripe_api_key,
            stripe_version=STRIPE_API_VERSION,
            # All of them, so that with a sandbox nothing ever goes to Stripe.
            base_addresses={"api": base, "connect": base, "files": base, "meter_events": base} if base else {},
            max_network_retries=0,
            http_client=self._transport,
        )
        self._pace: Pace | None = None

    def paced(self, pace: Pace) -> "StripeGateway":
        """The same gateway, on the same connections, whose every call waits for its turn."""
        paced = copy(self)
        paced._pace = pace  # noqa: SLF001 - its own
        return paced

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._transport.close_async()

    def stripe_time(self) -> datetime | None:
        """Stripe's clock, as its last answer told it, to the second; None before the first, or when it told none."""
        return self._transport.server_time()

    async def create_payment_intent(self, parameters: Parameters, idempotency_key: str) -> Outcome:
        """POST /v1/payment_intents."""
        return await self._call("post", INTENTS, parameters, idempotency_key)

    async def capture_payment_intent(self, intent_id: str, parameters: Parameters, idempotency_key: str) -> Outcome:
        """POST /v1/payment_intents/{id}/capture."""
        return await self._call("post", f"{INTENTS}/{_segment(intent_id)}/capture", parameters, idempotency_key)

    async def cancel_payment_intent(self, intent_id: str, parameters: Parameters, idempotency_key: str) -> Outcome:
        """POST /v1/payment_intents/{id}/cancel."""
        return await self._call("post", f"{INTENTS}/{_segment(intent_id)}/cancel", parameters, idempotency_key)

    async def create_refund(self, parameters: Parameters, idempotency_key: str) -> Outcome:
        """POST /v1/refunds."""
        return await self._call("post", REFUNDS, parameters, idempotency_key)

    async def retrieve_payment_intent(self, intent_id: str) -> Outcome:
        """GET /v1/payment_intents/{id}, with its latest charge expanded."""
        return await self._call("get", f"{INTENTS}/{_segment(intent_id)}", {"expand": EXPAND_CHARGE})

    async def retrieve_refund(self, refund_id: str) -> Outcome:
        """GET /v1/refunds/{id}; `charge` and `payment_intent` are ids."""
        return await self._call("get", f"{REFUNDS}/{_segment(refund_id)}", {})

    async def retrieve_charge(self, charge_id: str) -> Outcome:
        """GET /v1/charges/{id}."""
        return await self._call("get", f"{CHARGES}/{_segment(charge_id)}", {})

    async def retrieve_dispute(self, dispute_id: str) -> Outcome:
        """GET /v1/disputes/{id}; `charge` and `payment_intent` are ids."""
        return await self._call("get", f"{DISPUTES}/{_segment(dispute_id)}", {})

    async def list_payment_intents(
        self,
        created_gte: int,
        created_lte: int,
        starting_after: str | None = None,
        limit: int = PAGE_LIMIT_MAX,
    ) -> Outcome:
        """GET /v1/payment_intents made between two Unix times; Stripe cannot filter by metadata."""
        created = _between(created_gte, created_lte)
        return await self._list(INTENTS, limit, created=created, starting_after=starting_after)

    async def list_refunds(
        self,
        payment_intent: str | None = None,
        created_gte: int | None = None,
        starting_after: str | None = None,
        limit: int = PAGE_LIMIT_MAX,
        created_lte: int | None = None,
    ) -> Outcome:
        """GET /v1/refunds, of one PaymentIntent, or made between two Unix times."""
        created = _between(created_gte, created_lte)
        return await self._list(
            REFUNDS, limit, payment_intent=payment_intent, created=created, starting_after=starting_after
        )

    async def list_disputes(
        self,
        created_gte: int | None = None,
        payment_intent: str | None = None,
        starting_after: str | None = None,
        limit: int = PAGE_LIMIT_MAX,
        created_lte: int | None = None,
    ) -> Outcome:
        """GET /v1/disputes, opened between two Unix times, or of one PaymentIntent."""
        created = _between(created_gte, created_lte)
        return await self._list(
            DISPUTES, limit, payment_intent=payment_intent, created=created, starting_after=starting_after
        )

    async def list_events(
        self,
        created_gte: int | None = None,
        created_lte: int | None = None,
        starting_after: str | None = None,
        ending_before: str | None = None,
        limit: int = PAGE_LIMIT_MAX,
    ) -> Outcome:
        """GET /v1/events, of the last 30 days; `ending_before` an id: the page that came right after it in time."""
        created = _between(created_gte, created_lte)
        return await self._list(
            EVENTS, limit, created=created, starting_after=starting_after, ending_before=ending_before
        )

    async def list_balance_transactions(
        self,
        created_gte: int | None = None,
        created_lte: int | None = None,
        source: str | None = None,
        starting_after: str | None = None,
        limit: int = PAGE_LIMIT_MAX,
    ) -> Outcome:
        """GET /v1/balance_transactions between two Unix times, or of one `source`; the source of each is expanded."""
        created = _between(created_gte, created_lte)
        return await self._list(
            BALANCE_TRANSACTIONS,
            limit,
            created=created,
            source=source,
            starting_after=starting_after,
            expand=EXPAND_SOURCE,
        )

    async def _list(self, path: str, limit: int, **filters: object) -> Outcome:
        wanted = {name: value for name, value in filters.items() if value}
        return await self._call("get", path, {"limit": limit, **wanted})

    async def _call(
        self, method: str, path: str, parameters: Parameters, idempotency_key: str | None = None
    ) -> Outcome:
        if self._pace is None:
            return await self._request(method, path, parameters, idempotency_key)
        return await self._pace.read(lambda: self._request(method, path, parameters, idempotency_key))

    async def _request(self, method: str, path: str, parameters: Parameters, idempotency_key: str | None) -> Outcome:
        # The typed methods would build objects of their own from the answer, which are no dicts, cost more than the
        # parsing, and trip over shapes they do not know; this is the same client's method for plain ones.
        options = {"idempotency_key": idempotency_key} if idempotency_key else {}
        try:
            response = await self._client.raw_request_async(method, path, **parameters, **options)
        except NotOk as answer:
            if answer.status is None:
                return Unknown(answer.why)
            status, content, headers, why = answer.status, answer.content, answer.answer_headers, answer.why
        except stripe.StripeError as error:
            return Unknown(type(error).__name__)  # its parser gave up on a body that ours could read
        else:
            status, headers, why = response.code, response.headers, f"HTTP {response.code}"
            content = msgspec.json.decode(response.body)
        return read_answer(
            status,
            content,
            _header(headers, "Request-Id"),
            why=why,
            retry_after=_header(headers, "Retry-After"),
            is_replayed=_header(headers, "Idempotent-Replayed") == "true",
        )


def _between(gte: int | None, lte: int | None = None) -> dict[str, int]:
    return {name: moment for name, moment in (("gte", gte), ("lte", lte)) if moment is not None}


def _header(headers: Mapping[str, str], name: str) -> str | None:
    return headers.get(name) or None  # aiohttp's headers know no case


def _segment(identifier: str) -> str:
    """An id inside a path: whatever stands in it, it stays one segment."""
    return quote(identifier, safe="")
