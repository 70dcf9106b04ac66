"""Callers and databases that are slow: each wait has an end, and each end an answer that tells the truth."""

import asyncio
import socket
import threading
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import httpx
import psycopg
import pytest
from litestar.types import Receive, Scope, Send

from payments.api import authorize, bodies, deadlines, gauges, protocol, server
from payments.api.accept_outcomes import Outcome, Unknown
from payments.api.bodies import Disconnected, read_body
from payments.api.problems import Refusal
from payments.api.server import listen, serve
from tests.api.cutting_proxy import cutting_proxy
from tests.api.driving import ApiProcess, count_rows, running_api, wish
from tests.development.databases import Database

INSERT = (
    "insert into payments.payments (payment_id, cart_id, order_id, amount, currency, capture_method, client_id, "
    "idempotency_key, fingerprint) values (%s, %s, %s, 500, 'EUR', 'automatic', 'shop', %s, sha256(''))"
)


def test_a_connection_that_breaks_in_the_commit_is_503_never_201_and_a_repetition_finds_it(
    database: Database, tmp_path: Path, eventually: Callable[..., object]
) -> None:
    with (
        cutting_proxy(database) as (proxy, dsn),
        running_api(database, tmp_path / "api.log", DATABASE_URL=dsn) as api,
        api.client() as client,
    ):
        body, headers = wish(), {"Idempotency-Key": "k"}
        proxy.word = body["cartId"].encode()
        answer = client.post("/payments/authorize", json=body, headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (503, "outcome_unknown")
        assert answer.json()["retryable"] is True
        eventually(lambda: count_rows(database)["payments"] == 1)
        again = client.post("/payments/authorize", json=body, headers=headers)
        assert (again.status_code, again.headers["idempotency-replayed"]) == (201, "true")
        assert count_rows(database) == {"payments": 1, "payment_history": 1, "outbox": 1, "idempotency_keys": 1}


def test_a_database_that_stands_still_is_answered_for_in_time(
    database: Database, tmp_path: Path, eventually: Callable[..., object]
) -> None:
    with (
        cutting_proxy(database) as (proxy, dsn),
        running_api(database, tmp_path / "api.log", DATABASE_URL=dsn) as api,
        api.client() as client,
    ):
        body, headers = wish(), {"Idempotency-Key": "k"}
        payment = client.post("/payments/authorize", json=body).json()
        eventually(lambda: "payments_database_up 1.0" in metrics_of(api))
        proxy.flows.clear()
        shown = metrics_of(api)
        assert "payments_database_up 0.0" in shown
        assert "payments_stuck_payments NaN" in shown
        with ThreadPoolExecutor(2) as threads:
            asked = [
                threads.submit(client.post, "/payments/authorize", json=wish(), headers=headers),
                threads.submit(client.post, f"/payments/{payment['paymentId']}/void", headers={"Idempotency-Key": "v"}),
            ]
            silent = [each.result() for each in asked]
        codes = {(answer.status_code, answer.json()["code"]) for answer in silent}
        assert codes <= {(503, "outcome_unknown"), (503, "database_unavailable")}
        proxy.flows.set()
        eventually(lambda: client.get(f"/payments/{payment['paymentId']}").status_code == 200)
        eventually(lambda: "payments_database_up 1.0" in metrics_of(api))


def metrics_of(api: ApiProcess) -> str:
    time.sleep(gauges.FRESH_S)
    return httpx.get(f"{api.url}/metrics", timeout=10).text


@pytest.mark.anyio
async def test_nobody_waits_for_what_the_work_still_waits_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deadlines, "DATABASE_ANSWERS_S", 0.05)
    ended = asyncio.Event()

    async def hang() -> None:
        try:
            await asyncio.sleep(3_600)
        except asyncio.CancelledError:
            await ended.wait()  # as psycopg does, which asks the server to cancel and waits for it
            raise

    with pytest.raises(deadlines.DatabaseSilent):
        await deadlines.in_time(hang())
    ended.set()
    assert await deadlines.in_time(asyncio.sleep(0, "in time")) == "in time"


