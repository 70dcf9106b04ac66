"""Whatever is asked in whatever order, objects and ledger agree and no money comes from nowhere."""

import json
from typing import Any
from urllib.parse import urlencode

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule

from stripe_sandbox import api, ledger
from stripe_sandbox.forms import decode_form
from stripe_sandbox.sandbox import Sandbox
from stripe_sandbox.settings import Settings
from stripe_sandbox.states import TRANSITIONS
from stripe_sandbox.store import Query
from stripe_sandbox.tokens import TOKENS

AMOUNTS = st.integers(50, 2000)
EXPECTED_STATUSES = {200, 400, 402, 404}


class Money(RuleBasedStateMachine):
    """Random calls, with repeats under the same key."""

    intents = Bundle("intents")

    def __init__(self) -> None:
        super().__init__()
        self.sandbox = Sandbox(Settings("127.0.0.1", 1, ":memory:", "http://127.0.0.1:9/", "whsec_x", None))
        self.number = 0

    def call(self, path: str, params: dict[str, Any]) -> dict[str, Any]:
        self.number += 1
        given = decode_form(urlencode(params))
        request = api.Request("POST", path, given, f"req_{self.number}", f"key-{self.number}")
        first = api.perform(self.sandbox, request)
        assert first.status in EXPECTED_STATUSES
        again = api.perform(self.sandbox, request)
        if first.executed:
            assert (again.status, again.body, again.replayed) == (first.status, first.body, True)
        return dict(json.loads(first.body))

    @rule(
        target=intents,
        amount=AMOUNTS,
        token=st.sampled_from(sorted(TOKENS)),
        how=st.sampled_from(["automatic", "automatic_async", "manual"]),
    )
    def pay(self, amount: int, token: str, how: str) -> str:
        kind = TOKENS[token].kind
        given = {"amount": amount, "currency": "usd", "confirm": "true", "payment_method": token, "capture_method": how}
        body = self.call("/v1/payment_intents", {**given, "allowed_payment_method_types[]": kind})
        body = body.get("error", {}).get("payment_intent", body)
        return str(body["id"])

    @rule(intent=intents, token=st.sampled_from(sorted(TOKENS)))
    def confirm(self, intent: str, token: str) -> None:
        self.call(f"/v1/payment_intents/{intent}/confirm", {"payment_method": token})

    @rule(intent=intents, amount=AMOUNTS)
    def capture(self, intent: str, amount: int) -> None:
        self.call(f"/v1/payment_intents/{intent}/capture", {"amount_to_capture": amount})

    @rule(intent=intents)
    def cancel(self, intent: str) -> None:
        self.call(f"/v1/payment_intents/{intent}/cancel", {})

    @rule(intent=intents, amount=AMOUNTS)
    def refund(self, intent: str, amount: int) -> None:
        self.call("/v1/refunds", {"payment_intent": intent, "amount": amount})

    @rule(intent=intents)
    def refund_all(self, intent: str) -> None:
        self.call("/v1/refunds", {"payment_intent": intent})

    @rule(seconds=st.sampled_from([1, 10, 90_000, 700_000]))
    def wait(self, seconds: int) -> None:
        with self.sandbox.store.transaction():
            self.sandbox.clock.move(self.sandbox.clock.offset_s + seconds)
        self.sandbox.pass_time()
        self.sandbox.prune()

    @invariant()
    def books_agree(self) -> None:
        store = self.sandbox.store
        for record in store.select(Query("payment_intent", limit=1000)):
            line, body = ledger.intent_line(store, record), record.body
            assert ledger.imbalances(line["entries"]) == []
            assert body["status"] in TRANSITIONS
            assert body["amount_received"] == line["amount_captured"]
            assert body["amount_received"] + body["amount_capturable"] <= body["amount"]
            if body["status"] == "requires_capture":
                assert body["amount_capturable"] == body["amount"]
                assert (line["amount_captured"], line["amount_released"]) == (0, 0)
            for charge in store.children("charge", record.id):
                own = ledger.sums(entry for entry in line["entries"] if entry["charge"] == charge.id)
                assert charge.body["amount_captured"] == own["amount_captured"]
                assert charge.body["amount_refunded"] == own["amount_refunded"] + own["amount_released"]
                assert charge.body["amount_refunded"] <= charge.body["amount"]

    def teardown(self) -> None:
        self.sandbox.store.close()


Money.TestCase.settings = settings(max_examples=25, stateful_step_count=25, deadline=None)
TestMoney = Money.TestCase
