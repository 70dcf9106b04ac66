"""The process: how it starts, how it stops, and what it says while the database is away."""

import asyncio
import math
import os
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import httpx
import psycopg
import pytest
from prometheus_client.parser import text_string_to_metric_families

from payments.api import gauges, operation
from payments.api.problems import Refusal
from payments.api.services import ApiRequest
from payments.development.free_port import pick_free_port
from tests.api.driving import WEBHOOK_SECRET, ApiProcess, running_api, wish
from tests.conftest import wait_until
from tests.development.databases import Database


def run_api(**environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from payments.commands import main; raise SystemExit(main())", "api"]
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("PAYMENTS_", "STRIPE_"))}
    return subprocess.run(command, env=inherited | environment, capture_output=True, text=True, timeout=30, check=False)


@contextmanager
def database_away(database: Database) -> Iterator[None]:
    """Nobody can connect, and whoever was connected is cut off."""
    with psycopg.connect(database.server.admin_dsn(), autocommit=True) as conn:
        conn.execute(f"alter database {database.name} allow_connections false")
        conn.execute("select pg_terminate_backend(pid) from pg_stat_activity where datname = %s", (database.name,))
        try:
            yield
        finally:
            conn.execute(f"alter database {database.name} allow_connections true")


def metrics(api: ApiProcess) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    answer = httpx.get(f"{api.url}/metrics", timeout=10)
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain; version=")
    families = text_string_to_metric_families(answer.text)
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in families
        for sample in family.samples
    }


def work_shown(api: ApiProcess) -> set[str]:
    """Which gauges of the work's state have a number."""
    own = ("payments_http", "payments_database_up")
    return {
        name
        for (name, _), value in metrics(api).items()
        if name.startswith("payments_") and not name.startswith(own) and not math.isnan(value)
    }


def test_a_port_that_is_taken_stops_the_start_with_advice(database: Database) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = run_api(DATABASE_URL=database.dsn("payments_api"), PORT=port)
    assert done.returncode == 73
    assert f"127.0.0.1:{port}" in done.stderr
    assert "PORT" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_database_that_does_not_answer_stops_the_start_with_advice() -> None:
    port = str(pick_free_port("127.0.0.1"))
    done = run_api(DATABASE_URL="postgresql://nobody:secret@127.0.0.1:1/x", PORT=port)
    assert done.returncode == 69
    assert "Traceback" not in done.stderr
    assert "secret" not in done.stderr


def test_a_host_that_is_not_ours_stops_the_start(database: Database) -> None:
    done = run_api(DATABASE_URL=database.dsn("payments_api"), HOST="203.0.113.1")
    assert done.returncode == 78
    assert "203.0.113.1" in done.stderr


def test_sigterm_lets_requests_finish_and_takes_no_more(database: Database, tmp_path: Path) -> None:
    with running_api(database, tmp_path / "api.log") as api, api.client() as client:
        answers: list[httpx.Response] = []
        with database.connect(autocommit=False) as conn:
            conn.execute("lock table payments.payments in exclusive mode")
            thread = threading.Thread(target=lambda: answers.append(client.post("/payments/authorize", json=wish())))
            thread.start()
            while not conn.execute("select from pg_locks where not granted").fetchall():
                time.sleep(0.01)
            api.terminate()
            time.sleep(0.3)
            with pytest.raises(httpx.ConnectError):
                httpx.get(f"{api.url}/health/live")
        thread.join()
        assert answers[0].status_code == 201
        assert api.wait() == 0
    assert '"event":"process.stopped"' in api.log()


def test_a_process_that_is_about_to_stop_is_not_ready() -> None:
    """On a connection that is still open; a new one is not taken any more."""
    services = SimpleNamespace(waiters=SimpleNamespace(is_closed=True))
    request = SimpleNamespace(app=SimpleNamespace(state={"services": services}))
    with pytest.raises(Refusal) as refused:
        asyncio.run(operation.ready.fn(cast("ApiRequest", request)))
    assert (refused.value.problem.code, refused.value.problem.detail) == ("not_ready", "The process is stopping.")


def test_while_the_database_is_away_everything_says_so_and_recovers(
    database: Database, tmp_path: Path, eventually: Callable[..., object]
) -> None:
    with running_api(database, tmp_path / "api.log") as api, api.client() as client:
        assert client.post("/payments/authorize", json=wish()).status_code == 201
        assert metrics(api)["payments_database_up", frozenset()] == 1
        assert "payments_outbox_waiting" in work_shown(api)
        with database_away(database):
            body = wish()
            with ThreadPoolExecutor() as threads:  # each waits some seconds for a connection
                asked = threads.submit(client.post, "/payments/authorize", json=body, headers={"Idempotency-Key": "k"})
                checked = threads.submit(httpx.get, f"{api.url}/health/ready", timeout=10)
                threads.submit(eventually, lambda: metrics(api)["payments_database_up", frozenset()] == 0).result()
            assert work_shown(api) == set(), "yesterday's numbers would keep alarms silent"
            answer, ready = asked.result(), checked.result()
            assert (answer.status_code, answer.json()["retryable"]) == (503, True)
            assert answer.json()["code"] in {"database_unavailable", "outcome_unknown"}
            assert (ready.status_code, ready.json()["code"]) == (503, "not_ready")
            assert httpx.get(f"{api.url}/health/live").status_code == 200
        eventually(lambda: httpx.get(f"{api.url}/health/ready").status_code == 200)
        again = client.post("/payments/authorize", json=body, headers={"Idempotency-Key": "k"})
        assert again.status_code == 201
        assert metrics(api)["payments_database_up", frozenset()] == 1
    assert "Traceback" not in api.log()
    assert WEBHOOK_SECRET not in api.log()


