"""`POST /webhooks/stripe`: hands a delivery to payments.webhooks and says to Stripe what became of it.

No API key: Stripe's signature over the raw body is the key.
"""

from datetime import UTC, datetime
from typing import assert_never

import structlog
from litestar import Response, post

from payments.api.bodies import read_body
from payments.api.deadlines import in_time
from payments.api.problems import Refusal
from payments.api.request_record import record_of
from payments.api.services import ApiRequest, services_of
from payments.wakeup import INBOX
from payments.webhooks.deliveries import DatabaseAway, Forged, Malformed, Received, TooLarge, accept_delivery

RECEIVED = b'{"received":true}'

log = structlog.get_logger()


@post("/webhooks/stripe", name="stripe_webhook", status_code=200)
async def stripe_webhook(request: ApiRequest) -> Response[bytes]:
    """Answers 200 once the event is committed, by this delivery or an earlier one."""
    services = services_of(request)
    body = await read_body(request.scope, request.receive, services.settings.webhook_bytes_max)
    signatures = [value for name, value in request.scope["headers"] if name == b"stripe-signature"]
    signature = b",".join(signatures) if signatures else None
    delivery = await in_time(accept_delivery(services.pool, services.settings, signature, body, datetime.now(UTC)))
    match delivery:
        case Received():
            if delivery.is_new:
                services.notifier.notify(INBOX)
            return Response(RECEIVED, status_code=200, media_type="application/json")
        case Forged(why):
            log.warning("delivery.refused", why=why, request_id=record_of(request.scope).request_id)
            raise Refusal("invalid_signature", f"The delivery is not believed: {why}.")
        case Malformed(why):
            log.warning("delivery.refused", why=why, request_id=record_of(request.scope).request_id)
            raise Refusal("malformed_event", f"The body is no event: {why}.")
        case TooLarge(bytes_max):
            raise Refusal("body_too_large", f"The body may have at most {bytes_max} bytes.")
        case DatabaseAway():
            raise Refusal("database_unavailable", "The event was not kept; deliver it again.")
        case _:
            assert_never(delivery)
