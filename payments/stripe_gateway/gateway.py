"""Calls to Stripe, by the official client: each ends in an `Outcome`, whatever comes back or does not.

No retries here: the queue owns them. No database: whoever calls holds no transaction. Nothing is logged: an answer
holds the customer's data, and errors of the client quote bodies.
"""

from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self
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
# The charge says what was captured and until when it may be; one call instead of two.
EXPAND_CHARGE = ["latest_charge"]

stripe.enable_telemetry = False  # no measurements of earlier requests ride along


class StripeGateway:
    """Stripe as the settings say: its key, its address, its time limit. `async with` closes the connections.

    Methods never raise for anything that Stripe, a proxy or the network does. Those that change something take the
    idempotency key; the same key and parameters may be sent again at any time within 24 hours.
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

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._transport.close_async()

    async def create_payment_intent(self, parameters: Parameters, idempotency_key: str) -> Outcome:
        """POST /v1/payment_intents."""
        return await self._call("post", INTENTS, parameters, idempotency_key)

    async def cancel_payment_intent(self, intent_id: str, parameters: Parameters, idempotency_key: str) -> Outcome:
        """POST /v1/payment_intents/{id}/cancel."""
        return await self._call("post", f"{INTENTS}/{_segment(intent_id)}/cancel", parameters, idempotency_key)

    async def retrieve_payment_intent(self, intent_id: str) -> Outcome:
        """GET /v1/payment_intents/{id}, with its latest charge expanded."""
        return await self._call("get", f"{INTENTS}/{_segment(intent_id)}", {"expand": EXPAND_CHARGE})

    async def list_payment_intents(
        self, created_gte: int, created_lte: int, starting_after: str | None = None, limit: int = 100
    ) -> Outcome:
        """GET /v1/payment_intents made between two Unix times, the newest first; Stripe cannot filter by metadata."""
        parameters: dict[str, Any] = {"created": {"gte": created_gte, "lte": created_lte}, "limit": limit}
        if starting_after is not None:
            parameters["starting_after"] = starting_after
        return await self._call("get", INTENTS, parameters)

    async def _call(
        self, method: str, path: str, parameters: Parameters, idempotency_key: str | None = None
    ) -> Outcome:
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


def _header(headers: Mapping[str, str], name: str) -> str | None:
    return headers.get(name) or None  # aiohttp's headers know no case


def _segment(identifier: str) -> str:
    """An id inside a path: whatever stands in it, it stays one segment."""
    return quote(identifier, safe="")
