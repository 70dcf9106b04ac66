"""The sandbox's process: one event loop that serves the API, delivers webhooks and lets time pass.

SIGTERM answers what is under way and stops; SIGKILL at any instruction loses nothing that was answered.
"""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING

import uvicorn

from stripe_sandbox.courier import Courier
from stripe_sandbox.protocol import DroppableProtocol
from stripe_sandbox.sandbox import Sandbox
from stripe_sandbox.settings import Settings, read_settings
from stripe_sandbox.wire import Wire

if TYPE_CHECKING:
    from collections.abc import Sequence

# Longer than any client keeps an idle connection, so that the server is never the one to close it first.
KEEP_ALIVE_S = 120
SHUTDOWN_S = 5


async def serve(settings: Settings) -> None:
    """Run until SIGTERM or SIGINT."""
    sandbox = Sandbox(settings)
    courier = Courier(sandbox)
    config = uvicorn.Config(
        Wire(sandbox, courier),
        host=settings.host,
        port=settings.port,
        http=DroppableProtocol,
        lifespan="off",
        log_level="error",
        access_log=False,
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=SHUTDOWN_S,
        backlog=2048,
    )
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve())
    delivering = asyncio.create_task(courier.run())
    print(f"stripe-sandbox: http://{settings.host}:{settings.port}, state in {settings.state}", flush=True)  # noqa: T201
    done, _ = await asyncio.wait({serving, delivering}, return_when=asyncio.FIRST_COMPLETED)
    delivering.cancel()
    server.should_exit = True
    await asyncio.gather(serving, delivering, return_exceptions=True)
    await courier.close()
    sandbox.store.close()
    for task in done:
        task.result()


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of ``python -m stripe_sandbox`` and of the command ``stripe-sandbox``."""
    settings = read_settings(argv)
    try:
        import uvloop  # noqa: PLC0415 - absent on Windows

        uvloop.run(serve(settings))
    except ImportError:
        asyncio.run(serve(settings))
    except KeyboardInterrupt:
        pass
    return 0


if __name__ == "__main__":
    sys.exit(main())
