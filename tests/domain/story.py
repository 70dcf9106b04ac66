"""A payment's life as Stripe tells it: its words, in any order, and how it has to end."""

from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from payments.domain.payment import Payment
from payments.domain.refunds import Refund
from payments.domain.signals import Signal, read_answer, read_event
from payments.stripe_gateway.api_version import STRIPE_API_VERSION
from tests.domain.stripe_objects import CHARGE, Json, event, refused

CAPTURE_BEFORE = 1_900_500_000


@dataclass(frozen=True)
class Word:
    """A row for the inbox; `because`: it cannot come before our wish."""

    source: str
    kind: str
    payload: Json
    because: bool = False

    @property
    def signal(self) -> Signal:
        if self.source == "stripe-webhook":
            signal = read_event(self.payload, livemode=False, account=None, api_version=STRIPE_API_VERSION)
            assert isinstance(signal, Signal)
            return signal
        return read_answer(self.payload)


@dataclass
class Story:
    """`refunds` ours, asked for before; `ends_refunds` what every refund ends as: (amount, status, external)."""

    name: str
    payment_id: UUID
    capture_method: str = "automatic"
    payment_method: str | None = "pm_card_visa"
    refunds: list[UUID] = field(default_factory=list)
    refund_amount: int = 400
    wish: str | None = None  # "capture 400", "void"
    capture_id: UUID | None = None
    words: list[Word] = field(default_factory=list)
    truth: dict[str, Json] = field(default_factory=dict)  # Stripe's objects as they are at the end of the story
    before: dict[str, Json] = field(default_factory=dict)  # and as they are until our wish is made
    is_paid: bool = False  # it has SUCCEEDED when the story begins
    ends_as: str = "SUCCEEDED"
    captured: int = 1000
    ends_refunds: list[tuple[int, str, bool]] = field(default_factory=list)
    disputed: bool = False
    published: list[str] = field(default_factory=list)  # those that must be told, once
    cancels: bool = False  # the worker must have been told to cancel

    def payment(self) -> Payment:
        return Payment(
            payment_id=self.payment_id,
            order_id=self.payment_id,
            amount=1000,
            currency="EUR",
            capture_method=self.capture_method,
            payment_method=self.payment_method,
        )

    def asked_refunds(self) -> list[Refund]:
        return [
            Refund(refund_id=refund_id, payment_id=self.payment_id, amount=self.refund_amount, currency="EUR")
            for refund_id in self.refunds
        ]

    def shown(self, *, wished: bool) -> dict[str, Json]:
        """What Stripe shows to whoever asks."""
        return self.truth if wished or self.wish is None else self.truth | self.before

    def tell(self, kind: str, thing: Json, *, because: bool = False) -> None:
        """An event; the object is what Stripe shows from now on, its charge expanded."""
        self.words.append(Word("stripe-webhook", kind, event(kind, thing), because=because))
        self.truth[thing["id"]] = thing

    def answer(self, payload: Json, *, because: bool = False, subject: UUID | None = None) -> None:
        payload = {**payload, "subjectId": str(subject or self.payment_id)}
        self.words.append(Word("stripe-api", f"api.{payload['operation']}", payload, because=because))


def expanded(thing: Json, **charge: Any) -> Json:
    """A PaymentIntent as answers and fetches show it: with its charge inside."""
    card = {"type": "card", "card": {"capture_before": CAPTURE_BEFORE}}
    inside = {"id": CHARGE, "object": "charge", "status": "succeeded", "payment_method_details": card, **charge}
    return {**thing, "latest_charge": inside}


def said_no(operation: str, inside: Json | None, code: str = "payment_intent_unexpected_state") -> Json:
    error: Json = {"type": "invalid_request_error", "code": code, "message": "no"}
    if inside is not None:
        error["payment_intent"] = inside
    return {**refused(error), "operation": operation}
