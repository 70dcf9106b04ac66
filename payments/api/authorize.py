"""`POST /payments/authorize`: a wish to be paid is checked, recorded, announced to the relay and answered."""

from typing import assert_never
from uuid import UUID

from litestar import Response, post

from payments.api.accept import accept
from payments.api.accept_outcomes import (
    Accepted,
    AcceptRequest,
    CartTaken,
    Failed,
    InProgress,
    KeyReused,
    LivePayment,
    Outcome,
    Replayed,
    Unknown,
    location_of,
)
from payments.api.authentication import WRITE_PAYMENTS
from payments.api.authorize_body import parse
from payments.api.bodies import read_body, refuse_other_media
from payments.api.catching_up import reason_of
from payments.api.deadlines import DatabaseSilent, in_time
from payments.api.idempotency import fingerprint, parse_key
from payments.api.patience import wait_if_preferred
from payments.api.problems import Refusal
from payments.api.query_parameters import parse_query
from payments.api.request_record import record_of
from payments.api.services import ApiRequest, Services, services_of
from payments.api.views import PAYMENTS, PaymentView, declined
from payments.domain.identifiers import new_id
from payments.domain.states import PaymentStatus
from payments.wakeup import OUTBOX

PATH = "/payments/authorize"
HTTP_OK = 200
HTTP_CREATED = 201
IN_PROGRESS_RETRY_AFTER_S = 1


class Reply:
    """A success before it is sent: what was decided, and the headers that go with it."""

    def __init__(self, payment_id: UUID, status: int, answer: bytes, location: str, *, is_replayed: bool) -> None:
        self.payment_id = payment_id
        self.status = status
        self.answer = answer
        self.headers = {"Location": location}
        if is_replayed:
            self.headers["Idempotency-Replayed"] = "true"


@post(PATH, name="authorize")
async def authorize(request: ApiRequest) -> Response[bytes]:
    """Authorizes the payment of a cart; see docs/http-api.md."""
    services = services_of(request)
    asked = await _read(request, services)
    outcome = await _accept(services, asked)
    reply = _reply(outcome, asked)
    record_of(request.scope).payment_id = str(reply.payment_id)
    if isinstance(outcome, Accepted):
        services.notifier.notify(OUTBOX)
    await _wait(request, reply, is_new=isinstance(outcome, Accepted))
    return Response(reply.answer, status_code=reply.status, media_type="application/json", headers=reply.headers)


async def _accept(services: Services, asked: AcceptRequest) -> Outcome:
    try:
        (outcome,) = await in_time(accept(services.pool, [asked]))
    except DatabaseSilent as error:
        return Unknown(error)
    return outcome


async def _read(request: ApiRequest, services: Services) -> AcceptRequest:
    """Everything that can be refused without asking the database about payments. Raises Refusal, Disconnected."""
    scope, record = request.scope, record_of(request.scope)
    client = await services.authenticator.authorize(scope["headers"], WRITE_PAYMENTS)
    record.client_id = client.client_id
    parse_query(scope["query_string"], {})
    refuse_other_media(scope)
    key = parse_key(scope["headers"])
    wish = parse(await read_body(scope, request.receive, services.settings.body_bytes_max))
    return AcceptRequest(
        payment_id=new_id(),
        event_id=new_id(),
        client_id=client.client_id,
        idempotency_key=key,
        fingerprint=fingerprint("POST", PATH, wish),
        traceparent=record.traceparent,
        wish=wish,
    )


def _reply(outcome: Outcome, asked: AcceptRequest) -> Reply:
    """The success that an outcome is. Raises Refusal for all others, and what the database raised."""
    match outcome:
        case Accepted(payment_id, answer):
            return Reply(payment_id, HTTP_CREATED, answer, location_of(payment_id), is_replayed=False)
        case Replayed(payment_id, answer, status, location):
            return Reply(payment_id, status, answer, location, is_replayed=True)
        case LivePayment(payment_id, answer):
            return Reply(payment_id, HTTP_OK, answer, location_of(payment_id), is_replayed=False)
        case CartTaken(payment_id):
            raise Refusal(
                "cart_has_live_payment",
                "A payment of this cart is live already; it must fail, be voided or expire before another is made.",
                headers={"Location": location_of(payment_id)},
                payment_id=str(payment_id),
            )
        case KeyReused():
            raise Refusal("idempotency_key_reused", "This Idempotency-Key stands for a request with another body.")
        case InProgress():
            code = "cart_in_progress" if asked.idempotency_key is None else "idempotency_in_progress"
            raise Refusal(
                code,
                "An earlier request has not ended yet; send this one again, unchanged.",
                headers={"Retry-After": str(IN_PROGRESS_RETRY_AFTER_S)},
            )
        case Unknown(error):
            raise Refusal(
                "outcome_unknown",
                "The database gave no answer. Send the request again, unchanged, with the same "
                "Idempotency-Key: it will not be recorded twice.",
            ) from error
        case Failed(error):
            raise reason_of(error)
        case _:
            assert_never(outcome)


async def _wait(request: ApiRequest, reply: Reply, *, is_new: bool) -> None:
    """Lets the caller wait for the outcome if it prefers to. Raises Refusal payment_declined, Disconnected."""
    view = await wait_if_preferred(request, PAYMENTS, reply.payment_id, reply.headers, is_new=is_new)
    if view is None:
        return
    if isinstance(view, PaymentView) and view.status is PaymentStatus.FAILED:
        raise declined(view, reply.headers)
    reply.answer = view.answer
