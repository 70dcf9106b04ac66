"""Puts the API together: routes, what turns exceptions into answers, and the envelope around all."""

from collections.abc import Iterable

from litestar import HttpMethod, Litestar, Response, route
from litestar.exceptions import HTTPException, MethodNotAllowedException, NotFoundException
from litestar.handlers import HTTPRouteHandler
from litestar.types import ASGIApp

from payments.api.authorize import authorize
from payments.api.bodies import Disconnected
from payments.api.customers import save_payment_method
from payments.api.envelope import CLIENT_CLOSED_REQUEST, Envelope, internal_error, log_failure
from payments.api.operation import live, metrics, ready
from payments.api.problems import Refusal, to_response
from payments.api.reading import get_history, get_payment, get_refund, list_payments, list_refunds
from payments.api.request_record import record_of
from payments.api.schema_pages import schema_document, schema_page
from payments.api.services import ApiRequest, Services, install
from payments.api.stripe_webhook import stripe_webhook
from payments.api.wishes import capture, refund, void
from payments.database.connections import DATABASE_AWAY

HTTP_NO_CONTENT = 204

_HANDLERS = (
    authorize,
    list_payments,
    get_payment,
    get_history,
    capture,
    void,
    refund,
    list_refunds,
    get_refund,
    save_payment_method,
    stripe_webhook,
    live,
    ready,
    metrics,
    schema_page,
    schema_document,
)


def _methods_by_path(handlers: Iterable[HTTPRouteHandler]) -> dict[str, set[str]]:
    methods: dict[str, set[str]] = {}
    for handler in handlers:
        for path in handler.paths:
            methods.setdefault(path, {"OPTIONS"}).update(handler.http_methods)
    return methods


_METHODS = _methods_by_path(_HANDLERS)


@route(list(_METHODS), http_method=HttpMethod.OPTIONS, name="options", status_code=HTTP_NO_CONTENT)
async def options(request: ApiRequest) -> Response[None]:
    """Which methods the path takes. Litestar's own answer forgets those of a path's earlier handlers."""
    template = str(request.scope["path_template"])
    methods = next(methods for path, methods in _METHODS.items() if path.replace(":str}", "}") == template)
    return Response(None, status_code=HTTP_NO_CONTENT, headers={"Allow": _allow(methods)})


ROUTES = (options, *_HANDLERS)


def build_app(services: Services) -> ASGIApp:
    """The ASGI app of one process; the services are the caller's to open and close."""
    app = Litestar(
        route_handlers=ROUTES,
        exception_handlers={Exception: _answer_exception},
        openapi_config=None,
        logging_config=None,
        request_max_body_size=None,  # payments.api.bodies bounds the bodies of each route
    )
    install(app, services)
    return Envelope(app, services.in_flight, services.metrics)


def _answer_exception(request: ApiRequest, error: Exception) -> Response[bytes]:
    record = record_of(request.scope)
    if isinstance(error, Disconnected):
        record.is_disconnected = True
        return Response(b"", status_code=CLIENT_CLOSED_REQUEST)
    refusal = _refusal(error)
    if refusal is None:
        log_failure(error, record)
        refusal = internal_error()
    record.code = refusal.problem.code
    record.payment_id = record.payment_id or refusal.problem.payment_id
    return to_response(refusal)


def _refusal(error: Exception) -> Refusal | None:
    """The refusal that an exception stands for; None when it is a fault of ours."""
    match error:
        case Refusal():
            return error
        case NotFoundException():
            return Refusal("not_found", "No route has this path; /schema lists them.")
        case MethodNotAllowedException():
            allowed = _allow((error.headers or {}).get("allow", "").split(", "))
            return Refusal("method_not_allowed", f"This path takes {allowed}.", headers={"Allow": allowed})
        case HTTPException() if error.status_code < 500:
            return Refusal("malformed_request", "The request's head is not as HTTP demands.")
        case _ if isinstance(error, DATABASE_AWAY):
            return Refusal("database_unavailable", "The database cannot be reached; try again.")
        case _:
            return None


def _allow(methods: Iterable[str]) -> str:
    """The envelope answers HEAD wherever there is GET; the routes know nothing of that."""
    return ", ".join(sorted({*methods, "HEAD"} if "GET" in methods else methods))
