"""Waiting for a payment to settle: notified or not, first or replayed, until time is up or the caller leaves."""

import asyncio
import json
import socket
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import httpx
import psycopg
import pytest
from litestar.types import Scope

from payments.api import patience, waiting
from payments.api.headers import parse_wait
from payments.api.request_record import RequestRecord, attach
from payments.api.services import ApiRequest
from payments.api.views import REFUNDS
from payments.database.connections import open_pool
from payments.wakeup import Wakeup
from tests.api.driving import ApiProcess, announce, running_api, settle, wish
from tests.development.databases import Database

AT_ONCE_S = 10  # far below the wait, far above what a busy machine needs


def later(api: ApiProcess, payment_id: Callable[[], str], status: str, *, notify: bool, delay_s: float = 0.2) -> None:
    """Settles a payment from another thread, as soon as it is there."""

    def act() -> None:
        with api.database.connect() as conn:
            time.sleep(delay_s)
            settle(conn, payment_id(), status)
            if notify:
                announce(conn, str(uuid.uuid4()), payment_id())

    threading.Thread(target=act).start()


def id_of_cart(api: ApiProcess, body: dict[str, Any]) -> Callable[[], str]:
    def look() -> str:
        with api.database.connect() as conn:
            for _ in range(200):
                row = conn.execute(
                    "select payment_id from payments.payments where cart_id = %s", (body["cartId"],)
                ).fetchone()
                if row:
                    return str(row[0])
                time.sleep(0.02)
        raise AssertionError("the payment never came")

    return look


def waiters(api: ApiProcess) -> float:
    text = httpx.get(f"{api.url}/metrics").text
    return float(next(line.split()[1] for line in text.splitlines() if line.startswith("payments_http_waiters ")))


@pytest.mark.parametrize("notify", [True, False])
def test_authorize_waits_for_success(shop: httpx.Client, api: ApiProcess, *, notify: bool) -> None:
    body, began = wish(), time.monotonic()
    later(api, id_of_cart(api, body), "SUCCEEDED", notify=notify)
    answer = shop.post("/payments/authorize", json=body, headers={"Prefer": "wait=20"})
    assert time.monotonic() - began < AT_ONCE_S
    assert (answer.status_code, answer.json()["status"]) == (201, "SUCCEEDED")
    assert answer.headers["preference-applied"] == "wait=20"
    assert answer.json()["version"] == 2


def test_authorize_answers_402_when_the_payment_failed(shop: httpx.Client, api: ApiProcess) -> None:
    body = wish()
    later(api, id_of_cart(api, body), "FAILED", notify=True)
    answer = shop.post("/payments/authorize", json=body, headers={"Prefer": "wait=20"})
    found = answer.json()
    assert (answer.status_code, answer.headers["content-type"]) == (402, "application/problem+json")
    assert (found["code"], found["declineCode"], found["reason"]) == (
        "payment_declined",
        "do_not_honor",
        "CARD_DECLINED",
    )
    assert (found["detail"], found["retryable"]) == ("No.", False)
    assert answer.headers["location"] == f"/payments/{found['paymentId']}"
    assert shop.get(answer.headers["location"]).json()["failure"]["declineCode"] == "do_not_honor"


def test_authorize_answers_201_when_the_browser_must_act(shop: httpx.Client, api: ApiProcess) -> None:
    body = wish()
    later(api, id_of_cart(api, body), "ACTION_REQUIRED", notify=True)
    answer = shop.post("/payments/authorize", json=body, headers={"Prefer": "wait=20"})
    assert answer.status_code == 201
    assert answer.json()["nextAction"]["clientSecret"] == "pi_1_secret_2"


def test_authorize_answers_201_when_nobody_knows_yet_whether_money_moved(shop: httpx.Client, api: ApiProcess) -> None:
    body = wish()
    later(api, id_of_cart(api, body), "CONFLICTED", notify=True)
    answer = shop.post("/payments/authorize", json=body, headers={"Prefer": "wait=20"})
    assert (answer.status_code, answer.json()["status"]) == (201, "CONFLICTED")


def test_authorize_answers_with_the_state_as_it_stands_when_time_is_up(shop: httpx.Client) -> None:
    began = time.monotonic()
    answer = shop.post("/payments/authorize", json=wish(), headers={"Prefer": "respond-async, wait=1"})
    assert 1 <= time.monotonic() - began < 5
    assert (answer.status_code, answer.json()["status"]) == (201, "REQUESTED")
    assert answer.headers["preference-applied"] == "wait=1"


