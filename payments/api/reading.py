"""Reading payments: one, with its history or its refunds, or many; and refunds."""

from typing import Any, cast
from uuid import UUID

import msgspec
from litestar import Response, get

from payments.api import cursors
from payments.api.authentication import READ_PAYMENTS
from payments.api.deadlines import in_time
from payments.api.headers import WAIT_S_MAX, find_header
from payments.api.paths import payment_id_of, payment_not_found, refund_id_of, refund_not_found
from payments.api.patience import find_payment, find_refund, wait_for_payment
from payments.api.problems import Fault, Refusal
from payments.api.query_parameters import Parse, parse_query, payment_status, uuid, whole_number
from payments.api.request_record import record_of
from payments.api.services import ApiRequest, Services, services_of
from payments.api.views import PaymentView
from payments.database.connections import statements
from payments.database.queries import load_queries

ITEMS_DEFAULT = 50
ITEMS_MAX = 200
REFUNDS_MAX = 1_000  # as for history; the latest are told
HISTORY_ITEMS_MAX = 1_000  # a payment has a handful; one that Stripe repeats itself about has a bounded answer
ETAGS_CHARACTERS_MAX = 1_024
MEDIA_TYPE = "application/json"

_QUERIES = load_queries("api")
FILTERS = ("cartId", "orderId", "customerId", "status")
_LIST_PARAMETERS: dict[str, Parse] = {
    "cartId": uuid,
    "orderId": uuid,
    "customerId": uuid,
    "status": payment_status,
    "cursor": str,
    "limit": whole_number(1, ITEMS_MAX),
}
_GET_PARAMETERS: dict[str, Parse] = {"wait": whole_number(0, WAIT_S_MAX)}


@get("/payments/{paymentId:str}", name="get_payment")
async def get_payment(request: ApiRequest) -> Response[bytes]:
    """One payment, at once or when it has settled."""
    services = await _admit(request)
    wait_s: int = parse_query(request.scope["query_string"], _GET_PARAMETERS).get("wait", 0)
    wanted = payment_id_of(request)
    view = await find_payment(services, wanted)
    if view is not None and wait_s and not view.is_settled:
        view = await wait_for_payment(request, services, wanted, wait_s)
    if view is None:
        raise payment_not_found()
    if _is_known(view, find_header(request.scope["headers"], b"if-none-match")):
        return Response(b"", status_code=304, headers={"ETag": view.etag}, media_type=MEDIA_TYPE)
    return Response(view.answer, media_type=MEDIA_TYPE, headers={"ETag": view.etag})


@get("/payments/{paymentId:str}/history", name="get_history")
async def get_history(request: ApiRequest) -> Response[bytes]:
    """Why a payment is where it is."""
    services = await _admit(request)
    parse_query(request.scope["query_string"], {})
    values: dict[str, object] = {"payment_id": payment_id_of(request), "rows_max": HISTORY_ITEMS_MAX}
    rows = await in_time(_read_rows(services, "list_history", values))
    if not rows:
        raise payment_not_found()
    return Response(_items([str(row[0]) for row in rows]), media_type=MEDIA_TYPE)


@get("/payments/{paymentId:str}/refunds", name="list_refunds")
async def list_refunds(request: ApiRequest) -> Response[bytes]:
    """The refunds of a payment, oldest first."""
    services = await _admit(request)
    parse_query(request.scope["query_string"], {})
    values: dict[str, object] = {"payment_id": payment_id_of(request), "rows_max": REFUNDS_MAX}
    rows = await in_time(_read_rows(services, "list_refunds", values))
    if not rows:
        raise payment_not_found()
    answers = [str(answer) for (answer,) in reversed(rows) if answer is not None]
    return Response(_items(answers), media_type=MEDIA_TYPE)


@get("/refunds/{refundId:str}", name="get_refund")
async def get_refund(request: ApiRequest) -> Response[bytes]:
    """One refund as it stands."""
    services = await _admit(request)
    parse_query(request.scope["query_string"], {})
    view = await find_refund(services, refund_id_of(request))
    if view is None:
        raise refund_not_found()
    record_of(request.scope).payment_id = str(view.payment_id)
    return Response(view.answer, media_type=MEDIA_TYPE)


@get("/payments", name="list_payments")
async def list_payments(request: ApiRequest) -> Response[bytes]:
    """Payments, the newest first, a page at a time."""
    services = await _admit(request)
    asked = parse_query(request.scope["query_string"], _LIST_PARAMETERS)
    limit: int = asked.get("limit", ITEMS_DEFAULT)
    filters = tuple(asked.get(name) for name in FILTERS)
    cart_id, order_id, customer_id, status = filters
    values: dict[str, object] = {
        "cart_id": cart_id,
        "order_id": order_id,
        "customer_id": customer_id,
        "status": status,
        "below": _below(asked.get("cursor"), filters),
        "rows_max": limit + 1,
    }
    rows = await in_time(_read_rows(services, _list_query(asked), values))
    page = [cast("tuple[UUID, str]", row) for row in rows[:limit]]
    next_cursor = cursors.encode(page[-1][0], filters) if len(rows) > limit else None
    return Response(_items([answer for _, answer in page], nextCursor=next_cursor), media_type=MEDIA_TYPE)


async def _admit(request: ApiRequest) -> Services:
    services = services_of(request)
    client = await services.authenticator.authorize(request.scope["headers"], READ_PAYMENTS)
    record_of(request.scope).client_id = client.client_id
    return services


async def _read_rows(services: Services, query: str, values: dict[str, object]) -> list[tuple[object, ...]]:
    async with statements(services.pool) as conn:
        # Planned for its very values: which index serves depends on them.
        return await (await conn.execute(_QUERIES[query], values, prepare=False)).fetchall()


def _is_known(view: PaymentView, if_none_match: str | None) -> bool:
    if not if_none_match or len(if_none_match) > ETAGS_CHARACTERS_MAX:
        return False
    known = [tag.strip().removeprefix("W/") for tag in if_none_match.split(",")]
    return view.etag in known or known == ["*"]


def _below(cursor: str | None, filters: tuple[Any, ...]) -> UUID | None:
    if cursor is None:
        return None
    try:
        return cursors.decode(cursor, filters)
    except ValueError as error:
        raise Refusal(
            "invalid_parameter", "The query string breaks a rule.", errors=(Fault("query:cursor", str(error)),)
        ) from None


def _list_query(asked: dict[str, Any]) -> str:
    """The query whose index is the most selective for what was asked."""
    for name, query in (("cartId", "list_by_cart"), ("orderId", "list_by_order"), ("customerId", "list_by_customer")):
        if name in asked:
            return query
    return "list_all"


def _items(items: list[str], **more: object) -> bytes:
    """A page of JSON texts, without reading them again."""
    rest = "".join(
        f",{msgspec.json.encode(name).decode()}:{msgspec.json.encode(value).decode()}" for name, value in more.items()
    )
    return f'{{"items":[{",".join(items)}]{rest}}}'.encode()
