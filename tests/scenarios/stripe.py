"""Stripe's side of a scenario: faults, time, webhooks, the customer's browser and the bank, all steered over HTTP."""

import fnmatch
import hmac
import json
import time
from hashlib import sha256
from typing import Any

import httpx

CREATE = "/v1/payment_intents"
CAPTURE = "/v1/payment_intents/*/capture"
CANCEL = "/v1/payment_intents/*/cancel"
REFUND = "/v1/refunds"
STEERING_S = 30.0  # a release of webhooks is answered only when all of them are delivered


class Stripe:
    """The sandbox of one running system, under the names of its steering calls."""

    def __init__(self, api_base: str, api_key: str) -> None:
        self.http = httpx.Client(base_url=f"{api_base}/_sandbox", timeout=STEERING_S)
        self._api_base = api_base
        self._api_key = api_key

    def api(self, path: str, **form: str) -> dict[str, Any]:
        """Do something in the same account behind our back, as a person in the Dashboard may."""
        headers = {"Authorization": f"Bearer {self._api_key}"}
        answer = httpx.post(f"{self._api_base}/v1/{path}", data=form, headers=headers)
        assert answer.is_success, answer.text
        return dict(answer.json())

    def reset_steering(self) -> None:
        """No faults, prompt webhooks, real time; what happened stays."""
        self.http.delete("/faults").raise_for_status()
        calm = {"mode": "deliver", "duplicate": 0, "reorder": False, "delay_s": 0.0, "jitter_s": 0.0, "types": None}
        self.webhooks(**calm, retry_base_s=0.2, retry_cap_s=1.0)
        self.http.post("/clock", json={"now": time.time()}).raise_for_status()

    def fault(self, kind: str, cart: str | None = None, path: str = CREATE, **more: Any) -> int:
        """Order a fault for calls about one cart (None: for all calls to the path); returns its id."""
        match = {"method": "POST", "path": path} | ({"metadata": {"cartId": cart}} if cart else {})
        return int(self._post("/faults", {"fault": kind, "match": match, **more})["id"])

    def fault_everywhere(self, kind: str, **more: Any) -> int:
        """Order a fault for every call of the API, until it is withdrawn."""
        return int(self._post("/faults", {"fault": kind, "times": None, **more})["id"])

    def withdraw(self, fault_id: int) -> None:
        self.http.delete(f"/faults/{fault_id}").raise_for_status()

    def fired(self, fault_id: int) -> int:
        """How often an ordered fault was applied."""
        faults = self.http.get("/faults").raise_for_status().json()["faults"]
        return int(next(one["fired"] for one in faults if one["id"] == fault_id))

    def calls(self, payment_id: str | None = None, path: str = CREATE, after: int = 0) -> list[dict[str, Any]]:
        """The POST requests that reached Stripe, oldest first; only creating ones name a payment."""
        query: dict[str, Any] = {"method": "POST", "after": after} | ({"payment_id": payment_id} if payment_id else {})
        answer = self.http.get("/requests", params=query).raise_for_status().json()
        return [one for one in answer["requests"] if fnmatch.fnmatchcase(one["path"], path)]

    def keys(self, payment_id: str) -> set[str]:
        """The idempotency keys under which a payment's PaymentIntent was asked for."""
        return {one["idempotency_key"] for one in self.calls(payment_id)}

    def intents(self, payment_id: str) -> list[dict[str, Any]]:
        """The ledger's lines of one payment."""
        answer = self.http.get("/ledger", params={"payment_id": payment_id}).raise_for_status().json()
        return list(answer["payment_intents"])

    def intent(self, payment_id: str) -> dict[str, Any]:
        """The one PaymentIntent of a payment."""
        (intent,) = self.intents(payment_id)
        return intent

    def ledger(self) -> dict[str, Any]:
        return dict(self.http.get("/ledger").raise_for_status().json())

    def advance(self, seconds: float) -> None:
        """Let time pass at Stripe; what is due by then has happened."""
        self._post("/clock", {"advance_s": seconds})

    def webhooks(self, **steering: Any) -> None:
        """Steer the deliveries of events that happen from now on."""
        self._post("/webhooks", steering)

    def deliveries(self, **query: str) -> list[dict[str, Any]]:
        return list(self.http.get("/webhooks", params=query).raise_for_status().json()["deliveries"])

    def release(self, **which: Any) -> list[dict[str, Any]]:
        """Deliver held webhooks: all, or those of `types`, or `events` in the order given; what came of each."""
        return list(self._post("/webhooks/release", which)["deliveries"])

    def redeliver(self, event_id: str, times: int) -> None:
        self._post("/webhooks/redeliver", {"event": event_id, "times": times})

    def forget_webhooks(self) -> None:
        """What is not delivered yet is lost."""
        self.http.delete("/webhooks").raise_for_status()

    def confirm(self, client_secret: str, payment_method: str | None = "pm_card_visa") -> httpx.Response:
        """The browser confirms with Stripe's own form."""
        body = {"client_secret": client_secret, "payment_method": payment_method}
        return self.http.post("/browser/confirm", json={name: value for name, value in body.items() if value})

    def authenticate(self, intent_id: str, outcome: str) -> httpx.Response:
        """The customer succeeds or fails at 3-D Secure."""
        return self.http.post("/browser/authenticate", json={"payment_intent": intent_id, "outcome": outcome})

    def refund_in_dashboard(self, intent_id: str, amount: int) -> dict[str, Any]:
        return self._post("/refunds", {"payment_intent": intent_id, "amount": amount})

    def tell_refund(self, refund: str, status: str) -> dict[str, Any]:
        """The bank's word on a refund: succeeded or failed."""
        return self._post(f"/refunds/{refund}", {"status": status})

    def open_dispute(self, intent_id: str) -> dict[str, Any]:
        return dict(self._post("/disputes", {"payment_intent": intent_id})["disputes"][-1])

    def close_dispute(self, dispute: str, outcome: str) -> None:
        self._post(f"/disputes/{dispute}", {"outcome": outcome})

    def behave(self, **delays: Any) -> None:
        self._post("/behaviours", delays)

    def _post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        answer = self.http.post(path, json=body)
        assert answer.is_success, answer.text
        return dict(answer.json())


def signed(body: bytes, *secrets: str, at: float | None = None) -> dict[str, str]:
    """The headers with which Stripe delivers a body: one `v1` for each secret that is valid."""
    moment = int(time.time() if at is None else at)
    words = [hmac.new(secret.encode(), f"{moment}.".encode() + body, sha256).hexdigest() for secret in secrets]
    signature = ",".join([f"t={moment}", *(f"v1={word}" for word in words)])
    return {"Stripe-Signature": signature, "Content-Type": "application/json; charset=utf-8"}


def event(kind: str, thing: dict[str, Any], event_id: str, **more: Any) -> bytes:
    """An event's body in the form of Stripe's."""
    body = {"id": event_id, "object": "event", "type": kind, "created": int(time.time()), "livemode": False}
    return json.dumps(body | {"data": {"object": thing}} | more).encode()
