"""Lives of a PaymentIntent as Stripe may lead them, for tests that hear of them in every order.

A life is what was true, one snapshot after the other, and who said what about it: the answer to the create call, and an
event for each step. What happens in a browser begins with a client secret that only we hand out, and only once the
payment is ACTION_REQUIRED: so those events (`from_browser`) never reach us before any word that led there.
"""

from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from hypothesis import strategies as st

from payments.domain.payment import Payment
from payments.domain.signals import (
    CreateDeclined,
    IntentSeen,
    Signal,
    SomethingElse,
    read_answer,
    read_event,
)
from payments.stripe_gateway.api_version import STRIPE_API_VERSION
from tests.domain.stripe_objects import (
    AUTHENTICATION_FAILURE,
    CHARGE,
    INSUFFICIENT_FUNDS,
    Json,
    answered,
    declined,
    event,
    intent,
)

PAYMENT = UUID("01890000-0000-7000-8000-000000000001")
CAPTURE_BEFORE = 1_900_500_000

_KINDS = {
    "processing": "payment_intent.processing",
    "requires_action": "payment_intent.requires_action",
    "requires_payment_method": "payment_intent.payment_failed",
    "requires_capture": "payment_intent.amount_capturable_updated",
    "succeeded": "payment_intent.succeeded",
    "canceled": "payment_intent.canceled",
}


@dataclass(frozen=True)
class Word:
    """One thing that Stripe says: a row for the inbox, when it was said, and what it takes to have been said."""

    source: str
    kind: str
    payload: Json
    step: int  # index into the life's snapshots: it cannot be said earlier
    from_browser: bool = False
    hands_out_secret: bool = False

    @property
    def signal(self) -> Signal:
        if self.source == "stripe-webhook":
            signal = read_event(self.payload, livemode=False, account=None, api_version=STRIPE_API_VERSION)
            assert isinstance(signal, IntentSeen | SomethingElse)
            return signal
        answer = read_answer(self.payload)
        assert isinstance(answer, IntentSeen | CreateDeclined)
        return answer


@dataclass
class Life:
    """What was true of a PaymentIntent, in order, and all that was said."""

    is_manual: bool
    is_attended: bool  # no payment method was known: a browser has to finish it
    snapshots: list[Json] = field(default_factory=list)
    words: list[Word] = field(default_factory=list)

    def payment(self, payment_id: UUID = PAYMENT) -> Payment:
        return Payment(
            payment_id=payment_id,
            order_id=payment_id,
            amount=1000,
            currency="EUR",
            capture_method="manual" if self.is_manual else "automatic",
            payment_method=None if self.is_attended else "pm_card_visa",
        )

    @property
    def ends_as(self) -> str:
        """The payment's status at the end of all this, from what is true alone."""
        last = self.snapshots[-1]
        match last["status"]:
            case "succeeded":
                return "SUCCEEDED"
            case "canceled":
                return "EXPIRED" if last["cancellation_reason"] == "automatic" else "VOIDED"
            case "requires_capture":
                return "AUTHORIZED"
            case "processing":
                return "PROCESSING"
            case "requires_payment_method" if not self.is_attended and not self.was_asked:
                return "FAILED"
            case _:
                return "ACTION_REQUIRED"

    @property
    def was_asked(self) -> bool:
        return any(snapshot["status"] == "requires_action" for snapshot in self.snapshots)

    def say(self, source: str, kind: str, payload: Json, **marks: Any) -> None:
        self.words.append(Word(source, kind, payload, len(self.snapshots) - 1, **marks))


def _next_statuses(life: Life, status: str) -> list[str]:
    paid = "requires_capture" if life.is_manual else "succeeded"
    return {
        "requires_payment_method": ["requires_action", "processing", paid, "requires_payment_method", "canceled"],
        "requires_action": ["requires_payment_method", "processing", paid, "canceled"],
        "processing": ["requires_payment_method", paid],
        "requires_capture": ["succeeded", "canceled"],
    }.get(status, [])


