"""The recorder without a database: one payment with its refunds and disputes, and what came of each signal."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import count
from typing import assert_never
from uuid import UUID

import msgspec

from payments.domain.decisions import (
    Apply,
    Cancel,
    Compensate,
    Conflict,
    Fetch,
    Following,
    GiveBack,
    Ignore,
    Park,
    Wait,
)
from payments.domain.disputes import Dispute, DisputeChange, decide_dispute, is_disputed
from payments.domain.intents import decide_payment
from payments.domain.payment import Payment
from payments.domain.refunds import COMPENSATION, Refund, RefundChange, RefundStatus, decide_refund, find_refund
from payments.domain.signals import (
    DisputeSeen,
    Heard,
    Kind,
    RefundRefused,
    RefundSeen,
    Signal,
    read_answer,
)
from payments.domain.states import EventType, PaymentStatus
from tests.domain.stories import NOW
from tests.domain.stripe_objects import Json, answered

Decided = Apply | Ignore | Compensate | Conflict | Park | Fetch | Wait | RefundChange | DisputeChange

_numbers = count(1)


@dataclass
class Machine:
    """History is a number that grows with each signal that was weighed."""

    payment: Payment
    history_id: int = 1
    refunds: dict[UUID, Refund] = field(default_factory=dict)
    disputes: dict[str, Dispute] = field(default_factory=dict)
    published: list[EventType] = field(default_factory=list)
    cancels: list[str] = field(default_factory=list)

    def weigh(self, signal: Signal) -> Fetch | Wait | None:
        """What is left to do for this signal: None when it is done."""
        decision = self.decide(signal)
        assert decision.why
        match decision:
            case Fetch() | Wait():
                return decision
            case Apply():
                self.publish(decision.event)
                asked = decision.after.was_customer_asked or decision.after.status is PaymentStatus.ACTION_REQUIRED
                self.payment = msgspec.structs.replace(decision.after, was_customer_asked=asked)
                self.follow(decision.then)
            case RefundChange():
                self.keep(decision.after)
                self.publish(decision.event)
            case DisputeChange():
                self.disputes[decision.after.processor_reference] = decision.after
                disputed = is_disputed(list(self.disputes.values()))
                self.payment = msgspec.structs.replace(self.payment, disputed=disputed)
                for event in decision.events:
                    self.publish(event)
            case Compensate():
                self.payment = decision.after
                self.follow(decision.then)
            case Conflict() | Park():
                raise AssertionError(f"{decision} in a life without any conflict")
            case Ignore():
                pass
            case _:
                assert_never(decision)
        self.history_id += 1
        return None

    def decide(self, signal: Signal) -> Decided:
        before = msgspec.structs.replace(self.payment, last_history_id=self.history_id)
        fresh_id = UUID(int=next(_numbers))
        match signal:
            case RefundSeen() | RefundRefused():
                return decide_refund(before, self.find_refund(signal), signal, fresh_id)
            case DisputeSeen():
                return decide_dispute(before, self.disputes.get(signal.facts.id), signal, fresh_id, NOW)
            case _:
                return decide_payment(before, signal, livemode=False)

    def find_refund(self, signal: RefundSeen | RefundRefused) -> Refund | None:
        return find_refund(self.refunds, signal.refund_id, signal.facts.id if isinstance(signal, RefundSeen) else None)

    def keep(self, refund: Refund) -> None:
        """As SQL's trigger does: the sum of what has not failed, never above what may be given back."""
        self.refunds[refund.refund_id] = refund
        reserved = sum(r.amount for r in self.refunds.values() if r.status is not RefundStatus.FAILED)
        has_ended = self.payment.status in (PaymentStatus.FAILED, PaymentStatus.VOIDED, PaymentStatus.EXPIRED)
        assert reserved <= (self.payment.amount if has_ended else self.payment.amount_captured)
        self.payment = msgspec.structs.replace(self.payment, amount_reserved=reserved)

    def publish(self, event: EventType | None) -> None:
        if event is not None:
            self.published.append(event)

    def follow(self, then: Following | None) -> None:
        match then:
            case Cancel():
                assert self.payment.processor_payment_intent is not None
                self.cancels.append(then.reason)
            case GiveBack():
                refund = Refund(
                    refund_id=UUID(int=next(_numbers)),
                    payment_id=self.payment.payment_id,
                    amount=then.amount,
                    currency=self.payment.currency,
                    reason=COMPENSATION,
                )
                self.keep(refund)
                self.publish(EventType.REFUND_REQUESTED)
            case None:
                pass
            case _:
                assert_never(then)

    def fetched(self, wanted: Fetch, truth: Mapping[str, Json]) -> list[Signal]:
        """What asking Stripe brings while its objects stand as `truth` says: first the PaymentIntent, where wanted."""
        found: list[Signal] = []
        more: Json = {}
        if wanted.intent_id is not None:
            intent = truth[wanted.intent_id]
            found.append(heard_fetched(Kind.PAYMENT_INTENT, intent, self.history_id))
            more = {"paymentIntent": intent}
        return [*found, heard_fetched(wanted.kind, truth[wanted.object_id], self.history_id, **more)]


def heard_fetched(kind: Kind, thing: Json, after_history_id: int, **more: object) -> Signal:
    """A snapshot as a fetch brings it."""
    payload = {**answered(thing, kind.operation), "afterHistoryId": after_history_id, **more}
    signal = read_answer(payload)
    assert getattr(signal, "heard", None) is Heard.FETCHED
    return signal
