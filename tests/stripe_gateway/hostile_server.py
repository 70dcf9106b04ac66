"""An HTTP server on a real socket that answers exactly the bytes it is told to, slowly and brokenly if so told."""

import asyncio
import socket
import struct
from dataclasses import dataclass, field
from typing import Self

OK = b'{"id":"pi_1","object":"payment_intent","amount":100}'


def answer(body: bytes = OK, status: int = 200, headers: str = "Request-Id: req_1\r\n") -> bytes:
    head = f"HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n{headers}\r\n"
    return head.encode() + body


def chunked(*chunks: bytes) -> bytes:
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nRequest-Id: req_1\r\n\r\n"
    return head + b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in (*chunks, b""))


@dataclass
class HostileServer:
    """`pieces` are written with `pause_s` between; then the connection is closed, or held open for ever."""

    pieces: list[bytes] = field(default_factory=lambda: [answer()])
    pause_s: float = 0.0
    close_after: bool = True
    reset: bool = False
    requests: list[bytes] = field(default_factory=list)

    async def __aenter__(self) -> Self:
        self._connections: set[asyncio.StreamWriter] = set()
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port: int = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._server.close()
        for writer in self._connections:
            writer.transport.abort()
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connections.add(writer)
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            length = next((int(x.split(b":")[1]) for x in head.split(b"\r\n") if x.lower().startswith(b"content-l")), 0)
            self.requests.append(head + await reader.readexactly(length))
            for piece in self.pieces:
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(self.pause_s)
            if self.reset:
                sock: socket.socket = writer.get_extra_info("socket")
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # RST, not FIN
                writer.transport.abort()
            elif self.close_after:
                writer.close()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
