"""uvicorn's HTTP protocol with bounds that it leaves to a proxy: large heads, slow heads, callers who do not read."""

import asyncio
import re
from typing import Any, cast

import msgspec
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from payments.api.problems import MEDIA_TYPE, Refusal
from payments.domain.identifiers import new_id

HEAD_BYTES_MAX = 32_768  # several times what clients and proxies send, traces and cookies included
HEAD_TIMEOUT_S = 10.0  # from a head's first byte, from connecting, or from the end of an answer
# For a caller to take what was written to it. Meanwhile its request has one of the places that there are for all.
WRITE_TIMEOUT_S = 30.0
# One packet may hold far more than a head may: it is looked at in pieces.
PIECE_BYTES = 8_192

# Java's client asks for h2c on its first request. To ignore that is right (RFC 9110, 7.8), but httptools would take the
# request's body for the other protocol's.
_UPGRADE = re.compile(rb"\r\nupgrade:", re.IGNORECASE)


class BoundedProtocol(HttpToolsProtocol):
    """Answers a head that is malformed, too large or too slow with a problem, and closes; ends who reads no answer."""

    _head_bytes = 0
    _head_timer: asyncio.TimerHandle | None = None
    _write_timer: asyncio.TimerHandle | None = None
    _is_in_body = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begins to wait for the first head."""
        super().connection_made(transport)
        self._start_head_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forgets the connection."""
        self._stop_head_timer()
        self._stop_write_timer()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """Waits no longer than so for a caller that does not read: what it has not taken by then is dropped."""
        super().pause_writing()
        self._write_timer = self._write_timer or self.loop.call_later(WRITE_TIMEOUT_S, self.transport.abort)

    def resume_writing(self) -> None:
        """The caller reads."""
        self._stop_write_timer()
        super().resume_writing()

    def data_received(self, data: bytes) -> None:
        """Counts what belongs to heads; what lies in the same piece as a body's end counts as body."""
        for start in range(0, len(data), PIECE_BYTES):
            self._take(data[start : start + PIECE_BYTES])
            if self.transport.is_closing():
                return

    def _take(self, data: bytes) -> None:
        if not self._is_in_body:
            self._head_bytes += len(data)
            self._start_head_timer()
            if _UPGRADE.search(data):
                head, end, rest = data.partition(b"\r\n\r\n")
                data = _UPGRADE.sub(b"\r\nx-upgrade:", head) + end + rest
        elif self._is_idle:  # answered already: the rest of the body goes nowhere, and must not go there for ever
            self._start_head_timer()
        super().data_received(data)
        if not self._is_in_body and self._head_bytes > HEAD_BYTES_MAX and not self.transport.is_closing():
            self._refuse(Refusal("headers_too_large", f"The request's head may have at most {HEAD_BYTES_MAX} bytes."))

    def on_headers_complete(self) -> None:
        """The head is there: what follows is a body or the next head."""
        if self.parser.get_http_version() == "1.1" and sum(name == b"host" for name, _ in self.headers) != 1:
            raise ValueError("RFC 9112, 3.2: one Host")  # becomes send_400_response
        self._stop_head_timer()
        self._is_in_body, self._head_bytes = True, 0
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """The request is there in full."""
        self._is_in_body = False
        super().on_message_complete()
        if self._is_idle:  # answered before its body came, which has ended uvicorn's wait for the next request
            self._stop_head_timer()
            self._unset_keepalive_if_required()
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 - uvicorn's words, not ours
        """Answers what is no HTTP."""
        self._refuse(Refusal("malformed_request", "This is not a request of HTTP/1.1."))

    def _start_head_timer(self) -> None:
        if self._head_timer is None:
            self._head_timer = self.loop.call_later(HEAD_TIMEOUT_S, self._on_slow_head)

    def _stop_head_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _stop_write_timer(self) -> None:
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None

    def _on_slow_head(self) -> None:
        self._head_timer = None
        if not self._is_idle:  # a next head may wait for as long as the answer takes, and then not for ever
            self._start_head_timer()
        elif not self.transport.is_closing():
            self.transport.close()

    @property
    def _is_idle(self) -> bool:
        """Whether nothing is being answered."""
        cycle = cast("RequestResponseCycle | None", self.cycle)
        return cycle is None or cycle.response_complete

    def _refuse(self, refusal: Refusal) -> None:
        body = msgspec.json.encode(refusal.problem)
        headers: list[tuple[str, Any]] = [
            ("content-type", MEDIA_TYPE),
            ("content-length", len(body)),
            ("x-request-id", new_id()),
            ("connection", "close"),
        ]
        head = "".join(f"{name}: {value}\r\n" for name, value in headers)
        status = refusal.problem.status
        self.transport.write(f"HTTP/1.1 {status} {refusal.problem.title}\r\n{head}\r\n".encode() + body)
        self.transport.close()
