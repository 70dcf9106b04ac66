"""Payments that live at random: a Hypothesis state machine over a running system, Stripe's side and faults included.

Each rule is one act of somebody: the shop, the customer, a person in the Dashboard, the bank, the network, or whoever
kills processes. Nothing waits for what follows from it, but for `settle`. In every step no money has moved twice and no
state was left illegally; at the end of an example all faults end, everything comes to rest, and all books are compared.
"""

import contextlib
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from typing import Any, TypeVar
from uuid import uuid4

import httpx
import psycopg
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, precondition, rule

from payments.domain.states import PaymentStatus, may_change
from tests.scenarios.stripe import CANCEL, CAPTURE, CREATE, REFUND, Stripe, event, signed
from tests.scenarios.world import World
from tests.stateful.aging import a_day_passes
from tests.system.running import System

T = TypeVar("T")
AMOUNT = 2_000
PATIENCE_S = 60.0  # a process that was killed is back within a second or two; a database connection may hang longer
REST_S = 90.0  # leases, turns and pauses of whoever died run out within
VISA, NO_CARD = "pm_card_visa", "no card"
CARDS = (
    VISA,
    NO_CARD,
    "pm_card_visa_chargeDeclined",
    "pm_card_visa_chargeDeclinedInsufficientFunds",
    "pm_card_authenticationRequired",
    "pm_card_pendingRefund",
    "pm_card_refundFail",
    "pm_card_createDispute",
)
PARTS = {"all": AMOUNT, "half": AMOUNT // 2, "a third": AMOUNT // 3, "too much": AMOUNT + 1}
PROCESSES = ("api", "relay", "relay.2", "worker", "worker.2", "sandbox")
FREEZABLE = ("relay", "relay.2", "worker", "worker.2")
CALLS = {"create": CREATE, "capture": CAPTURE, "cancel": CANCEL, "refund": REFUND}
FAULTS: dict[str, dict[str, Any]] = {
    "never arrived": {"kind": "before_executing"},
    "answer lost": {"kind": "after_executing"},
    "answer cut": {"kind": "mid_body"},
    "429": {"kind": "status", "status": 429},
    "409": {"kind": "status", "status": 409},
    "late": {"kind": "slow", "delay_s": 2.5, "when": "after"},
}
WEBHOOKS: dict[str, dict[str, Any]] = {
    "calm": {},
    "held": {"mode": "hold"},
    "dropped": {"mode": "drop"},
    "thrice": {"duplicate": 2},
    "in any order": {"reorder": True, "jitter_s": 1.0},
    "late": {"delay_s": 1.0, "jitter_s": 1.0},
}
CALM = {"mode": "deliver", "duplicate": 0, "reorder": False, "delay_s": 0.0, "jitter_s": 0.0}

payments = Bundle("payments")
parts = st.sampled_from(list(PARTS))


def patiently(do: Callable[..., T], *values: Any) -> T:
    """What `do` gives, once the process that it asks is there: any may have been killed a moment ago."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            return do(*values)
        except (httpx.TransportError, psycopg.OperationalError):
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


def _signal(pid: int | None, number: signal.Signals) -> None:
    """To a process that may be dead already."""
    if pid is not None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


class Lives(RuleBasedStateMachine):
    """The payments of one example; the system outlives it.

    What may come next depends on the rules before, never on what the system made of them: so that it can be repeated.
    """

    def __init__(self, system: System, stripe: Stripe) -> None:
        super().__init__()
        self.stripe = stripe
        self.world = patiently(lambda: World(system, stripe))
        self.bodies: dict[str, dict[str, Any]] = {}
        self.refunds: dict[str, int] = {}  # those that were answered 201
        self.frozen: dict[str, int | None] = {}
        self.had_500 = self.had_a_day = False

    # ---- the shop

    def ask(self, path: str, body: dict[str, Any], wait_s: int = 0, key: str | None = "new") -> httpx.Response:
        """The answer that is not a 503; repeated under its key."""
        headers = {"Idempotency-Key": str(uuid4()) if key == "new" else key} if key else {}
        headers |= {"Prefer": f"wait={wait_s}"} if wait_s else {}
        deadline = time.monotonic() + PATIENCE_S
        while True:
            answer = patiently(lambda: self.world.http.post(path, json=body, headers=headers))
            is_passing = answer.status_code == 503 or (answer.status_code == 409 and answer.json().get("retryable"))
            if not is_passing or time.monotonic() > deadline:
                assert answer.status_code < 500, answer.text
                return answer
            time.sleep(0.1)

    @rule(target=payments, card=st.sampled_from(CARDS), hold=st.booleans(), wait_s=st.sampled_from([0, 2]))
    def authorize(self, card: str, hold: bool, wait_s: int) -> str:  # noqa: FBT001
        body = {"cartId": str(uuid4()), "orderId": str(uuid4()), "amount": AMOUNT, "currency": "EUR"}
        body |= {"captureMethod": "manual" if hold else "automatic"} | (
            {} if card == NO_CARD else {"paymentMethod": card}
        )
        answer = self.ask("/payments/authorize", body, wait_s)
        assert answer.status_code in ({201, 402} if "chargeDeclined" in card else {201}), answer.text
        payment_id = str(answer.json()["paymentId"])
        self.bodies[payment_id] = body
        return payment_id

    @initialize(target=payments, fault=st.sampled_from(list(FAULTS)), hooks=st.sampled_from(list(WEBHOOKS)))
    def authorize_while_stripe_fails(self, fault: str, hooks: str) -> str:
        """So that every example has a payment, and a call that has to be made again, often before anybody tells."""
        self.webhooks_are(how=hooks)
        self.fault_at_stripe(fault=fault, call="create", times=1)
        return self.authorize(card=VISA, hold=True, wait_s=2)

    @rule(payment=payments, other_amount=st.booleans())
    def authorize_same_cart_again(self, payment: str, other_amount: bool) -> None:  # noqa: FBT001
        body = self.bodies[payment] | ({"amount": AMOUNT + 1} if other_amount else {})
        answer = self.ask("/payments/authorize", body, key=None)
        assert answer.status_code in {200, 201, 409}, answer.text
        assert answer.status_code == 409 or answer.json()["amount"] == body["amount"], answer.text
        if answer.status_code == 201:  # the first has ended without money
            self.bodies[str(answer.json()["paymentId"])] = body

    @rule(payment=payments, part=parts)
    def capture(self, payment: str, part: str) -> None:
        answer = self.ask(f"/payments/{payment}/capture", {"amount": PARTS[part]})
        assert answer.status_code in {202, 400, 409}, answer.text

    @rule(payment=payments)
    def void(self, payment: str) -> None:
        assert self.ask(f"/payments/{payment}/void", {}).status_code in {202, 409}

    @rule(payment=payments, part=parts)
    def refund(self, payment: str, part: str) -> None:
        answer = self.ask(f"/payments/{payment}/refunds", {"amount": PARTS[part]})
        assert answer.status_code in {201, 400, 409}, answer.text
        if answer.status_code == 201:
            self.refunds[answer.json()["refundId"]] = PARTS[part]

    @rule(payment=payments)
    def settle(self, payment: str) -> None:
        """Look at the payment until it is at rest, or for three seconds."""
        with contextlib.suppress(httpx.TransportError):
            self.world.http.get(f"/payments/{payment}", params={"wait": 3})

    # ---- the customer, the Dashboard and the bank

    def at_stripe(self, payment: str, do: Callable[[dict[str, Any]], object]) -> None:
        """Does something to the payment's PaymentIntent, if there is one; Stripe may refuse."""
        for intent in patiently(lambda: self.stripe.intents(payment)):
            with contextlib.suppress(AssertionError, LookupError):  # refused
                patiently(lambda: do(intent))  # noqa: B023

    @rule(payment=payments, card=st.sampled_from([VISA, "pm_card_visa_chargeDeclined"]))
    def confirm_in_browser(self, payment: str, card: str) -> None:
        action = patiently(lambda: self.world.payment(payment))["nextAction"] or {}
        if "clientSecret" in action:
            patiently(lambda: self.stripe.confirm(action["clientSecret"], card))

    @rule(payment=payments, outcome=st.sampled_from(["succeed", "fail"]))
    def authenticate(self, payment: str, outcome: str) -> None:
        self.at_stripe(payment, lambda intent: self.stripe.authenticate(intent["id"], outcome))

    @rule(payment=payments, part=parts)
    def refund_in_dashboard(self, payment: str, part: str) -> None:
        self.at_stripe(payment, lambda intent: self.stripe.refund_in_dashboard(intent["id"], PARTS[part]))

    @rule(payment=payments, act=st.sampled_from(["capture", "cancel"]))
    def act_in_dashboard(self, payment: str, act: str) -> None:
        self.at_stripe(payment, lambda intent: self.stripe.api(f"payment_intents/{intent['id']}/{act}"))

    @rule(payment=payments, outcome=st.sampled_from(["won", "lost", "still open"]))
    def dispute(self, payment: str, outcome: str) -> None:
        def open_and_close(intent: dict[str, Any]) -> None:
            opened = self.stripe.open_dispute(intent["id"])
            if outcome != "still open":
                self.stripe.close_dispute(opened["id"], outcome)

        self.at_stripe(payment, open_and_close)

    # ---- what goes wrong

    @rule(process=st.sampled_from(PROCESSES))
    def kill(self, process: str) -> None:
        _signal(self.world.system.pid(process), signal.SIGKILL)

    @rule(process=st.sampled_from(FREEZABLE))
    def freeze(self, process: str) -> None:
        pid = self.frozen[process] = self.frozen.get(process) or self.world.system.pid(process)
        _signal(pid, signal.SIGSTOP)

    @precondition(lambda self: self.frozen)
    @rule()
    def thaw(self) -> None:
        self._thaw()

    def _thaw(self) -> None:
        for pid in self.frozen.values():
            _signal(pid, signal.SIGCONT)
        self.frozen.clear()

    @rule(fault=st.sampled_from(list(FAULTS)), call=st.sampled_from(list(CALLS)), times=st.integers(1, 2))
    def fault_at_stripe(self, fault: str, call: str, times: int) -> None:
        patiently(lambda: self.stripe.fault(path=CALLS[call], times=times, **FAULTS[fault]))

    @precondition(lambda self: not self.had_500)  # two for one wish, and it is parked for an operator
    @rule(call=st.sampled_from(list(CALLS)), executed=st.booleans())
    def error_500_at_stripe(self, call: str, executed: bool) -> None:  # noqa: FBT001
        self.had_500 = True
        patiently(lambda: self.stripe.fault("status", path=CALLS[call], status=500, executed=executed))

    @rule(how=st.sampled_from(list(WEBHOOKS)))
    def webhooks_are(self, how: str) -> None:
        patiently(lambda: self.stripe.webhooks(**CALM | WEBHOOKS[how]))

    @rule(order=st.integers(0, 9))
    def release_held_webhooks(self, order: int) -> None:
        held = patiently(lambda: self.stripe.deliveries(status="held"))
        random.Random(order).shuffle(held)
        patiently(lambda: self.stripe.release(deliveries=[one["id"] for one in held], wait=False))

    @rule(payment=payments, number=st.integers(0, 5))
    def deliver_old_webhook_again(self, payment: str, number: int) -> None:
        intents = patiently(lambda: self.stripe.intents(payment))
        told = [one for intent in intents for one in patiently(lambda: self.stripe.deliveries(object=intent["id"]))]  # noqa: B023
        if told:
            patiently(lambda: self.stripe.redeliver(told[number % len(told)]["event"], 2))

    @rule(payment=payments, kind=st.sampled_from(["succeeded", "canceled", "amount_capturable_updated"]))
    def forge_webhook(self, payment: str, kind: str) -> None:
        event_id = f"evt_forged_{uuid4().hex}"
        thing = {"id": "pi_forged", "object": "payment_intent", "status": kind, "metadata": {"paymentId": payment}}
        body = event(f"payment_intent.{kind}", thing, event_id)
        answer = patiently(lambda: self.world.deliver(body, signed(body, "whsec_of_somebody_else")))
        assert answer.status_code in {400, 503}, answer.text
        assert patiently(lambda: self.world.inbox(event_id)) == {}

    @precondition(lambda self: self.bodies and not self.had_a_day)
    @rule()
    def day_passes(self) -> None:
        self.had_a_day = True
        self._thaw()
        patiently(lambda: a_day_passes(self.world, list(self.bodies)))

    # ---- what must be true

    @invariant()
    def books_hold(self) -> None:
        if not self.bodies:
            return
        for payment_id in self.bodies:
            self._no_money_moves_twice(payment_id)
        query = """select payment_id, from_status, to_status from payments.payment_history
            where payment_id = any(%s) and from_status <> to_status"""
        for payment_id, before, after in patiently(lambda: self.world.system.rows(query, list(self.bodies))):
            assert may_change(PaymentStatus(before), PaymentStatus(after)), f"{payment_id}: {before} to {after}"

    def _no_money_moves_twice(self, payment_id: str) -> None:
        intents = patiently(lambda: self.stripe.intents(payment_id))
        assert len(intents) <= 1, f"{payment_id} has {len(intents)} PaymentIntents"
        for intent in intents:
            acts = [entry["act"] for entry in intent["entries"]]
            assert max(acts.count("authorize"), acts.count("capture")) <= 1, acts
            assert intent["amount_refunded"] <= intent["amount_captured"] <= intent["amount"], intent

    def teardown(self) -> None:
        """Faults end, all comes to rest, and every book is held against every other."""
        has_failed = sys.exc_info()[0] is not None
        self._thaw()
        patiently(self.stripe.http.delete, "/faults")
        patiently(lambda: self.stripe.webhooks(**CALM))
        patiently(lambda: self.stripe.release(wait=False))
        if self.bodies and not has_failed:
            self.world.agree(deadline_s=REST_S)
            query = "select refund_id::text, amount from payments.refunds where refund_id = any(%s)"
            known = dict(self.world.system.rows(query, list(self.refunds)))
            assert known == self.refunds, "each refund that was answered 201 is there"
