"""Leads a sandbox, inside the test's own process, through every call and every way a payment's life can go there.

What comes of it (answers, errors, the objects and events left behind) is what other tests hold against Stripe's shapes.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode

from stripe_sandbox import api, browser, disputes
from stripe_sandbox.errors import StripeError
from stripe_sandbox.forms import decode_form
from stripe_sandbox.routes import Route, find_route
from stripe_sandbox.sandbox import Sandbox
from stripe_sandbox.settings import API_VERSION, Settings
from stripe_sandbox.store import Query
from stripe_sandbox.tokens import TOKENS

Json = dict[str, Any]
LATER_S = 60
# Longer than any hold.
MUCH_LATER_S = 8 * 24 * 3600
CAPTURE_METHODS = ("automatic", "automatic_async", "manual")
KINDS = (
    "payment_intent", "charge", "refund", "dispute", "radar.early_fraud_warning", "balance_transaction", "customer",
    "payment_method", "event",
)  # fmt: skip


def pattern(route: Route) -> str:
    """A route by its method and its path's pattern."""
    return f"{route.method} {route.pattern.pattern}"


@dataclass(frozen=True)
class Answer:
    """What came back from a call; `path` is the route's method and pattern, empty when there is no such call."""

    path: str
    status: int
    body: Json


def _template(method: str, path: str) -> str:
    try:
        return pattern(find_route(method, path)[0])
    except StripeError:
        return ""


