"""A payment kept locked, a deadlock, a connection that breaks: each wish is answered in time, and truly."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest

from tests.api.cutting_proxy import CuttingProxy, cutting_proxy
from tests.api.driving import ApiProcess, running_api, wish
from tests.api.refusals import problem
from tests.api.staging import columns_of, effects_of, new_key, payment_in
from tests.conftest import wait_until
from tests.development.databases import Database

WISHES = {"capture": "AUTHORIZED", "void": "AUTHORIZED", "refunds": "SUCCEEDED"}
COMMIT = b"COMMIT\0"  # the whole statement; BEGIN says READ COMMITTED
LOOK = b" as they stand, for callers that read them or wait for them"
LOCK = "select from payments.payments where payment_id = %s for update"
KEEP_KEY = (
    "insert into payments.idempotency_keys (client_id, idempotency_key, fingerprint, response_status) "
    "values ('shop', %s, sha256(''), 201)"
)
LOCK_KEY = "select pg_advisory_xact_lock(hashtext('payments.idempotency_keys'), hashtext('shop ' || %s))"


@contextmanager
def holding(database: Database, statement: str, *values: object) -> Iterator[psycopg.Connection[Any]]:
    """Another transaction that has run a statement and does not end."""
    with psycopg.connect(database.admin_dsn()) as other:
        other.execute(statement, values)
        yield other
        other.rollback()


def test_a_payment_that_stays_locked_is_409_after_five_seconds_and_holds_nobody_else_up(
    api: ApiProcess, shop: httpx.Client, eye: psycopg.Connection[Any]
) -> None:
    locked = {what: payment_in(shop, eye, status) for what, status in WISHES.items()}
    free = payment_in(shop, eye, "AUTHORIZED")
    with (
        psycopg.connect(api.database.admin_dsn()) as other,
        ThreadPoolExecutor(60) as threads,
        httpx.Client(
            base_url=api.url, headers=shop.headers, timeout=40, limits=httpx.Limits(max_connections=80)
        ) as many,
    ):
        for payment_id in locked.values():
            other.execute(LOCK, (payment_id,))
        began = time.monotonic()
        # Many more than the process has connections.
        stuck = [
            threads.submit(many.post, f"/payments/{payment_id}/{what}", headers=key)
            for what, payment_id in locked.items()
            for key in [{}, new_key()] * 8
        ]
        time.sleep(1)
        assert shop.post("/payments/authorize", json=wish()).status_code == 201
        assert shop.post(f"/payments/{free}/capture").status_code == 202
        assert time.monotonic() - began < 5
        answers = [each.result() for each in stuck]
        assert 5 <= time.monotonic() - began < 15
        other.rollback()
    for answer in answers:
        assert answer.json()["code"] in {"payment_in_progress", "idempotency_in_progress"}
        assert problem(answer, 409, answer.json()["code"])["retryable"]
        assert answer.headers["retry-after"] == "1"
    assert {answer.json()["code"] for answer in answers[::2]} == {"payment_in_progress"}
    for what, payment_id in locked.items():
        assert effects_of(eye, payment_id) == {}
        assert shop.post(f"/payments/{payment_id}/{what}").is_success


def test_wishes_about_locked_payments_leave_connections_for_all_else(database: Database, tmp_path: Path) -> None:
    connections = 4
    settings = {"PAYMENTS_API_CONNECTIONS_MAX": str(connections)}
    with (
        running_api(database, tmp_path / "api.log", **settings) as api,
        api.client() as client,
        database.connect() as eye,
        psycopg.connect(database.admin_dsn()) as other,
        ThreadPoolExecutor(connections) as threads,
    ):
        locked = [payment_in(client, eye, "AUTHORIZED") for _ in range(connections)]
        other.execute("select from payments.payments for update")
        stuck = [threads.submit(client.post, f"/payments/{payment_id}/void") for payment_id in locked]
        wait_until(lambda: waiting_for_locks(eye) == connections // 2)
        assert client.post("/payments/authorize", json=wish()).status_code == 201
        assert waiting_for_locks(eye) == connections // 2, "it did not wait for these"
        other.rollback()
        assert {each.result().status_code for each in stuck} == {202}


def waiting_for_locks(eye: psycopg.Connection[Any]) -> int:
    query = "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'"
    return int(eye.execute(query).fetchall()[0][0])


def test_a_key_in_use_elsewhere_is_waited_for_and_then_409(
    api: ApiProcess, shop: httpx.Client, eye: psycopg.Connection[Any]
) -> None:
    wished, accepted = new_key(), new_key()
    refunded, captured = payment_in(shop, eye, "SUCCEEDED"), payment_in(shop, eye, "AUTHORIZED")
    began = time.monotonic()
    with (
        holding(api.database, LOCK_KEY, wished["Idempotency-Key"]),
        holding(api.database, KEEP_KEY, accepted["Idempotency-Key"]),
        ThreadPoolExecutor(2) as threads,
    ):
        refund = threads.submit(shop.post, f"/payments/{refunded}/refunds", headers=wished)
        capture = threads.submit(shop.post, f"/payments/{captured}/capture", headers=accepted)
        problem(refund.result(), 409, "idempotency_in_progress")
        # Found out when the answer is kept: the payment was locked by then.
        problem(capture.result(), 409, "payment_in_progress")
    assert 5 <= time.monotonic() - began < 12
    assert shop.post(f"/payments/{refunded}/refunds", headers=wished).status_code == 201
    assert shop.post(f"/payments/{captured}/capture", headers=accepted).status_code == 202


def test_a_key_that_an_authorize_commits_meanwhile_is_taken(
    api: ApiProcess, shop: httpx.Client, eye: psycopg.Connection[Any], eventually: Callable[..., object]
) -> None:
    payment_id, key = payment_in(shop, eye, "AUTHORIZED"), new_key()
    with holding(api.database, KEEP_KEY, key["Idempotency-Key"]) as other, ThreadPoolExecutor(1) as threads:
        asked = threads.submit(shop.post, f"/payments/{payment_id}/capture", headers=key)
        eventually(lambda: waits_for_a_lock(eye, "capture-requested"))
        other.commit()
        problem(asked.result(), 422, "idempotency_key_reused")
    assert effects_of(eye, payment_id) == {}


def test_a_deadlock_is_tried_again_and_nobody_hears_of_it(
    api: ApiProcess, shop: httpx.Client, eye: psycopg.Connection[Any], eventually: Callable[..., object]
) -> None:
    payment_id, key = payment_in(shop, eye, "SUCCEEDED"), new_key()
    before = deadlocks(eye)
    with holding(api.database, LOCK, payment_id) as other, ThreadPoolExecutor(1) as threads:
        asked = threads.submit(shop.post, f"/payments/{payment_id}/refunds", headers=key)
        eventually(lambda: waits_for_a_lock(eye, "for no key update"))
        # Whose patience of a second ends first is the victim: the API, which has waited longer.
        other.execute("set deadlock_timeout = '30s'")
        other.execute(LOCK_KEY, (key["Idempotency-Key"],))
        other.commit()
        assert asked.result().status_code == 201
    assert effects_of(eye, payment_id) == {"refund-requested": 1, "refunds": 1, "idempotency_keys": 1}
    eventually(lambda: deadlocks(eye) > before)


def deadlocks(eye: psycopg.Connection[Any]) -> int:
    row = eye.execute("select deadlocks from pg_stat_database where datname = current_database()").fetchone()
    assert row is not None
    return int(row[0])


def waits_for_a_lock(eye: psycopg.Connection[Any], words: str) -> bool:
    """Whether a statement with these words waits."""
    row = eye.execute(
        "select count(*) from pg_stat_activity where wait_event_type = 'Lock' and strpos(query, %s) > 0 "
        "and datname = current_database() and pid <> pg_backend_pid()",
        (words,),
    ).fetchone()
    return row is not None and row[0] > 0


@pytest.fixture(scope="module")
def cut(
    module_database: Database, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[CuttingProxy, ApiProcess]]:
    """An API whose connections to the database can be cut, in the API's own moment of truth."""
    log = tmp_path_factory.mktemp("cut") / "api.log"
    with cutting_proxy(module_database) as (proxy, dsn), running_api(module_database, log, DATABASE_URL=dsn) as api:
        yield proxy, api


