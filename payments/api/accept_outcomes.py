"""What can become of a wish to be paid, and how a request that lost is told what it lost to; pure."""

from uuid import UUID

import msgspec

from payments.api.authorize_body import AuthorizePayment


class AcceptRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A checked wish with the ids that will be its own if it is recorded."""

    payment_id: UUID
    event_id: UUID
    client_id: str
    idempotency_key: str | None
    fingerprint: bytes
    traceparent: str | None
    wish: AuthorizePayment


class Accepted(msgspec.Struct, frozen=True):
    """Recorded now."""

    payment_id: UUID
    answer: bytes


class Replayed(msgspec.Struct, frozen=True):
    """The same request was recorded before: its answer as it was given then."""

    payment_id: UUID
    answer: bytes
    status: int
    location: str


class LivePayment(msgspec.Struct, frozen=True):
    """Without a key, the same wish for the same cart: its live payment as it stands."""

    payment_id: UUID
    answer: bytes


class CartTaken(msgspec.Struct, frozen=True):
    """Another wish while a payment of the cart is live."""

    payment_id: UUID


class KeyReused(msgspec.Struct, frozen=True):
    """The key stands for another request."""


class InProgress(msgspec.Struct, frozen=True):
    """A request with the same key or cart has not ended; nothing was recorded."""


class Failed(msgspec.Struct, frozen=True):
    """The database refused, nothing was recorded; `error` says why."""

    error: Exception


class Unknown(msgspec.Struct, frozen=True):
    """The connection broke: it may have been recorded or not."""

    error: Exception


Outcome = Accepted | Replayed | LivePayment | CartTaken | KeyReused | InProgress | Failed | Unknown


class StoredAnswer(msgspec.Struct, frozen=True):
    """What is kept under an Idempotency-Key."""

    payment_id: UUID | None
    fingerprint: bytes
    status: int
    location: str | None
    body: str | None


class Rival(msgspec.Struct, frozen=True):
    """A payment that stood in the way."""

    payment_id: UUID
    fingerprint: bytes
    answer: str


class Winners(msgspec.Struct, frozen=True):
    """Everything that a request may have lost to."""

    stored: StoredAnswer | None
    under_key: Rival | None
    of_cart: Rival | None


def decide_loser(request: AcceptRequest, winners: Winners) -> Outcome | None:
    """What a request that was not recorded is told; None: the winner has ended meanwhile, try again."""
    if winners.stored is not None:
        return _lost_to_answer(request, winners.stored)
    if winners.under_key is not None:
        return _lost_to_forgotten_answer(request, winners.under_key)
    if winners.of_cart is not None:
        return _lost_to_cart(request, winners.of_cart)
    return None


def _lost_to_answer(request: AcceptRequest, stored: StoredAnswer) -> Outcome:
    if stored.fingerprint != request.fingerprint or stored.payment_id is None:
        return KeyReused()
    location = stored.location or location_of(stored.payment_id)
    return Replayed(stored.payment_id, (stored.body or "").encode(), stored.status, location)


def _lost_to_forgotten_answer(request: AcceptRequest, rival: Rival) -> Outcome:
    """The answer is past its retention, the payment is not: a repetition still must not charge a second time."""
    if rival.fingerprint != request.fingerprint:
        return KeyReused()
    return Replayed(rival.payment_id, rival.answer.encode(), 201, location_of(rival.payment_id))


def _lost_to_cart(request: AcceptRequest, rival: Rival) -> Outcome:
    if request.idempotency_key is None and rival.fingerprint == request.fingerprint:
        return LivePayment(rival.payment_id, rival.answer.encode())
    return CartTaken(rival.payment_id)


def location_of(payment_id: UUID) -> str:
    """Where a payment is to be read."""
    return f"/payments/{payment_id}"