@st.composite
def lives(draw: st.DrawFn, payment_id: UUID = PAYMENT, intent_id: str | None = None) -> Life:
    """Any life of at most eight steps."""
    life = Life(is_manual=draw(st.booleans()), is_attended=draw(st.booleans()))
    common: Json = {"capture_method": "manual" if life.is_manual else "automatic_async"}
    if intent_id is not None:
        common["id"] = intent_id

    def become(status: str, **fields: Any) -> Json:
        life.snapshots.append(intent(payment_id, status, **{**common, **fields}))
        return life.snapshots[-1]

    first = become("requires_payment_method" if life.is_attended else "requires_confirmation")
    life.say("stripe-webhook", "payment_intent.created", event("payment_intent.created", first))
    if life.is_attended:
        answer = first
    else:
        paid = "requires_capture" if life.is_manual else "succeeded"
        status = draw(st.sampled_from([paid, "requires_action", "processing", "requires_payment_method"]))
        refusal = {"last_payment_error": INSUFFICIENT_FUNDS} if status == "requires_payment_method" else {}
        answer = become(status, **refusal)
        life.say(
            "stripe-webhook",
            _KINDS[status],
            event(_KINDS[status], answer),
            hands_out_secret=status == "requires_action",
        )
    _say_answer(life, answer)
    for _ in range(draw(st.integers(0, 6))):
        _step(draw, life, become)
    return life


def _say_answer(life: Life, answer: Json) -> None:
    asks = answer["status"] == "requires_action"
    if answer["last_payment_error"]:
        life.say("stripe-api", "api.create_payment_intent", declined(answer))
        return
    if answer["status"] == "requires_capture":  # answers have the charge inside, events its id
        card = {"type": "card", "card": {"capture_before": CAPTURE_BEFORE}}
        answer = {**answer, "latest_charge": {"id": CHARGE, "object": "charge", "payment_method_details": card}}
    life.say("stripe-api", "api.create_payment_intent", answered(answer), hands_out_secret=asks)


def _step(draw: st.DrawFn, life: Life, become: Any) -> None:
    status = life.snapshots[-1]["status"]
    nobody_left = not life.is_attended and not life.was_asked
    if nobody_left and status == "requires_payment_method":
        return  # declined, and no browser has the secret
    ways = _next_statuses(life, status)
    if not ways:
        return
    chosen = draw(st.sampled_from(ways))
    fields: Json = {}
    if chosen == "requires_payment_method":
        fields["last_payment_error"] = draw(
            st.sampled_from([INSUFFICIENT_FUNDS, AUTHENTICATION_FAILURE])
            if status == "requires_action"
            else st.just(INSUFFICIENT_FUNDS)
        )
    if chosen == "canceled" and status == "requires_capture":
        fields["cancellation_reason"] = draw(st.sampled_from(["automatic", "requested_by_customer"]))
        fields["latest_charge"] = CHARGE
    if chosen == "succeeded" and life.is_manual:
        fields["amount_received"] = draw(st.sampled_from([1000, 400]))
    snapshot = become(chosen, **fields)
    life.say(
        "stripe-webhook",
        _KINDS[chosen],
        event(_KINDS[chosen], snapshot),
        from_browser=life.was_asked and not life.is_attended,
    )


def possible_order(words: list[Word]) -> list[Word]:
    """The same order, except that no word from the browser comes before one that let the browser act."""
    first_secret = next((n for n, word in enumerate(words) if word.hands_out_secret), None)
    if first_secret is None:
        return words
    secret = words[first_secret]
    early = next((n for n, word in enumerate(words) if word.from_browser), None)
    if early is None or early > first_secret:
        return words
    rest = words[:first_secret] + words[first_secret + 1 :]
    return [*rest[:early], secret, *rest[early:]]
