"""The API's process: opens what the handlers work with, serves until told to stop, and answers all waiters first."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator

import structlog
from prometheus_client import CollectorRegistry

from payments.api.app import build_app
from payments.api.authentication import Authenticator
from payments.api.gauges import Gauges
from payments.api.in_flight import InFlight
from payments.api.request_metrics import RequestMetrics
from payments.api.server import serve
from payments.api.services import Services
from payments.api.turns import Turns
from payments.api.waiting import Waiters
from payments.database.connections import open_pool
from payments.process import database_url
from payments.settings import Settings
from payments.wakeup import SETTLED, Listener, Notifier

ROLE = "payments_api"

log = structlog.get_logger()


async def run_api(settings: Settings, listener: socket.socket, stop: asyncio.Event) -> None:
    """Serves on `listener` until `stop`. Raises what `open_pool` raises."""
    async with open_services(settings) as services:
        serving = asyncio.create_task(serve(build_app(services), listener, stop, settings.shutdown_grace_s))
        stopping = asyncio.create_task(stop.wait())
        host, port = listener.getsockname()[:2]
        log.info("api.listening", host=host, port=port)
        assert services.waiters.task is not None
        await asyncio.wait({serving, stopping, services.waiters.task}, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        services.waiters.release_all()
        if services.waiters.task.done():  # nobody would be woken any more: better to end and be started again
            services.waiters.task.result()
        await serving


@contextlib.asynccontextmanager
async def open_services(settings: Settings) -> AsyncIterator[Services]:
    """Everything the handlers work with, opened, and closed at the end."""
    dsn = database_url(settings)
    direct_dsn = settings.listen_dsn or dsn
    registry = CollectorRegistry()
    async with (
        open_pool(dsn, ROLE, settings.api_connections_max, behind_pooler=settings.is_pooled) as pool,
        Notifier(direct_dsn, ROLE) as notifier,
        Listener(direct_dsn, ROLE) as bells,
        Waiters(pool, bells.subscribe(SETTLED), settings.poll_interval_ms / 1_000) as waiters,
    ):
        gauges = Gauges(pool, registry)
        try:
            yield Services(
                settings=settings,
                pool=pool,
                notifier=notifier,
                waiters=waiters,
                authenticator=Authenticator(pool),
                in_flight=InFlight(),
                turns=Turns(max(1, settings.api_connections_max // 2)),  # the other half is for all else
                gauges=gauges,
                metrics=RequestMetrics(registry),
                registry=registry,
            )
        finally:
            await gauges.close()