def test_authorize_waits_for_passing_states_to_pass(shop: httpx.Client, api: ApiProcess) -> None:
    body = wish()
    look = id_of_cart(api, body)
    later(api, look, "PROCESSING", notify=True, delay_s=0.1)
    later(api, look, "SUCCEEDED", notify=True, delay_s=0.6)
    answer = shop.post("/payments/authorize", json=body, headers={"Prefer": "wait=20"})
    assert answer.json()["status"] == "SUCCEEDED"


def test_a_repetition_waits_as_the_first_did(shop: httpx.Client, api: ApiProcess) -> None:
    body, headers = wish(), {"Idempotency-Key": str(uuid.uuid4()), "Prefer": "wait=20"}
    first = shop.post("/payments/authorize", json=body, headers=headers | {"Prefer": "wait=0"})
    assert "preference-applied" not in first.headers
    later(api, lambda: first.json()["paymentId"], "FAILED", notify=True)
    for _ in range(2):
        again = shop.post("/payments/authorize", json=body, headers=headers)
        assert (again.status_code, again.headers["idempotency-replayed"]) == (402, "true")
    without_wait = shop.post("/payments/authorize", json=body, headers=headers | {"Prefer": "x"})
    assert (without_wait.status_code, without_wait.content) == (201, first.content)


def test_the_live_payment_of_a_cart_is_waited_for_too(shop: httpx.Client, api: ApiProcess) -> None:
    body = wish()
    payment_id = shop.post("/payments/authorize", json=body).json()["paymentId"]
    later(api, lambda: payment_id, "SUCCEEDED", notify=True)
    answer = shop.post("/payments/authorize", json=body, headers={"Prefer": "wait=20"})
    assert (answer.status_code, answer.json()["status"]) == (200, "SUCCEEDED")


def test_a_settled_payment_is_answered_at_once(shop: httpx.Client, api: ApiProcess) -> None:
    payment_id = shop.post("/payments/authorize", json=wish()).json()["paymentId"]
    with api.database.connect() as conn:
        settle(conn, payment_id, "FAILED")
    began = time.monotonic()
    answer = shop.get(f"/payments/{payment_id}?wait=20")
    assert (answer.status_code, answer.json()["status"]) == (200, "FAILED")
    assert time.monotonic() - began < 2


