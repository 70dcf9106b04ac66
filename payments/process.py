"""How a process of the Procfile lives: it runs until SIGTERM or SIGINT, then hands back what it holds."""

import asyncio
import signal
from collections.abc import Awaitable, Callable

import structlog

from payments.errors import ConfigurationError
from payments.settings import Settings

log = structlog.get_logger()


def database_url(settings: Settings) -> str:
    """DATABASE_URL, which every process but `payments up` needs."""
    if settings.database_url is None:
        raise ConfigurationError(("DATABASE_URL is not set; only `payments up` brings its own PostgreSQL.",))
    return settings.database_url


def run_process(
    name: str,
    main: Callable[[asyncio.Event], Awaitable[None]],
    loop_factory: Callable[[], asyncio.AbstractEventLoop] | None = None,
) -> int:
    """Runs `main` with an event that is set on SIGTERM or SIGINT; `main` returns when it has let go of all."""

    async def until_stopped() -> None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        log.info("process.started", process=name)
        await main(stop)
        log.info("process.stopped", process=name)

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(until_stopped())
    return 0
