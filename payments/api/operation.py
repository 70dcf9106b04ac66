"""What operators and their tools ask a process: whether it lives, can work, and how it does. No key is needed."""

import asyncio

import msgspec
from litestar import Response, get
from prometheus_client import generate_latest

from payments.api.problems import Refusal
from payments.api.services import ApiRequest, services_of
from payments.database.connections import DATABASE_AWAY, Pool, check_database, statements
from payments.errors import OperatingError

READY_TIMEOUT_S = 2.0  # below what load balancers grant a health check
METRICS_MEDIA_TYPE = "text/plain; version=0.0.4; charset=utf-8"


@get("/health/live", name="live")
async def live() -> Response[bytes]:
    """Answers as long as the event loop turns."""
    return Response(msgspec.json.encode({"status": "live"}), media_type="application/json")


@get("/health/ready", name="ready")
async def ready(request: ApiRequest) -> Response[bytes]:
    """Whether requests can be worked on: the database answers, and it is the one this release was made for."""
    services = services_of(request)
    if services.waiters.is_closed:
        raise Refusal("not_ready", "The process is stopping.")
    checking = asyncio.create_task(_check(services.pool))
    try:
        await asyncio.wait({checking}, timeout=READY_TIMEOUT_S)
        if not checking.done():
            raise Refusal("not_ready", "The database does not answer in time.")
        await checking
    finally:
        checking.cancel()
    return Response(msgspec.json.encode({"status": "ready"}), media_type="application/json")


@get("/metrics", name="metrics")
async def metrics(request: ApiRequest) -> Response[bytes]:
    """Everything that Prometheus scrapes, also while the database is away."""
    services = services_of(request)
    await services.gauges.refresh()
    services.metrics.in_flight.set(services.in_flight.count)
    services.metrics.waiters.set(services.waiters.count)
    return Response(generate_latest(services.registry), media_type=METRICS_MEDIA_TYPE)


async def _check(pool: Pool) -> None:
    try:
        async with statements(pool, READY_TIMEOUT_S) as conn:
            await check_database(conn)
    except DATABASE_AWAY:
        raise Refusal("not_ready", "The database cannot be reached.") from None
    except OperatingError as error:
        raise Refusal("not_ready", error.message) from None