@pytest.mark.anyio
async def test_work_that_was_given_up_is_not_done_after_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its caller was told that nothing is known of it, or that nothing was recorded: a late commit would belie that."""
    monkeypatch.setattr(deadlines, "DATABASE_ANSWERS_S", 0.05)
    wakes_up, given_up, done = asyncio.Event(), asyncio.Event(), False

    async def work() -> None:
        nonlocal done
        try:
            await wakes_up.wait()
            done = True
        finally:
            given_up.set()

    with pytest.raises(deadlines.DatabaseSilent):
        await deadlines.in_time(work())
    wakes_up.set()
    await asyncio.wait_for(given_up.wait(), 5)
    assert not done


@pytest.mark.anyio
async def test_nobody_is_told_that_nothing_was_recorded_by_a_database_that_is_silent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def hang(*_: object) -> list[Outcome]:
        await asyncio.sleep(3_600)
        return []

    monkeypatch.setattr(deadlines, "DATABASE_ANSWERS_S", 0.05)
    monkeypatch.setattr(authorize, "accept", hang)
    outcome = await authorize._accept(cast("Any", SimpleNamespace(pool=None)), cast("Any", None))
    assert isinstance(outcome, Unknown)


def test_a_request_that_never_ends_is_waited_for_five_seconds_and_then_409(api: ApiProcess, shop: httpx.Client) -> None:
    keyed, keyless = wish(), wish()
    with psycopg.connect(api.database.admin_dsn()) as other:
        other.execute(INSERT, (uuid.uuid4(), uuid.uuid4(), uuid.uuid4(), "busy"))
        other.execute(INSERT, (uuid.uuid4(), keyless["cartId"], keyless["cartId"], None))
        answers: dict[str, httpx.Response] = {}

        def ask(name: str, body: dict[str, Any], headers: dict[str, str]) -> None:
            answers[name] = shop.post("/payments/authorize", json=body, headers=headers)

        began = time.monotonic()
        threads = [
            threading.Thread(target=ask, args=("keyed", keyed, {"Idempotency-Key": "busy"})),
            threading.Thread(target=ask, args=("keyless", keyless, {})),
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert 5 <= time.monotonic() - began < 15
        other.rollback()
    codes = {name: (answer.status_code, answer.json()["code"]) for name, answer in answers.items()}
    assert codes == {"keyed": (409, "idempotency_in_progress"), "keyless": (409, "cart_in_progress")}
    assert all(answer.json()["retryable"] and answer.headers["retry-after"] == "1" for answer in answers.values())
    assert shop.post("/payments/authorize", json=keyed, headers={"Idempotency-Key": "busy"}).status_code == 201


def scope_of(**headers: str) -> Scope:
    pairs = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return cast("Scope", {"type": "http", "headers": pairs})


def receiving(*chunks: bytes, then: str = "silence") -> tuple[Receive, list[int]]:
    """A sender of these chunks who then falls silent, leaves, or ends."""
    taken = [0]

    async def receive() -> Any:
        if taken[0] < len(chunks):
            taken[0] += 1
            more = taken[0] < len(chunks) or then != "end"
            return {"type": "http.request", "body": chunks[taken[0] - 1], "more_body": more}
        if then == "silence":
            await asyncio.sleep(60)
        return {"type": "http.disconnect"}

    return receive, taken


@pytest.mark.anyio
async def test_a_body_that_does_not_arrive_is_408(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "BODY_TIMEOUT_S", 0.05)
    with pytest.raises(Refusal) as refused:
        await read_body(scope_of(), receiving(b"{")[0], 100)
    assert refused.value.problem.code == "request_timeout"


@pytest.mark.anyio
async def test_a_sender_who_leaves_in_mid_body_is_not_answered() -> None:
    with pytest.raises(Disconnected):
        await read_body(scope_of(content_length="10"), receiving(b"{", then="leave")[0], 100)


@pytest.mark.anyio
async def test_a_body_is_read_whole_and_no_further_than_its_limit() -> None:
    assert await read_body(scope_of(), receiving(b"a" * 60, b"b" * 40, then="end")[0], 100) == b"a" * 60 + b"b" * 40
    endless, taken = receiving(*[b"a" * 65_536] * 1_000)
    with pytest.raises(Refusal) as refused:
        await read_body(scope_of(), endless, 100)
    assert refused.value.problem.code == "body_too_large"
    assert taken[0] * 65_536 <= 100 + bodies.DRAINED_BYTES_MAX + 3 * 65_536


@asynccontextmanager
async def serving(asked: asyncio.Event | None = None, may_answer: asyncio.Event | None = None) -> AsyncIterator[int]:
    """An application that answers everything, and that can be held up."""

    async def app(_scope: Scope, _receive: Receive, send: Send) -> None:
        if asked is not None and may_answer is not None:
            asked.set()
            await may_answer.wait()
        await send(cast("Any", {"type": "http.response.start", "status": 204, "headers": []}))
        await send(cast("Any", {"type": "http.response.body", "body": b"", "more_body": False}))

    async with serving_by(app) as port:
        yield port


@asynccontextmanager
async def serving_by(app: Callable[[Scope, Receive, Send], Awaitable[None]]) -> AsyncIterator[int]:
    stop = asyncio.Event()
    with listen("127.0.0.1", 0) as listener:
        running = asyncio.create_task(serve(cast("Any", app), listener, stop, 1))
        yield listener.getsockname()[1]
        stop.set()
        await running


@pytest.mark.anyio
@pytest.mark.parametrize("sent", [b"", b"GET / HTTP/1.1\r\nHost:"])
async def test_a_head_that_does_not_arrive_ends_the_connection(monkeypatch: pytest.MonkeyPatch, sent: bytes) -> None:
    monkeypatch.setattr(protocol, "HEAD_TIMEOUT_S", 0.1)
    async with serving() as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(sent)
        assert await asyncio.wait_for(reader.read(), 5) == b""
        writer.close()
        await writer.wait_closed()


@pytest.mark.anyio
async def test_a_connection_that_is_used_again_outlives_the_time_of_one_head(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "HEAD_TIMEOUT_S", 0.1)
    async with serving() as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for _ in range(3):
            writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            assert (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)).startswith(b"HTTP/1.1 204")
            await asyncio.sleep(0.15)
        writer.close()
        await writer.wait_closed()


@pytest.mark.anyio
async def test_a_next_head_that_began_during_an_answer_has_no_longer_time(
    monkeypatch: pytest.MonkeyPatch, eventually_async: Callable[..., Awaitable[object]]
) -> None:
    monkeypatch.setattr(protocol, "HEAD_TIMEOUT_S", 0.1)
    timers: list[float] = []
    look = protocol.BoundedProtocol._on_slow_head
    monkeypatch.setattr(protocol.BoundedProtocol, "_on_slow_head", lambda self: (timers.append(1), look(self)))
    asked, may_answer = asyncio.Event(), asyncio.Event()
    async with serving(asked, may_answer) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        await asked.wait()
        writer.write(b"GET / HTTP/1.1\r\nHost:")
        await eventually_async(lambda: timers)
        may_answer.set()
        assert (await asyncio.wait_for(reader.read(), 5)).startswith(b"HTTP/1.1 204")
        writer.close()
        await writer.wait_closed()


LATE_BODY = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\n"


@pytest.mark.anyio
async def test_a_body_that_trickles_in_after_the_answer_ends_the_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "HEAD_TIMEOUT_S", 0.1)
    async with serving() as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(LATE_BODY)
        assert (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)).startswith(b"HTTP/1.1 204")
        writer.write(b"a")
        assert await asyncio.wait_for(reader.read(), 5) == b""
        writer.close()
        await writer.wait_closed()


@pytest.mark.anyio
async def test_a_connection_whose_body_came_after_the_answer_serves_on_and_ends_when_idle(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(server, "KEEP_ALIVE_S", 0.3)
    async with serving() as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for _ in range(2):
            writer.write(LATE_BODY)
            assert (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)).startswith(b"HTTP/1.1 204")
            writer.write(b"late")
        assert await asyncio.wait_for(reader.read(), 5) == b""
        writer.close()
        await writer.wait_closed()


@pytest.mark.anyio
async def test_a_caller_that_reads_no_answer_keeps_its_place_for_a_while_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its kernel says forever that there is no room, so nothing else would end it."""
    monkeypatch.setattr(protocol, "WRITE_TIMEOUT_S", 0.1)
    began, ended = asyncio.Event(), asyncio.Event()

    async def app(_scope: Scope, _receive: Receive, send: Send) -> None:
        await send(cast("Any", {"type": "http.response.start", "status": 200, "headers": []}))
        began.set()
        for _ in range(64):
            await send(cast("Any", {"type": "http.response.body", "body": b"x" * 1_048_576, "more_body": True}))
        await send(cast("Any", {"type": "http.response.body", "body": b"", "more_body": False}))
        ended.set()

    async with serving_by(app) as port:
        with socket.create_connection(("127.0.0.1", port)) as caller:
            caller.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            await asyncio.wait_for(began.wait(), 5)
            await asyncio.wait_for(ended.wait(), 5)
            pieces = iter(lambda: caller.recv(1_048_576), b"")
            assert sum(map(len, pieces)) < 64 * 1_048_576, "what it had not taken is dropped"