def test_what_was_recorded_before_the_database_went_away_is_answered_as_recorded(
    database: Database, tmp_path: Path, eventually: Callable[..., object]
) -> None:
    """To callers who wait for its outcome: they must not hear that nothing was recorded."""
    with running_api(database, tmp_path / "api.log") as api, api.client() as client, ThreadPoolExecutor() as threads:
        payment_id = client.post("/payments/authorize", json=wish()).json()["paymentId"]
        asked = [
            threads.submit(client.post, address, json=body, headers={"Prefer": "wait=3"})
            for address, body in (("/payments/authorize", wish()), (f"/payments/{payment_id}/void", {}))
        ]
        eventually(lambda: metrics(api)["payments_http_waiters", frozenset()] == 2)
        with database_away(database):
            authorized, voided = (each.result() for each in asked)
        assert (authorized.status_code, authorized.json().get("status")) == (201, "REQUESTED")
        assert (voided.status_code, voided.json().get("status")) == (202, "VOIDING")


def test_a_database_of_another_release_is_not_ready(database: Database, tmp_path: Path) -> None:
    with running_api(database, tmp_path / "api.log") as api:
        with database.connect() as conn:
            conn.execute("insert into payments.schema_migrations (version, name) values (9999, 'later')")
        answer = httpx.get(f"{api.url}/health/ready")
        assert (answer.status_code, answer.json()["code"]) == (503, "not_ready")
        assert "9999" in answer.json()["detail"]


def test_metrics_show_requests_and_the_state_of_the_work(api: ApiProcess, shop: httpx.Client) -> None:
    shop.post("/payments/authorize", json=wish())
    shop.get(f"/payments/{uuid.uuid4()}")
    shop.get("/nothing")
    with api.database.connect() as conn:
        conn.execute("select pgmq.send('payment_requested', '{}')")
        conn.execute(
            "insert into payments.inbox (source, message_id, message_type, payload, received_at) "
            "values ('stripe-webhook', 'evt_1', 'x', '{}', now() - interval '1 hour')"
        )
    time.sleep(1.1)
    found = metrics(api)

    def value(name: str, **labels: str) -> float:
        return found[f"payments_{name}", frozenset(labels.items())]

    assert value("http_requests_total", method="POST", route="/payments/authorize", status="201") >= 1
    assert value("http_requests_total", method="GET", route="/payments/{paymentId}", status="404") >= 1
    assert value("http_requests_total", method="GET", route="unmatched", status="404") >= 1
    assert value("http_request_duration_seconds_count", method="POST", route="/payments/authorize") >= 1
    assert value("outbox_waiting", queue="payment_requested") >= 1
    assert value("outbox_lag_seconds", queue="payment_requested") > 0
    assert value("outbox_waiting", queue="ordering") == 0
    assert value("queue_length", queue="payment_requested") == 1
    assert value("queue_oldest_age_seconds", queue="payment_requested") > 0
    assert (value("inbox_pending"), value("stuck_payments")) == (1, 0)
    assert value("audit_imbalances", kind="payment_unowned") == 0
    assert value("inbox_oldest_age_seconds") >= 3_600
    assert value("http_requests_in_flight") == 1


def test_metrics_survive_a_queue_that_is_locked(api: ApiProcess) -> None:
    def lengths() -> set[str]:
        time.sleep(gauges.FRESH_S)
        return {dict(labels)["queue"] for name, labels in metrics(api) if name == "payments_queue_length"}

    before = lengths()
    assert {"ordering", "payment_requested"} <= before
    with api.database.connect(autocommit=False) as conn:
        conn.execute("lock table pgmq.q_ordering in access exclusive mode")
        assert lengths() == before - {"ordering"}
    assert lengths() == before


def test_metrics_show_no_old_number_for_what_takes_too_long_to_count(api: ApiProcess) -> None:
    pending = "payments_inbox_pending"
    wait_until(lambda: pending in work_shown(api))
    with api.database.connect(autocommit=False) as conn:
        conn.execute("lock table payments.inbox in access exclusive mode")
        wait_until(lambda: pending not in work_shown(api))
    wait_until(lambda: pending in work_shown(api))


def test_one_line_a_request_with_ids_and_nothing_else(api: ApiProcess, shop: httpx.Client) -> None:
    trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    secret = "do-not-log-me"
    answer = shop.post(
        "/payments/authorize",
        json=wish(metadata={"note": secret}),
        headers={"X-Request-Id": "line-1", "traceparent": trace, "Idempotency-Key": secret},
    )
    (line,) = [each for each in api.settled_log().splitlines() if '"line-1"' in each]
    for expected in (
        '"event":"request.answered"',
        '"method":"POST"',
        '"route":"/payments/authorize"',
        '"status":201',
        '"client_id":"shop"',
        '"trace_id":"4bf92f3577b34da6a3ce929d0e0e4736"',
        f'"payment_id":"{answer.json()["paymentId"]}"',
    ):
        assert expected in line
    assert secret not in api.settled_log()
