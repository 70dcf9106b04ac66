"""Customers who shop while PostgreSQL fails: each wish under a key of its own, asked again until it is answered."""

import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Self
from uuid import uuid4

import httpx

from tests.conftest import wait_until
from tests.scenarios.world import World

CUSTOMERS = 4
PATIENCE_S = 90.0  # for one answer below 500
PAUSE_S = 0.1
THINK_S = 0.2  # between two lives
SETTLES_S = 60.0
MEANWHILE = 5  # answers seen before a fault, so that it meets payments under way, and after it


class Customers:
    """What they were promised, and whatever they were told that nobody may be told."""

    def __init__(self, world: World) -> None:
        self.accepted: dict[str, float] = {}  # payment ids, and when they were promised, by the monotonic clock
        self.refunds: set[str] = set()
        self.answers: Counter[int] = Counter()
        self.wrong: list[str] = []
        self._world = world
        self._closed = threading.Event()
        self._threads = [threading.Thread(target=self._shop, args=(number,)) for number in range(CUSTOMERS)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closed.set()
        for thread in self._threads:
            thread.join()

    def see_more(self, number: int = MEANWHILE) -> None:
        """Wait until so many further payments are accepted."""
        before = len(self.accepted)
        wait_until(lambda: len(self.accepted) >= before + number or self.wrong, PATIENCE_S)

    def _shop(self, number: int) -> None:
        headers = {"Authorization": f"Bearer {self._world.system.env['API_KEY']}"}
        with httpx.Client(base_url=self._world.system.env["API_URL"], headers=headers, timeout=30.0) as http:
            lives = (self._charge, self._hold_and_capture, self._charge_and_refund, self._hold_and_void)
            while not self._closed.is_set() and not self.wrong:
                try:
                    lives[number % len(lives)](http)
                except AssertionError as error:
                    self.wrong.append(str(error))
                number += 1
                time.sleep(THINK_S)

    def _charge(self, http: httpx.Client, method: str = "automatic") -> str:
        body = {"cartId": str(uuid4()), "orderId": str(uuid4()), "amount": 1999, "currency": "EUR"}
        body |= {"paymentMethod": "pm_card_visa", "captureMethod": method}
        payment_id = str(self._ask(http, "/payments/authorize", body, 201)["paymentId"])
        self.accepted[payment_id] = time.monotonic()
        return payment_id

    def _hold_and_capture(self, http: httpx.Client) -> None:
        payment_id = self._charge(http, "manual")
        self._reach(http, payment_id, "AUTHORIZED")
        self._ask(http, f"/payments/{payment_id}/capture", {"amount": 1500}, 202)

    def _hold_and_void(self, http: httpx.Client) -> None:
        self._ask(http, f"/payments/{self._charge(http, 'manual')}/void", {}, 202)

    def _charge_and_refund(self, http: httpx.Client) -> None:
        payment_id = self._charge(http)
        self._reach(http, payment_id, "SUCCEEDED")
        self.refunds.add(str(self._ask(http, f"/payments/{payment_id}/refunds", {"amount": 500}, 201)["refundId"]))

    def _reach(self, http: httpx.Client, payment_id: str, status: str) -> None:
        found: dict[str, Any] = {}
        ends_at = time.monotonic() + SETTLES_S
        while found.get("status") != status:
            assert time.monotonic() < ends_at, f"{payment_id} stays {found.get('status')}, and should be {status}"
            found = self._send(http, "GET", f"/payments/{payment_id}?wait=5", None, {}).json()

    def _ask(self, http: httpx.Client, path: str, body: dict[str, Any], status: int) -> dict[str, Any]:
        answer = self._send(http, "POST", path, body, {"Idempotency-Key": str(uuid4())})
        assert answer.status_code == status, f"{path}: {answer.status_code} {answer.text}"
        return dict(answer.json())

    def _send(
        self, http: httpx.Client, method: str, path: str, body: dict[str, Any] | None, headers: dict[str, str]
    ) -> httpx.Response:
        """The first answer that is final; until then, the same request again."""
        ends_at = time.monotonic() + PATIENCE_S
        while True:
            assert time.monotonic() < ends_at, f"{method} {path}: no answer"
            try:
                answer = http.request(method, path, json=body, headers=headers)
            except httpx.TransportError:
                time.sleep(PAUSE_S)
                continue
            self.answers[answer.status_code] += 1
            if answer.status_code < 500 and not is_retryable(answer):
                return answer
            assert answer.status_code != 500, f"{method} {path}: 500 {answer.text}"
            assert is_retryable(answer), f"{method} {path}: {answer.status_code} {answer.text}"
            time.sleep(PAUSE_S)


def is_retryable(answer: httpx.Response) -> bool:
    """Whether it is a problem document that asks for the same again."""
    if not answer.headers.get("Content-Type", "").startswith("application/problem+json"):
        return False
    return bool(answer.json()["retryable"])


@contextmanager
def shopping(world: World) -> Iterator[Customers]:
    """Customers shop until the block ends; then all that they were promised must be kept, exactly once."""
    with Customers(world) as customers:
        customers.see_more()
        yield customers
        customers.see_more()
    assert customers.wrong == []
    world.agree()
    assert world.dicts("select call_id from payments.stripe_requests where state = 'parked'") == []
    ends = dict(world.system.rows("select payment_id::text, status from payments.payments"))
    assert customers.accepted.keys() <= ends.keys()
    assert customers.refunds <= {row[0] for row in world.system.rows("select refund_id::text from payments.refunds")}
    assert {*ends.values()} <= {"SUCCEEDED", "VOIDED"}
