"""Asking Stripe without changing anything: an answer, or a reason to leave Stripe alone for a while."""

from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import datetime
from typing import Any, Protocol, assert_never

import msgspec

from payments.errors import PaymentsError
from payments.stripe_gateway.outcomes import (
    Answered,
    Declined,
    KeyInUse,
    KeyMisused,
    Outcome,
    RateLimited,
    Refused,
    StripeObject,
    Unauthorized,
    Unknown,
)

# An outage, a limit, a refused key: what the next call would meet as well, if it came at once.
AWAY_PAUSE_S = 2.0
RATE_PAUSE_S = 5.0
KEY_PAUSE_S = 60.0


class StripeAway(PaymentsError):
    """Stripe gives no answer now; nobody should ask again before `pause_s` have passed.

    `lacks_right`: Stripe knows the key, which may not ask this, whatever else it may.
    """

    def __init__(self, why: str, pause_s: float, *, is_key_refused: bool = False, lacks_right: bool = False) -> None:
        super().__init__(why)
        self.why = why
        self.pause_s = pause_s
        self.is_key_refused = is_key_refused
        self.lacks_right = lacks_right


class Refusal(PaymentsError):
    """Stripe will not answer this question, now or later: 404, or a question that makes no sense."""

    def __init__(self, http_status: int, code: str | None) -> None:
        super().__init__(f"HTTP {http_status} {code or ''}".rstrip())
        self.http_status = http_status


class Page(msgspec.Struct, frozen=True):
    """One page of a list, the newest first."""

    objects: list[StripeObject]
    request_id: str | None
    has_more: bool


class Gateway(Protocol):
    """What the reconciler asks; payments.stripe_gateway.gateway.StripeGateway has it all."""

    def stripe_time(self) -> datetime | None:
        """Stripe's clock, as its last answer told it."""

    async def retrieve_payment_intent(self, intent_id: str) -> Outcome:
        """One PaymentIntent."""

    async def list_payment_intents(
        self, created_gte: int, created_lte: int, starting_after: str | None = None
    ) -> Outcome:
        """PaymentIntents made between two Unix times."""

    async def list_refunds(
        self,
        payment_intent: str | None = None,
        created_gte: int | None = None,
        starting_after: str | None = None,
        *,
        created_lte: int | None = None,
    ) -> Outcome:
        """Refunds, of one PaymentIntent or made between two Unix times."""

    async def list_disputes(
        self,
        created_gte: int | None = None,
        payment_intent: str | None = None,
        starting_after: str | None = None,
        *,
        created_lte: int | None = None,
    ) -> Outcome:
        """Disputes opened between two Unix times."""

    async def list_events(
        self,
        created_gte: int | None = None,
        created_lte: int | None = None,
        starting_after: str | None = None,
    ) -> Outcome:
        """Events of the last 30 days."""

    async def list_balance_transactions(
        self,
        created_gte: int | None = None,
        created_lte: int | None = None,
        source: str | None = None,
        starting_after: str | None = None,
    ) -> Outcome:
        """Balance transactions made between two Unix times, each with its source."""


def answer_of(outcome: Outcome) -> Answered:
    """The answer; raises StripeAway or Refusal."""
    match outcome:
        case Answered():
            return outcome
        case RateLimited():
            raise StripeAway("Stripe says: too fast", outcome.retry_after_s or RATE_PAUSE_S)
        case Unauthorized(http_status=403):
            raise StripeAway("STRIPE_API_KEY lacks a right", KEY_PAUSE_S, is_key_refused=True, lacks_right=True)
        case Unauthorized():
            raise StripeAway("Stripe refuses STRIPE_API_KEY", KEY_PAUSE_S, is_key_refused=True)
        case Unknown():
            raise StripeAway(f"no answer from Stripe: {outcome.why}", AWAY_PAUSE_S)
        case KeyInUse():
            raise StripeAway("Stripe is busy with it", AWAY_PAUSE_S)
        case Refused() | Declined():
            raise Refusal(outcome.http_status, _code(outcome.error))
        case KeyMisused():
            raise Refusal(400, "idempotency_error")
        case _:
            assert_never(outcome)


async def each_page(ask: Callable[[str | None], Awaitable[Outcome]]) -> AsyncIterator[Page]:
    """The pages of a list, from the newest on; whoever iterates says how many are enough.

    `ask` gets the id after which the page begins. Raises StripeAway or Refusal.
    """
    after = None
    while True:
        answer = answer_of(await ask(after))
        page = read_page(answer)
        yield page
        if not page.has_more or not page.objects:
            return
        after = str(page.objects[-1]["id"])


def read_page(answer: Answered) -> Page:
    """A list's objects; raises StripeAway when it is none, for then somebody else than Stripe has answered."""
    data: Any = answer.object.get("data")
    if not isinstance(data, list) or not all(isinstance(one, dict) and isinstance(one.get("id"), str) for one in data):
        raise StripeAway("a list that nobody can read", AWAY_PAUSE_S)
    return Page(data, answer.request_id, answer.object.get("has_more") is True)


def _code(error: StripeObject) -> str | None:
    code = error.get("code")
    return code if isinstance(code, str) else None