@dataclass
class EveryLife:
    """A sandbox and every answer it gave."""

    sandbox: Sandbox = field(
        default_factory=lambda: Sandbox(Settings("127.0.0.1", 1, ":memory:", "http://127.0.0.1:9/", "whsec_x", None))
    )
    answers: list[Answer] = field(default_factory=list)

    def call(self, method: str, path: str, form: str = "", /, **params: Any) -> Json:
        """The answer's body, whatever its status."""
        given = decode_form(form + urlencode(params))
        number = len(self.answers)
        request = api.Request(method, path, given, f"req_{number}", f"key-{number}", API_VERSION)
        answer = api.perform(self.sandbox, request)
        body: Json = json.loads(answer.body)
        self.answers.append(Answer(_template(method, path), answer.status, body))
        return body

    def wait(self, seconds: float = LATER_S) -> None:
        """Let time pass, and what is due happen."""
        with self.sandbox.store.transaction():
            self.sandbox.clock.move(self.sandbox.clock.offset_s + seconds)
        self.sandbox.pass_time()

    def objects(self) -> Iterator[Json]:
        """Everything the sandbox holds, events and the snapshots inside them included."""
        for kind in KINDS:
            for record in self.sandbox.store.select(Query(kind, limit=100_000)):
                yield record.body
                if kind == "event":
                    yield record.body["data"]["object"]

    def live(self) -> None:
        """Every way of a payment's life."""
        for token in TOKENS:
            for capture_method in CAPTURE_METHODS:
                self.pay(token, capture_method)
        self.save_methods()
        self.decide_disputes()
        self.wait(MUCH_LATER_S)
        self.read()

    def pay(self, token: str, capture_method: str) -> None:
        """Pay with a test payment method, and do with the payment all that can be done."""
        given = {"amount": 1000, "currency": "usd", "confirm": "true", "payment_method": token}
        form = f"allowed_payment_method_types[]={TOKENS[token].kind}&"
        for rest in ("capture", "capture part", "cancel", "expire"):
            body = self.call("POST", "/v1/payment_intents", form, **given, capture_method=capture_method)
            intent = body.get("error", {}).get("payment_intent", body)["id"]
            path = f"/v1/payment_intents/{intent}"
            if body.get("status") == "requires_action":
                outcome = rest != "cancel"
                if rest != "expire":
                    browser.authenticate(self.sandbox, intent, succeeds=outcome)
            if rest.startswith("capture"):
                self.call("POST", f"{path}/capture", **({"amount_to_capture": 600} if rest == "capture part" else {}))
            elif rest == "cancel":
                self.call("POST", f"{path}/cancel", cancellation_reason="abandoned")
            self.call("POST", "/v1/refunds", payment_intent=intent, amount=100, reason="requested_by_customer")
            self.wait()
            self.call("POST", "/v1/refunds", payment_intent=intent)
            self.call("POST", f"{path}/confirm", payment_method="pm_card_visa", return_url="https://example.com")

    def save_methods(self) -> None:
        """Customers, and payment methods of theirs."""
        customer = self.call("POST", "/v1/customers", payment_method="pm_card_visa", email="jenny@example.com")["id"]
        self.call("POST", f"/v1/customers/{customer}", name="Jenny")
        (method,) = self.call("GET", f"/v1/customers/{customer}/payment_methods")["data"]
        given = {"amount": 1000, "currency": "eur", "confirm": "true", "off_session": "true", "customer": customer}
        self.call("POST", "/v1/payment_intents", **given, payment_method=method["id"], capture_method="manual")
        self.call("POST", "/v1/payment_methods/pm_card_mastercard/attach", customer=customer)
        self.call("POST", f"/v1/payment_methods/{method['id']}/detach")
        self.call("GET", "/v1/payment_methods", customer=customer)
        asks = self.call("POST", "/v1/payment_methods/pm_card_authenticationRequired/attach", customer=customer)["id"]
        self.call("POST", "/v1/payment_intents", **given, payment_method=asks)
        form = "automatic_payment_methods[enabled]=true&automatic_payment_methods[allow_redirects]=never&"
        given = {"amount": 1000, "currency": "usd", "confirm": "true", "payment_method": "pm_card_threeDSecureRequired"}
        self.call("POST", "/v1/payment_intents", form, **given, return_url="https://example.com/back")

    def decide_disputes(self) -> None:
        """Evidence, verdicts and inquiries."""
        found = self.call("GET", "/v1/disputes", limit=100)["data"]
        for number, dispute in enumerate(found):
            path = f"/v1/disputes/{dispute['id']}"
            if dispute["status"] == "warning_needs_response":
                with self.sandbox.store.transaction():
                    record = self.sandbox.store.must("dispute", dispute["id"])
                    act = disputes.escalate if number % 2 else disputes.review
                    act(self.sandbox.call(), record)
            evidence = ("winning_evidence", "losing_evidence")[number % 2]
            self.call(
                "POST", path, **{"evidence[uncategorized_text]": evidence, "submit": "true" if number % 3 else "false"}
            )
            self.wait()
            self.call("POST", f"{path}/close")

    def read(self) -> None:
        """Every call that only reads, with what it can expand, and each way to be refused."""
        for noun in ("payment_intents", "charges", "refunds", "disputes", "radar/early_fraud_warnings", "events",
                     "balance_transactions"):  # fmt: skip
            page = self.call("GET", f"/v1/{noun}", limit=3)
            self.call("GET", f"/v1/{noun}/{page['data'][0]['id']}")
            self.call("GET", f"/v1/{noun}/no_such_id")
            self.call("GET", f"/v1/{noun}", limit=0)
        for record in self.sandbox.store.select(Query("customer")):
            self.call("GET", f"/v1/customers/{record.id}")
        refund = self.call("GET", "/v1/refunds")["data"][0]["id"]
        self.call("POST", f"/v1/refunds/{refund}", **{"metadata[case]": "7"})
        self.call("POST", f"/v1/refunds/{refund}/cancel")
        self.call("GET", "/v1/payment_methods/pm_card_visa")
        for path in ("latest_charge.balance_transaction", "payment_method", "customer", "latest_charge.refunds"):
            self.call("GET", "/v1/payment_intents", f"expand[]=data.{path}", limit=50)
        for path in ("charge", "payment_intent", "balance_transaction", "failure_balance_transaction"):
            self.call("GET", "/v1/refunds", f"expand[]=data.{path}", limit=50)
        self.call("GET", "/v1/balance_transactions", "expand[]=data.source", limit=50)
        self.call("POST", "/v1/payment_intents", amount=1, currency="usd")
        self.call("POST", "/v1/payment_intents", amount=1000)
        self.call("GET", "/v1/no_such_thing")
