"""Serves the app with uvicorn on a socket that is bound before anything else is opened."""

import asyncio
import contextlib
import errno
import socket
from collections.abc import Iterator

import uvicorn
from litestar.types import ASGIApp

from payments.api.protocol import BoundedProtocol
from payments.errors import ConfigurationError, PortTaken

KEEP_ALIVE_S = 65  # above the 60 s after which common load balancers let go: they close first, never in mid-request
BACKLOG = 2_048


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leaves signals to payments.process."""
        yield


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; callers queue from now on. Raises PortTaken, ConfigurationError."""
    try:
        family, kind, proto, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, proto)
    except OSError as error:
        raise ConfigurationError((f"HOST {host!r} cannot be resolved: {error.strerror}.",)) from error
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a restart must not wait for old connections
        listener.bind(address)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise PortTaken(
                f"Another process listens on {host}:{port}.", advice="Stop it, or set PORT to another port."
            ) from error
        raise ConfigurationError((f"HOST {host!r} and PORT {port} cannot be used: {error.strerror}.",)) from error
    return listener


async def serve(app: ASGIApp, listener: socket.socket, stop: asyncio.Event, grace_s: int) -> None:
    """Serves until `stop` is set, then lets requests finish for `grace_s` at most."""
    config = uvicorn.Config(
        app,
        http=BoundedProtocol,
        ws="none",
        lifespan="off",
        log_config=None,
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=grace_s,
        backlog=BACKLOG,
    )
    server = _Server(config)

    async def stop_when_told() -> None:
        await stop.wait()
        server.should_exit = True

    stopping = asyncio.create_task(stop_when_told(), name="stop server")
    try:
        await server.serve(sockets=[listener])
    finally:
        stopping.cancel()