@pytest.mark.parametrize("notify", [True, False])
def test_get_waits_and_knows_the_version(shop: httpx.Client, api: ApiProcess, *, notify: bool) -> None:
    payment_id = shop.post("/payments/authorize", json=wish()).json()["paymentId"]
    known, began = shop.get(f"/payments/{payment_id}").headers["etag"], time.monotonic()
    later(api, lambda: payment_id, "SUCCEEDED", notify=notify)
    answer = shop.get(f"/payments/{payment_id}?wait=20", headers={"If-None-Match": known})
    assert time.monotonic() - began < AT_ONCE_S
    assert (answer.status_code, answer.json()["status"]) == (200, "SUCCEEDED")
    again = shop.get(f"/payments/{payment_id}?wait=20", headers={"If-None-Match": answer.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


def test_get_answers_304_when_time_is_up_and_nothing_changed(shop: httpx.Client) -> None:
    payment_id = shop.post("/payments/authorize", json=wish()).json()["paymentId"]
    answer = shop.get(f"/payments/{payment_id}?wait=1", headers={"If-None-Match": '"1"'})
    assert answer.status_code == 304


def test_a_caller_who_leaves_frees_its_place(
    api: ApiProcess, shop: httpx.Client, eventually: Callable[..., object]
) -> None:
    payment_id = shop.post("/payments/authorize", json=wish()).json()["paymentId"]
    body = json.dumps(wish())
    head = f"HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {api.key}\r\n"
    requests = [
        f"GET /payments/{payment_id}?wait=30 {head}\r\n",
        (
            f"POST /payments/authorize {head}Prefer: wait=30\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n{body}"
        ),
    ]
    for request in requests:
        with socket.create_connection(("127.0.0.1", api.port)) as sock:
            sock.sendall(request.encode())
            eventually(lambda: waiters(api) == 1)
        eventually(lambda: waiters(api) == 0)
    eventually(lambda: api.log().count('"status":499') == 2)


def test_a_hundred_callers_wait_at_once(api: ApiProcess, eventually: Callable[..., object]) -> None:
    async def crowd() -> list[httpx.Response]:
        async with api.async_client() as client:
            bodies = [wish() for _ in range(20)]
            made = await asyncio.gather(*(client.post("/payments/authorize", json=body) for body in bodies))
            ids = [answer.json()["paymentId"] for answer in made]
            asked = [asyncio.create_task(client.get(f"/payments/{each}?wait=30")) for each in ids * 5]
            await asyncio.to_thread(eventually, lambda: waiters(api) == 100)
            await asyncio.to_thread(settle_all, ids)
            return await asyncio.gather(*asked)

    def settle_all(ids: list[str]) -> None:
        with api.database.connect() as conn:
            for each in ids:
                settle(conn, each, "SUCCEEDED")
            announce(conn, *ids)

    answers = asyncio.run(crowd())
    assert {(answer.status_code, answer.json()["status"]) for answer in answers} == {(200, "SUCCEEDED")}
    assert waiters(api) == 0


def test_waiters_are_answered_when_the_process_stops(
    database: Database, tmp_path: Path, eventually: Callable[..., object]
) -> None:
    with running_api(database, tmp_path / "api.log") as api, api.client() as client:
        answers: list[httpx.Response] = []
        body, headers = wish(), {"Prefer": "wait=30"}
        thread = threading.Thread(
            target=lambda: answers.append(client.post("/payments/authorize", json=body, headers=headers))
        )
        thread.start()
        eventually(lambda: waiters(api) == 1)
        api.terminate()
        assert api.wait(5) == 0
        thread.join()
        assert (answers[0].status_code, answers[0].json()["status"]) == (201, "REQUESTED")


@pytest.mark.parametrize(
    ("prefer", "wait_s"),
    [
        ("wait=5", 5),
        ('wait="5"', 5),
        ("Wait = 5", 5),
        ("respond-async, wait=5; a=b", 5),
        ("wait=0", 0),
        ("wait=999999", 30),
        ("wait=5.5", None),
        ("wait=-1", None),
        ("wait=soon", None),
        ("wait", None),
        ("await=5", None),
        ("", None),
        ("wait=9999999999", 30),
        ("wait=" + "9" * 5_000, 30),
        ("wait=" + "0" * 5_000 + "7", 7),
        ("wait=" + "9" * 5_000 + "x", None),
    ],
)
def test_parse_wait_is_lenient_as_rfc_7240_asks(prefer: str, wait_s: int | None) -> None:
    assert parse_wait([(b"prefer", prefer.encode())]) == wait_s


@pytest.mark.anyio
async def test_waiters_have_a_limit(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "WAITERS_MAX", 2)
    async with (
        open_pool(database.dsn("payments_api"), "payments_api", 2) as pool,
        waiting.Waiters(pool, Wakeup(), 0.5) as waiters,
    ):
        first = [asyncio.create_task(waiters.wait(uuid.uuid4(), 30)) for _ in range(2)]
        await asyncio.sleep(0)
        assert waiters.count == 2
        assert await waiters.wait(uuid.uuid4(), 30) is None
        first[0].cancel()
        await asyncio.gather(first[0], return_exceptions=True)
        assert waiters.count == 1
        waiters.release_all()
        assert await first[1] is None
        assert await waiters.wait(uuid.uuid4(), 30) is None
    assert waiters.count == 0


@pytest.mark.parametrize("error", [RuntimeError("a fault of ours"), psycopg.OperationalError("gone")])
def test_what_breaks_after_the_commit_does_not_have_the_write_sent_once_more(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """The answer is as it was committed; a 500 would ask for a second refund of who sends no Idempotency-Key."""

    async def breaks(*_: object) -> None:
        raise error

    monkeypatch.setattr(patience, "wait_for", breaks)
    scope: dict[str, Any] = {"headers": [(b"prefer", b"wait=5")]}
    attach(cast("Scope", scope), RequestRecord("r1", "00-" + "1" * 32 + "-" + "1" * 16 + "-01"))
    app = SimpleNamespace(state={"services": SimpleNamespace(waiters=SimpleNamespace(has_room=True))})
    request, headers = cast("ApiRequest", SimpleNamespace(scope=scope, app=app)), dict[str, str]()
    view = asyncio.run(patience.wait_if_preferred(request, REFUNDS, uuid.uuid4(), headers, is_new=True))
    assert (view, headers) == (None, {"Preference-Applied": "wait=5"})
