"""The lives of payments: what customers, the shop, the bank and Stripe's Dashboard do to one, and how it may end.

Each life is a short story over HTTP. Faults happen meanwhile, so a story asks again until it is answered, keeps what
the answer promises, takes any end that its doings allow, and leaves the judging to soak/books.py.
"""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple
from uuid import uuid4

from soak.system import Json, System

UNSETTLED = frozenset({"REQUESTED", "PROCESSING", "CAPTURING", "VOIDING"})
SETTLES_S = 420.0  # a create that was answered 500, again and again, is sent anew once proved absent: after 203 s once
VISA = "pm_card_visa"


class Wish(NamedTuple):
    """A refund that was answered 201: it must be there, once, whatever happened since."""

    refund_id: str
    amount: int


class Told:
    """What one payment's callers were told, to be held against the books."""

    def __init__(self, life: "Life", body: Json) -> None:
        self.life = life
        self.body = body
        self.refunds: list[Wish] = []
        self.captures: list[int] = []  # answered 202: how much was asked for
        self.voids: list[bool] = []  # answered: whether with 202

    def hear(self, what: str, body: Json, status: int, answer: Any) -> None:
        """Keeps what an answer to a wish says; the same answer again says nothing new."""
        if what == "refunds" and status == 201:
            wish = Wish(answer["refundId"], answer["amount"])
            self.refunds += [wish] if wish not in self.refunds else []
        elif what == "capture" and status == 202:
            self.captures.append(body["amount"] if "amount" in body else self.body["amount"])
        elif what == "void":
            self.voids.append(status == 202)

    @property
    def is_voided(self) -> bool:
        """Whether a void was accepted."""
        return any(self.voids)

    @property
    def may_end(self) -> frozenset[str]:
        """The ends of its life, less those that were asked for and refused, and a charge of a hold that nobody took."""
        ends = self.life.ends
        if self.voids and not self.is_voided:
            ends -= {"VOIDED"}
        if self.life.capture_method == "manual" and not self.captures:
            ends -= {"SUCCEEDED"}
        return ends


Story = Callable[["Teller"], Awaitable[None]]


class Life(NamedTuple):
    """A kind of life: how it begins, what happens then, how it may end, and how often it is told."""

    name: str
    payment_method: str | None
    ends: frozenset[str]
    weight: int
    story: Story
    capture_method: str = "automatic"
    metadata: Json | None = None
    requests: int = 1  # sent at once, under one key
    keyless: bool = False
    wait_s: int = 0


