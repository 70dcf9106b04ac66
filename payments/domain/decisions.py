"""What can follow from a signal of Stripe's: a closed set of decisions, made by `intents`, `refunds` and `disputes`."""

from typing import Literal

import msgspec

from payments.domain.payment import Payment
from payments.domain.signals import Kind
from payments.domain.states import EventType


class Cancel(msgspec.Struct, frozen=True):
    """A command to the worker: cancel the PaymentIntent; the reason is one of Stripe's."""

    reason: Literal["abandoned", "requested_by_customer"]


class GiveBack(msgspec.Struct, frozen=True):
    """A refund that nobody asked for: money was taken that should not have been."""

    amount: int


Following = Cancel | GiveBack


class Apply(msgspec.Struct, frozen=True):
    """The payment becomes `after`, and `event` is published; the status may stay while we learn a detail."""

    after: Payment
    event: EventType | None
    why: str
    then: Following | None = None


class Ignore(msgspec.Struct, frozen=True):
    """Nothing changes."""

    why: str


class Fetch(msgspec.Struct, frozen=True):
    """Only Stripe can tell: ask for the object, and weigh that instead; `intent_id`: for its PaymentIntent as well."""

    kind: Kind
    object_id: str
    why: str
    intent_id: str | None = None


class Conflict(msgspec.Struct, frozen=True):
    """Stripe's facts contradict ours: the payment becomes CONFLICTED, for an operator."""

    why: str


class Compensate(msgspec.Struct, frozen=True):
    """Money was held or taken after the payment had ended without any: it goes back, and the payment stays ended.

    `after`: the payment with its PaymentIntent, which may not have been known, and by which the money goes back.
    """

    after: Payment
    then: Following
    why: str


class Park(msgspec.Struct, frozen=True):
    """Our call was wrong, not this payment: nothing changes, a person must look."""

    why: str


class Wait(msgspec.Struct, frozen=True):
    """Not yet: something else that is under way has to end first; the signal is weighed again later."""

    why: str


Decision = Apply | Ignore | Fetch | Conflict | Compensate | Park