@pytest.mark.parametrize("what", WISHES)
def test_a_connection_that_breaks_in_the_commit_is_503_and_a_repetition_finds_it(
    cut: tuple[CuttingProxy, ApiProcess], eye: psycopg.Connection[Any], eventually: Callable[..., object], what: str
) -> None:
    proxy, api = cut
    with api.client() as client:
        payment_id, key = payment_in(client, eye, WISHES[what]), new_key()
        proxy.word = COMMIT
        found = problem(client.post(f"/payments/{payment_id}/{what}", headers=key), 503, "outcome_unknown")
        assert (found["retryable"], found["paymentId"]) == (True, payment_id)
        eventually(lambda: effects_of(eye, payment_id))
        effects = effects_of(eye, payment_id)
        again = client.post(f"/payments/{payment_id}/{what}", headers=key)
        assert again.headers["idempotency-replayed"] == "true"
        assert effects_of(eye, payment_id) == effects


def test_a_refund_without_a_key_is_not_to_be_repeated_blindly(
    cut: tuple[CuttingProxy, ApiProcess], eye: psycopg.Connection[Any], eventually: Callable[..., object]
) -> None:
    proxy, api = cut
    with api.client() as client:
        payment_id = payment_in(client, eye, "SUCCEEDED")
        proxy.word = COMMIT
        found = problem(client.post(f"/payments/{payment_id}/refunds"), 503, "refund_outcome_unknown")
        assert found["retryable"] is False
        eventually(lambda: len(client.get(f"/payments/{payment_id}/refunds").json()["items"]) == 1)