class Teller:
    """One life as it is lived: `payment` is as last seen."""

    def __init__(self, system: System, life: Life, rng: random.Random, told: dict[str, Told]) -> None:
        self.system = system
        self.life = life
        self.rng = rng
        self.payment: Json = {}
        self._told = told

    @property
    def told(self) -> Told:
        """What callers know of this payment."""
        return self._told[self.payment["paymentId"]]

    async def live(self) -> None:
        """Authorizes, and follows the story to its end."""
        if await self._authorize():
            await self.life.story(self)
            self.system.count["lives"] += 1

    async def _authorize(self) -> bool:
        life = self.life
        body: Json = {
            "cartId": str(uuid4()),
            "amount": self.rng.randint(100, 50_000),
            "currency": self.rng.choice(["EUR", "USD", "JPY"]),
            "captureMethod": life.capture_method,
        }
        if life.payment_method:
            body["paymentMethod"] = life.payment_method
        if life.metadata:
            body["metadata"] = life.metadata
        headers = {} if life.keyless else {"Idempotency-Key": str(uuid4())}
        if life.wait_s:
            headers["Prefer"] = f"wait={life.wait_s}"
        answers = await asyncio.gather(
            *(self.system.api("POST", "/payments/authorize", body, headers) for _ in range(life.requests))
        )
        ids = {answer["paymentId"] for status, answer in answers if status in {200, 201, 402}}
        for status, answer in answers:
            if status not in {200, 201, 402} or (status == 402 and "FAILED" not in life.ends):
                self.system.problem(f"{life.name}: authorize answered {status} {answer.get('code')}")
        if len(ids) != 1:
            self.system.problem(f"{life.name}: one wish became the payments {ids}")
            return False
        self.begin(life, body, ids.pop())
        return True

    def begin(self, life: "Life", body: Json, payment_id: str) -> None:
        """From here on this payment is told of."""
        self.payment = {"paymentId": payment_id}
        self._told[payment_id] = Told(life, body)

    async def reach(self, *passing: str) -> str:
        """Waits until the payment is in none of the passing states; where it is then."""
        deadline = time.monotonic() + SETTLES_S
        while True:
            status, answer = await self.system.api("GET", f"/payments/{self.payment['paymentId']}?wait=5")
            if status != 200:
                self.system.problem(f"{self.life.name}: GET answered {status}")
                return "GONE"
            self.payment = answer
            if answer["status"] not in UNSETTLED.union(passing) or time.monotonic() > deadline:
                return str(answer["status"])
            await asyncio.sleep(0.2)

    async def dawdle(self, seconds: float = 1.5) -> None:
        """A while, as people take it."""
        await asyncio.sleep(self.rng.random() * seconds)

    async def ask(self, what: str, body: Json | None = None) -> tuple[int, Any]:
        """POSTs to the payment, twice in a while, under one key; what is accepted stays so, and is kept in `told`."""
        path, told = f"/payments/{self.payment['paymentId']}/{what}", self.told
        headers = {"Idempotency-Key": str(uuid4())}
        answers = []
        for _ in range(2 if self.rng.random() < 0.2 else 1):
            status, answer = await self.system.api("POST", path, body or {}, headers)
            told.hear(what, body or {}, status, answer)
            answers.append((status, answer))
            if status not in {201, 202, 409}:
                self.system.problem(f"{self.life.name}: {what} answered {status} {answer}")
        if answers[0][0] < 300 and answers[0] != answers[-1]:
            self.system.problem(f"{self.life.name}: {what} has two answers under one key: {answers}")
        return answers[0]

    async def refund(self, amount: int | None = None) -> int:
        """Asks for a refund; the status of the answer."""
        return (await self.ask("refunds", {} if amount is None else {"amount": amount}))[0]

    async def intent(self) -> str | None:
        """The payment's PaymentIntent, as only the sandbox tells."""
        _, ledger = await self.system.sandbox("GET", f"/ledger?payment_id={self.payment['paymentId']}")
        intents = ledger["payment_intents"]
        return intents[0]["id"] if intents else None


async def nothing(_teller: Teller) -> None:
    """The life goes on by itself."""


async def capture_all(t: Teller) -> None:
    if await t.reach() == "AUTHORIZED":
        await t.dawdle()
        await t.ask("capture", {"orderId": str(uuid4())})


async def capture_part(t: Teller) -> None:
    if await t.reach() == "AUTHORIZED":
        await t.ask("capture", {"amount": t.rng.randint(50, t.payment["amount"])})


async def capture_then_refund(t: Teller) -> None:
    await capture_part(t)
    if await t.reach() == "SUCCEEDED":
        await t.refund()


async def void_hold(t: Teller) -> None:
    if await t.reach() == "AUTHORIZED":
        await t.dawdle()
        await t.ask("void")


async def void_at_once(t: Teller) -> None:
    await t.dawdle(0.3)
    await t.ask("void")


async def capture_against_void(t: Teller) -> None:
    if await t.reach() == "AUTHORIZED":
        await asyncio.gather(t.ask("capture"), t.ask("void"))


async def refund_all(t: Teller) -> None:
    if await t.reach() == "SUCCEEDED":
        await t.dawdle()
        await t.refund()


