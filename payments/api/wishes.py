"""`POST /payments/{paymentId}/capture`, `…/void`, `…/refunds`: a wish is checked, recorded, announced and answered."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import assert_never
from uuid import UUID

from litestar import Response, post

from payments.api.accept_outcomes import Failed, KeyReused, Unknown
from payments.api.authentication import WRITE_PAYMENTS, WRITE_REFUNDS
from payments.api.bodies import read_body, refuse_other_media
from payments.api.catching_up import catching_up, reason_of
from payments.api.idempotency import fingerprint, parse_key
from payments.api.paths import payment_id_of, payment_not_found
from payments.api.patience import wait_if_preferred
from payments.api.problems import Fault, Refusal
from payments.api.query_parameters import parse_query
from payments.api.request_record import record_of
from payments.api.services import ApiRequest, Services, services_of
from payments.api.views import PAYMENTS, REFUNDS, Subject
from payments.api.wish_bodies import parse_capture, parse_refund, parse_void
from payments.api.wish_record import (
    Busy,
    CatchingUp,
    Held,
    NoPayment,
    Recorded,
    Repeated,
    WishOutcome,
    WishRequest,
    record_wish,
)
from payments.domain.wishes import RefundWish, Refused, Wish
from payments.wakeup import OUTBOX

IN_PROGRESS_RETRY_AFTER_S = 1
HTTP_CREATED = 201
HTTP_ACCEPTED = 202

BUSY: Mapping[Held, str] = MappingProxyType(
    {"key": "idempotency_in_progress", "payment": "payment_in_progress", "database": "too_many_requests"}
)

Parse = Callable[[bytes], Wish]


@post("/payments/{paymentId:str}/capture", name="capture", status_code=HTTP_ACCEPTED)
async def capture(request: ApiRequest) -> Response[bytes]:
    """Captures a hold; see docs/http-api.md."""
    return await _answer(request, "capture", WRITE_PAYMENTS, parse_capture)


@post("/payments/{paymentId:str}/void", name="void", status_code=HTTP_ACCEPTED)
async def void(request: ApiRequest) -> Response[bytes]:
    """Voids a payment before money moves; see docs/http-api.md."""
    return await _answer(request, "void", WRITE_PAYMENTS, parse_void)


@post("/payments/{paymentId:str}/refunds", name="refund", status_code=HTTP_CREATED)
async def refund(request: ApiRequest) -> Response[bytes]:
    """Refunds a payment; see docs/http-api.md."""
    return await _answer(request, "refunds", WRITE_REFUNDS, parse_refund)


async def _answer(request: ApiRequest, what: str, scopes: tuple[str, ...], parse: Parse) -> Response[bytes]:
    services = services_of(request)
    asked = await _read(request, services, what, scopes, parse)
    outcome = await record_wish(services.pool, services.turns, asked)
    recorded = _success(outcome, asked)
    headers = {"Location": recorded.location} if recorded.location else {}
    if isinstance(recorded, Repeated):
        headers["Idempotency-Replayed"] = "true"
    elif recorded.publishes:
        services.notifier.notify(OUTBOX)
    is_new = isinstance(recorded, Recorded) and recorded.is_new
    view = await wait_if_preferred(request, *_subject_of(recorded, asked), headers, is_new=is_new)
    answer = recorded.answer if view is None else view.answer
    return Response(answer, status_code=asked.status, media_type="application/json", headers=headers)


async def _read(
    request: ApiRequest, services: Services, what: str, scopes: tuple[str, ...], parse: Parse
) -> WishRequest:
    """Everything that can be refused without asking the database about payments. Raises Refusal, Disconnected."""
    scope, record = request.scope, record_of(request.scope)
    client = await services.authenticator.authorize(scope["headers"], scopes)
    record.client_id = client.client_id
    parse_query(scope["query_string"], {})
    payment_id = payment_id_of(request)
    key = parse_key(scope["headers"])
    body = await read_body(scope, request.receive, services.settings.body_bytes_max)
    if body:  # a body is optional, and so is saying of what kind none is
        refuse_other_media(scope)
    wish = parse(body)
    return WishRequest(
        payment_id=payment_id,
        client_id=client.client_id,
        idempotency_key=key,
        fingerprint=fingerprint("POST", f"/payments/{payment_id}/{what}", wish),
        traceparent=record.traceparent,
        wish=wish,
    )


def _success(outcome: WishOutcome, asked: WishRequest) -> Recorded | Repeated:
    """The outcome, if it is a success. Raises Refusal for all others, and what the database raised."""
    match outcome:
        case Recorded() | Repeated():
            return outcome
        case Refused(code, why, field):
            faults = () if field is None else (Fault(f"/{field}", why),)
            raise Refusal(code, why, payment_id=str(asked.payment_id), errors=faults)
        case NoPayment():
            raise payment_not_found()
        case CatchingUp():
            raise catching_up()
        case KeyReused():
            raise Refusal("idempotency_key_reused", "This Idempotency-Key stands for another request.")
        case Busy(what):
            raise Refusal(
                BUSY[what],
                "Another request or signal is still being worked on; send this one again, unchanged.",
                headers={"Retry-After": str(IN_PROGRESS_RETRY_AFTER_S)},
                payment_id=str(asked.payment_id),
            )
        case Unknown(error):
            raise _unknown(asked) from error
        case Failed(error):
            raise reason_of(error)
        case _:
            assert_never(outcome)


def _unknown(asked: WishRequest) -> Refusal:
    """Whether to send the same again: capture and void take effect once anyway, a refund only with a key."""
    if isinstance(asked.wish, RefundWish) and asked.idempotency_key is None:
        return Refusal(
            "refund_outcome_unknown",
            "The database gave no answer, and without an Idempotency-Key the same request would be a second refund: "
            "look at the payment's refunds first.",
            payment_id=str(asked.payment_id),
        )
    return Refusal(
        "outcome_unknown",
        "The database gave no answer. Send the request again, unchanged, with the same Idempotency-Key if it has one: "
        "it will not take effect twice.",
        payment_id=str(asked.payment_id),
    )


def _subject_of(recorded: Recorded | Repeated, asked: WishRequest) -> tuple[Subject, UUID]:
    """What a waiting caller waits for: the refund that was made, else the payment."""
    if recorded.location is None:
        return PAYMENTS, asked.payment_id
    return REFUNDS, UUID(recorded.location.rpartition("/")[2])
