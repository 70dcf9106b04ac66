"""Who may do what: API keys, their scopes, their end."""

import base64
import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import httpx
import pytest

from payments.api import authentication
from payments.api.authentication import READ_PAYMENTS, Authenticator
from payments.api.problems import Refusal
from payments.database.api_keys import KEY_PREFIX, create_key, hash_key
from payments.database.connections import open_pool
from payments.logs import MASK, mask
from tests.api.driving import ApiProcess, bearer, count_rows, make_key, wish
from tests.development.databases import Database

SOME = uuid.uuid4()
READS = ["/payments", f"/payments/{SOME}", f"/payments/{SOME}/history", f"/payments/{SOME}/refunds", f"/refunds/{SOME}"]
WRITES = [f"/payments/{SOME}/capture", f"/payments/{SOME}/void", f"/payments/{SOME}/refunds"]


@pytest.mark.parametrize(
    ("header", "code"),
    [
        ({}, "api_key_missing"),
        ({"Authorization": ""}, "api_key_missing"),
        ({"Authorization": "Bearer"}, "api_key_invalid"),
        ({"Authorization": "Basic c2hvcDpwYXk="}, "api_key_invalid"),
        (bearer("pay_unknown"), "api_key_invalid"),
        (bearer("k" * 5_000), "api_key_invalid"),
        (bearer("a b"), "api_key_invalid"),
        ({"Authorization": b"Bearer \xff\xfe"}, "api_key_invalid"),
    ],
)
def test_without_a_valid_key_every_route_answers_401(api: ApiProcess, header: dict[str, str], code: str) -> None:
    before = count_rows(api.database)
    with httpx.Client(base_url=api.url, headers=header) as stranger:
        answers = [stranger.get(path) for path in READS] + [stranger.post("/payments/authorize", json=wish())]
        answers += [stranger.post(path) for path in WRITES] + [stranger.put(f"/customers/{SOME}/payment-method")]
        # Who is asking comes before what is asked.
        answers += [stranger.get("/payments?nonsense=1"), stranger.post("/payments/authorize", content=b"{" * 99_999)]
    for answer in answers:
        assert (answer.status_code, answer.json()["code"]) == (401, code)
        assert answer.headers["www-authenticate"].startswith('Bearer realm="payments"')
    assert count_rows(api.database) == before


@pytest.mark.parametrize("scope", ["payments:read", "viewer", "operator", "refunds:write"])
def test_paying_and_saving_a_payment_method_need_their_scope(api: ApiProcess, scope: str) -> None:
    with api.client(make_key(api.database, "reader", [scope])) as reader:
        answers = [
            reader.post("/payments/authorize", json=wish()),
            reader.put(
                f"/customers/{SOME}/payment-method", json={"paymentMethod": "pm_1", "processorCustomer": "cus_1"}
            ),
        ]
    for answer in answers:
        assert (answer.status_code, answer.json()["code"]) == (403, "scope_missing")
        assert "payments:write" in answer.json()["detail"]
        assert answer.headers["www-authenticate"] == 'Bearer error="insufficient_scope", scope="payments:write"'


@pytest.mark.parametrize("scope", ["payments:read", "viewer", "operator"])
def test_reading_takes_each_of_its_scopes(api: ApiProcess, scope: str) -> None:
    with api.client(make_key(api.database, "reader", [scope])) as reader:
        assert [reader.get(path).status_code for path in READS] == [200, 404, 404, 404, 404]


@pytest.mark.parametrize("scope", ["payments:write", "refunds:write"])
def test_reading_needs_one_of_its_scopes(api: ApiProcess, scope: str) -> None:
    with api.client(make_key(api.database, "writer", [scope])) as writer:
        answers = [writer.get(path) for path in READS]
    assert {(answer.status_code, answer.json()["code"]) for answer in answers} == {(403, "scope_missing")}
    assert all("payments:read" in answer.json()["detail"] for answer in answers)


def test_health_metrics_and_schema_need_no_key(api: ApiProcess) -> None:
    for path in ("/health/live", "/health/ready", "/metrics", "/schema", "/schema/openapi.json"):
        assert httpx.get(api.url + path).status_code == 200


def test_a_key_is_256_random_bits_that_the_log_would_mask(api: ApiProcess) -> None:
    keys = {make_key(api.database, "maker", ["payments:read"]) for _ in range(3)}
    assert len(keys) == 3
    for key in keys:
        assert len(base64.urlsafe_b64decode(key.removeprefix(KEY_PREFIX) + "=")) == 32
        assert mask(f"before {key} after") == f"before {KEY_PREFIX}{MASK} after"


def test_a_revoked_key_ends_within_seconds(api: ApiProcess, eventually: Callable[..., object]) -> None:
    key = make_key(api.database, "leaver", ["payments:read"])
    with api.client(key) as leaver:
        assert leaver.get("/payments").status_code == 200
        with api.database.connect() as conn:
            conn.execute("update payments.api_keys set revoked_at = now() where key_hash = %s", (hash_key(key),))
        eventually(lambda: leaver.get("/payments").status_code == 401, deadline_s=6.0)  # docs: three seconds


def test_an_expired_key_is_refused(api: ApiProcess) -> None:
    with api.database.connect() as conn:
        past = create_key(conn, "past", ["payments:read"], datetime.now(UTC) - timedelta(seconds=1))
        future = create_key(conn, "future", ["payments:read"], datetime.now(UTC) + timedelta(hours=1))
    assert httpx.get(f"{api.url}/payments", headers=bearer(past)).status_code == 401
    assert httpx.get(f"{api.url}/payments", headers=bearer(future)).status_code == 200


def test_keys_never_stand_in_the_log(api: ApiProcess, shop: httpx.Client) -> None:
    shop.get("/payments")
    assert '"client_id":"shop"' in api.settled_log()
    assert api.key not in api.settled_log()
    assert "pay_" not in api.settled_log()


@pytest.mark.anyio
async def test_authenticator_forgets_the_oldest_of_many_strangers(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(authentication, "REMEMBERED_MAX", 5)
    now = 1_000.0
    async with open_pool(database.dsn("payments_api"), "payments_api", 2) as pool:
        known = Authenticator(pool, clock=lambda: now)
        for number in range(20):
            with pytest.raises(Refusal):
                await known.authorize([(b"authorization", b"Bearer stranger%d" % number)], READ_PAYMENTS)
        assert len(known._remembered) == 5
        key = make_key(database, "late", ["payments:read"])
        headers = [(b"authorization", b"bearer " + key.encode())]
        assert (await known.authorize(headers, READ_PAYMENTS)).client_id == "late"
        with database.connect() as conn:
            conn.execute("update payments.api_keys set revoked_at = now()")
        assert (await known.authorize(headers, READ_PAYMENTS)).client_id == "late"
        now += authentication.REMEMBERED_S
        with pytest.raises(Refusal):
            await known.authorize(headers, READ_PAYMENTS)
