"""`PUT /customers/{customerId}/payment-method`: remembers how a customer pays when a payment names no method."""

from uuid import UUID

from litestar import Response, put

from payments.api.authentication import WRITE_PAYMENTS
from payments.api.bodies import read_body, refuse_other_media
from payments.api.deadlines import in_time
from payments.api.problems import Fault, Refusal
from payments.api.query_parameters import parse_query, uuid
from payments.api.request_record import record_of
from payments.api.services import ApiRequest, Services, services_of
from payments.api.wish_bodies import SavedMethod, parse_saved_method
from payments.database.connections import statements
from payments.database.queries import load_queries

HTTP_NO_CONTENT = 204

_QUERIES = load_queries("api")


@put("/customers/{customerId:str}/payment-method", name="save_payment_method", status_code=HTTP_NO_CONTENT)
async def save_payment_method(request: ApiRequest) -> Response[None]:
    """Saves a payment method in the place of the one before; the same again changes nothing."""
    services, scope = services_of(request), request.scope
    client = await services.authenticator.authorize(scope["headers"], WRITE_PAYMENTS)
    record_of(scope).client_id = client.client_id
    parse_query(scope["query_string"], {})
    refuse_other_media(scope)
    customer_id = _customer_id(request)
    saved = parse_saved_method(await read_body(scope, request.receive, services.settings.body_bytes_max))
    await in_time(_save(services, customer_id, saved))
    return Response(None, status_code=HTTP_NO_CONTENT)


def _customer_id(request: ApiRequest) -> UUID:
    """The customer need not be known before: customers are the callers' own."""
    try:
        return uuid(request.path_params["customerId"])
    except ValueError as error:
        raise Refusal(
            "invalid_parameter", f"The customer's id {error}.", errors=(Fault("path:customerId", str(error)),)
        ) from None


async def _save(services: Services, customer_id: UUID, saved: SavedMethod) -> None:
    values = {
        "customer_id": customer_id,
        "processor_customer": saved.processor_customer,
        "payment_method": saved.payment_method,
    }
    async with statements(services.pool) as conn:
        await conn.execute(_QUERIES["save_payment_method"], values)
