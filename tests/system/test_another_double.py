"""The service against a Stripe double that is not ours: few fields, nothing expanded, webhooks of no API version."""

import hashlib
import hmac
import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar
from urllib.parse import parse_qs
from uuid import uuid4

import httpx
import pytest

from tests.system.running import System, payments_up

SECRET = "whsec_another_double"
OTHER_SECRET = "whsec_rotated_away"


class Double(BaseHTTPRequestHandler):
    """Charges every card at once and keeps what it did; `amount` 66600 is refused as declined."""

    protocol_version = "HTTP/1.1"
    intents: ClassVar[dict[str, dict[str, Any]]] = {}
    by_key: ClassVar[dict[str, str]] = {}

    def do_POST(self) -> None:
        form = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
        key = self.headers["Idempotency-Key"]
        if key not in self.by_key:
            intent = self._intent({name: values[0] for name, values in form.items()})
            self.intents[intent["id"]] = intent
            self.by_key[key] = intent["id"]
        self._answer(self.intents[self.by_key[key]])

    def do_GET(self) -> None:
        self._answer(self.intents[self.path.split("?")[0].rsplit("/", 1)[1]])

    @staticmethod
    def _intent(form: dict[str, str]) -> dict[str, Any]:
        intent = {
            "id": f"pi_{uuid4().hex}",
            "object": "payment_intent",
            "amount": int(form["amount"]),
            "currency": form["currency"],
            "status": "succeeded",
            "latest_charge": f"ch_{uuid4().hex}",
            "metadata": {name[9:-1]: value for name, value in form.items() if name.startswith("metadata[")},
        }
        if intent["amount"] == 66600:
            intent |= {"status": "requires_payment_method", "latest_charge": None}
        return intent

    def _answer(self, intent: dict[str, Any]) -> None:
        declined = intent["status"] != "succeeded" and self.command == "POST"
        error = {"type": "card_error", "code": "card_declined", "decline_code": "do_not_honor", "message": "No."}
        body = json.dumps({"error": error} if declined else intent).encode()
        self.send_response(402 if declined else 200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def double() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Double)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def system(double: str) -> Iterator[System]:
    secrets = f"{OTHER_SECRET},{SECRET}"
    key = "sk_test_another_double"
    with payments_up(STRIPE_API_KEY=key, STRIPE_API_BASE=double, STRIPE_WEBHOOK_SECRETS=secrets) as running:
        yield running


def authorize(system: System, amount: int) -> httpx.Response:
    body = {"cartId": str(uuid4()), "amount": amount, "currency": "EUR", "paymentMethod": "pm_card_visa"}
    return system.http.post("/payments/authorize", json=body, headers={"Prefer": "wait=20"})


def deliver(system: System, event: dict[str, Any]) -> httpx.Response:
    """Send a webhook as Stripe signs it."""
    body, moment = json.dumps(event).encode(), int(time.time())
    signature = hmac.new(SECRET.encode(), f"{moment}.".encode() + body, hashlib.sha256).hexdigest()
    headers = {"Stripe-Signature": f"t={moment},v1={signature}", "Content-Type": "application/json"}
    return httpx.post(f"{system.env['API_URL']}/webhooks/stripe", content=body, headers=headers)


def test_no_sandbox_runs_beside_a_stripe_that_was_named(system: System, double: str) -> None:
    assert system.env["STRIPE_API_BASE"] == double
    assert system.pid("sandbox") is None


def test_sparse_answers_suffice(system: System) -> None:
    payment = authorize(system, 1200).json()
    assert (payment["status"], payment["amountCaptured"]) == ("SUCCEEDED", 1200)
    (intent,) = [one for one in Double.intents.values() if one["metadata"]["paymentId"] == payment["paymentId"]]
    assert payment["processorReference"] == intent["latest_charge"]


def test_a_decline_without_its_intent_is_a_decline(system: System) -> None:
    answer = authorize(system, 66600)
    assert (answer.status_code, answer.json()["declineCode"]) == (402, "do_not_honor")


def test_an_event_of_no_version_is_a_hint_and_the_object_is_fetched(
    system: System, eventually: Callable[..., Any]
) -> None:
    payment = authorize(system, 1300).json()
    (intent,) = [one for one in Double.intents.values() if one["metadata"]["paymentId"] == payment["paymentId"]]
    event_id = f"evt_{uuid4().hex}"
    lying = intent | {"amount": 1}  # what a hint says of the object is not relied on
    event = {"id": event_id, "object": "event", "type": "payment_intent.succeeded", "livemode": False}
    answer = deliver(system, event | {"created": int(time.time()), "data": {"object": lying}})
    assert answer.status_code == 200
    outcome = "select outcome from payments.inbox where message_id = %s"
    eventually(lambda: system.rows(outcome, event_id) == [("superseded",)])
    fetched = "select outcome from payments.inbox where source = 'reconciler' and payment_id = %s"
    eventually(lambda: system.rows(fetched, payment["paymentId"]) == [("ignored",)])
    assert system.http.get(f"/payments/{payment['paymentId']}").json()["status"] == "SUCCEEDED"