async def refund_two_equal(t: Teller) -> None:
    if await t.reach() == "SUCCEEDED":
        half = t.payment["amount"] // 2
        answers = list(await asyncio.gather(t.refund(half), t.refund(half)))
        if answers != [201, 201]:
            t.system.problem(f"two equal refunds answered {answers}")


async def refund_too_much(t: Teller) -> None:
    """Three at once, of which two fit."""
    if await t.reach() == "SUCCEEDED":
        part = t.payment["amount"] * 2 // 5
        answers = sorted(await asyncio.gather(*(t.refund(part) for _ in range(3))))
        if answers != [201, 201, 409]:
            t.system.problem(f"three refunds of two fifths answered {answers}")


async def refund_in_dashboard(t: Teller) -> None:
    if await t.reach() == "SUCCEEDED" and (intent := await t.intent()):
        await t.system.sandbox("POST", "/refunds", {"payment_intent": intent, "amount": t.payment["amount"] // 3})


async def refund_here_and_there(t: Teller) -> None:
    if await t.reach() == "SUCCEEDED" and (intent := await t.intent()):
        body = {"payment_intent": intent, "amount": t.payment["amount"] // 2}
        await asyncio.gather(t.refund(t.payment["amount"] * 2 // 3), t.system.sandbox("POST", "/refunds", body))


def dispute(outcome: str) -> Story:
    """A dispute that the customer opens, and the bank decides."""

    async def story(t: Teller) -> None:
        if await t.reach() == "SUCCEEDED" and (intent := await t.intent()):
            status, opened = await t.system.sandbox("POST", "/disputes", {"payment_intent": intent})
            if status < 300:
                await t.dawdle()
                await t.system.sandbox("POST", f"/disputes/{opened['disputes'][-1]['id']}", {"outcome": outcome})

    return story


def browser(*cards: str) -> Story:
    """The customer tries these cards in Stripe's form, one after the other."""

    async def story(t: Teller) -> None:
        if await t.reach() != "ACTION_REQUIRED":
            return
        for card in cards:
            await t.dawdle()
            body = {"client_secret": t.payment["nextAction"]["clientSecret"], "payment_method": card}
            await t.system.sandbox("POST", "/browser/confirm", body)

    return story


def authenticate(outcome: str) -> Story:
    """The customer passes 3-D Secure, or does not."""

    async def story(t: Teller) -> None:
        if await t.reach() != "ACTION_REQUIRED":
            return
        await t.dawdle()
        intent = t.payment["nextAction"]["clientSecret"].split("_secret")[0]
        await t.system.sandbox("POST", "/browser/authenticate", {"payment_intent": intent, "outcome": outcome})

    return story


async def void_in_browser(t: Teller) -> None:
    """The customer pays while the shop gives up."""
    if await t.reach() != "ACTION_REQUIRED":
        return
    body = {"client_secret": t.payment["nextAction"]["clientSecret"], "payment_method": VISA}
    await asyncio.gather(t.ask("void"), t.system.sandbox("POST", "/browser/confirm", body))


_DECLINED, _PAID, _HELD = frozenset({"FAILED"}), frozenset({"SUCCEEDED"}), frozenset({"AUTHORIZED"})
_WAITING, _GIVEN_UP = frozenset({"ACTION_REQUIRED"}), frozenset({"VOIDED"})
_EITHER = _PAID | _GIVEN_UP
# Those whose calls the driver spoils by name: their metadata says how (soak/faults.py).
ALTERED, CACHED_AFTER, CACHED_BEFORE = {"soak": "altered"}, {"soak": "500 after"}, {"soak": "500 before"}

LIVES = (
    Life("charged", VISA, _PAID, 16, nothing),
    Life("sent twice", VISA, _PAID, 4, nothing, requests=2),
    Life("sent thrice without a key", VISA, _PAID, 4, nothing, requests=3, keyless=True),
    Life("waited for", VISA, _PAID, 4, nothing, wait_s=8),
    Life("declined", "pm_card_visa_chargeDeclined", _DECLINED, 4, nothing),
    Life("declined, waited for", "pm_card_visa_chargeDeclined", _DECLINED, 3, nothing, wait_s=8),
    Life("no funds", "pm_card_visa_chargeDeclinedInsufficientFunds", _DECLINED, 2, nothing),
    Life("card expired", "pm_card_chargeDeclinedExpiredCard", _DECLINED, 2, nothing),
    Life("hold kept", VISA, _HELD, 3, nothing, "manual"),
    Life("hold captured", VISA, _PAID, 6, capture_all, "manual"),
    Life("hold captured in part", VISA, _PAID, 5, capture_part, "manual"),
    Life("hold captured, then refunded", VISA, _PAID, 4, capture_then_refund, "manual"),
    Life("hold voided", VISA, _GIVEN_UP, 5, void_hold, "manual"),
    Life("hold voided at once", VISA, _GIVEN_UP, 5, void_at_once, "manual"),
    Life("charge voided at once", VISA, _EITHER, 6, void_at_once),
    Life("capture against void", VISA, _EITHER, 5, capture_against_void, "manual"),
    Life("refunded", VISA, _PAID, 6, refund_all),
    Life("refunded twice alike", VISA, _PAID, 4, refund_two_equal),
    Life("refunded too much", VISA, _PAID, 4, refund_too_much),
    Life("refund fails later", "pm_card_refundFail", _PAID, 3, refund_all),
    Life("refund pending first", "pm_card_pendingRefund", _PAID, 3, refund_all),
    Life("refunded in the Dashboard", VISA, _PAID, 3, refund_in_dashboard),
    Life("refunded here and there", VISA, _PAID, 3, refund_here_and_there),
    Life("dispute lost", VISA, _PAID, 2, dispute("lost")),
    Life("dispute won", VISA, _PAID, 2, dispute("won")),
    Life("paid in browser", None, _PAID, 4, browser(VISA)),
    Life("paid with a second card", None, _PAID, 3, browser("pm_card_visa_chargeDeclined", VISA)),
    Life("held in browser", None, _HELD, 2, browser(VISA), "manual"),
    Life("left at 3-D Secure", "pm_card_authenticationRequired", _WAITING, 2, nothing),
    Life("3-D Secure passed", "pm_card_authenticationRequired", _PAID, 3, authenticate("succeed")),
    Life("3-D Secure failed", "pm_card_authenticationRequired", _WAITING, 2, authenticate("fail")),
    Life("voided while paying", None, _EITHER, 4, void_in_browser),
    Life("altered answer", VISA, _PAID | {"CONFLICTED"}, 1, nothing, metadata=ALTERED),
    Life("500 kept, executed", VISA, _PAID, 1, nothing, metadata=CACHED_AFTER),
    Life("500 kept, not executed", VISA, _PAID, 1, nothing, metadata=CACHED_BEFORE),
)


class Crowd(NamedTuple):
    """So many customers, for so many seconds, each pausing for up to `think_s` between two lives."""

    seed: int
    customers: int
    seconds: float
    think_s: float


async def shop(system: System, told: dict[str, Told], crowd: Crowd) -> None:
    """So many customers at once, each living life after life until the time is up."""
    end = time.monotonic() + crowd.seconds

    async def customer(number: int) -> None:
        rng = random.Random(crowd.seed * 1_000 + number)
        while time.monotonic() < end:
            life = rng.choices(LIVES, [life.weight for life in LIVES])[0]
            try:
                await Teller(system, life, rng, told).live()
            except Exception as error:  # noqa: BLE001 - one story must not end the soak, but is told
                system.problem(f"{life.name}: {type(error).__name__} {error}")
            await asyncio.sleep(rng.random() * crowd.think_s)

    await asyncio.gather(*(customer(number) for number in range(crowd.customers)))
