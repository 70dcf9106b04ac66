"""uvicorn's HTTP protocol, which also hands the application the connection's transport.

ASGI has no way to drop a connection without answering, and that is what a lost response looks like.
"""

from __future__ import annotations

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

TRANSPORT = "stripe_sandbox.transport"


class DroppableProtocol(HttpToolsProtocol):
    """Adds ``scope["extensions"][TRANSPORT]``."""

    def on_message_begin(self) -> None:
        """Called once per request, before its scope is used."""
        super().on_message_begin()
        self.scope["extensions"] = {TRANSPORT: self.transport}  # type: ignore[dict-item]