def test_a_session_that_the_server_ends_in_its_commit_may_have_recorded_it(database: Database, tmp_path: Path) -> None:
    """An administrator's pg_terminate_backend may come before the commit is written, or after."""
    with running_api(database, tmp_path / "api.log") as api, api.client() as client, database.connect() as eye:
        paid = payment_in(client, eye, "SUCCEEDED")
        end_sessions_in_commits(eye, "refunds", "payments")
        problem(client.post(f"/payments/{paid}/refunds"), 503, "refund_outcome_unknown")
        problem(client.post(f"/payments/{paid}/refunds", headers=new_key()), 503, "outcome_unknown")
        problem(client.post("/payments/authorize", json=wish()), 503, "outcome_unknown")


def end_sessions_in_commits(eye: psycopg.Connection[Any], *tables: str) -> None:
    eye.execute(
        "create function public.end_session() returns trigger language plpgsql as"
        " $$ begin perform pg_terminate_backend(pg_backend_pid()); return null; end $$"
    )
    for table in tables:
        eye.execute(
            f"create constraint trigger zz_end_session after insert on payments.{table} deferrable initially deferred"
            " for each row execute function public.end_session()"
        )


def test_a_connection_that_breaks_in_the_look_that_was_asked_for_leaves_the_answer_as_committed(
    database: Database, tmp_path: Path
) -> None:
    with (
        cutting_proxy(database) as (proxy, dsn),
        running_api(database, tmp_path / "api.log", DATABASE_URL=dsn) as api,  # it has prepared no statement yet
        api.client() as client,
        database.connect() as eye,
    ):
        for what, status in WISHES.items():
            payment_id, key = payment_in(client, eye, status), new_key()
            first = client.post(f"/payments/{payment_id}/{what}", headers=key)
            proxy.cut.clear()
            proxy.word = LOOK
            again = client.post(f"/payments/{payment_id}/{what}", headers=key | {"Prefer": "wait=1"})
            assert proxy.cut.wait(5)
            assert (again.status_code, again.content) == (first.status_code, first.content)


@pytest.mark.parametrize("what", WISHES)
def test_a_connection_that_breaks_before_the_commit_has_recorded_nothing(
    cut: tuple[CuttingProxy, ApiProcess], eye: psycopg.Connection[Any], what: str
) -> None:
    proxy, api = cut
    with api.client() as client:
        payment_id = payment_in(client, eye, WISHES[what])
        proxy.word = f"asked for by {api_client(eye)}".encode()
        proxy.cut.clear()
        problem(client.post(f"/payments/{payment_id}/{what}"), 503, "database_unavailable")
        assert proxy.cut.wait(5)
        assert effects_of(eye, payment_id) == {}
        assert columns_of(eye, payment_id, "status") == (WISHES[what],)
        assert client.post(f"/payments/{payment_id}/{what}").is_success


def api_client(eye: psycopg.Connection[Any]) -> str:
    row = eye.execute("select client_id from payments.api_keys limit 1").fetchone()
    assert row is not None
    return str(row[0])
