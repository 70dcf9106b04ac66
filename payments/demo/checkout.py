"""One checkout of the demo as it is lived: what the shop, the customer and the bank do to one payment, step by step."""

import asyncio
import random
from collections.abc import Callable
from uuid import uuid4

from payments.demo.client import CannotGoOn, Client, Json, check_deadline

WAIT_S = 10  # how long one request waits for its payment to settle, before we ask again
LOOK_PAUSE_S = 0.2
CURRENCY = "USD"  # the one in which Stripe's test methods include bank debits
AMOUNT_MIN, AMOUNT_MAX = 200, 50_000  # thirds and halves of it are above Stripe's minimum for USD too
UNSETTLED = ("REQUESTED", "PROCESSING", "CAPTURING", "VOIDING")


class WentAstray(Exception):
    """Something else came of a step than must; the message says what."""


class Checkout:
    """A payment and what is known of it: `payment` and `refunds` are as the API showed them last."""

    def __init__(self, client: Client, deadline: float) -> None:
        self._client = client
        self._deadline = deadline
        self.payment: Json = {}
        self.refunds: list[Json] = []

    async def authorize(self, payment_method: str | None, capture_method: str, *, times: int) -> None:
        """Asks for the payment, `times` with the same key; it must stay one payment."""
        amount = random.randint(AMOUNT_MIN, AMOUNT_MAX)  # noqa: S311 - no secret
        body = {"cartId": str(uuid4()), "amount": amount, "currency": CURRENCY, "captureMethod": capture_method}
        if payment_method is not None:
            body["paymentMethod"] = payment_method
        key = str(uuid4())
        answers = [await self._client.post("/payments/authorize", body, self._deadline, key) for _ in range(times)]
        for answer in answers:
            if answer.status not in {200, 201, 402}:
                raise CannotGoOn(f"authorize was answered {answer.status}: {answer.body}")
        ids = {answer.body["paymentId"] for answer in answers}
        if len(ids) > 1:
            raise CannotGoOn(f"the same request made the payments {', '.join(sorted(ids))}")
        self.payment = answers[0].body

    @property
    def amount(self) -> int:
        """What was asked for."""
        return int(self.payment["amount"])

    async def look(self) -> None:
        """The payment, once it has settled or some seconds have passed, and its refunds."""
        path = f"/payments/{self.payment['paymentId']}"
        self.payment = await self._client.get(f"{path}?wait={WAIT_S}", self._deadline)
        self.refunds = (await self._client.get(f"{path}/refunds", self._deadline))["items"]

    async def reach(self, status: str, *passing: str) -> None:
        """Waits until the payment is there; raises WentAstray when it settles anywhere else but in a passing state."""
        while True:
            await self.look()
            if self.payment["status"] == status:
                return
            if self.payment["status"] not in (*UNSETTLED, *passing):
                raise WentAstray(f"is {self.payment['status']}, not {status}")
            await self._pause()

    async def until(self, come_true: Callable[[Json, list[Json]], bool], *, what: str) -> None:
        """Waits until that is true of the payment and its refunds."""
        while not come_true(self.payment, self.refunds):
            await self._pause(what)
            await self.look()

    async def wish(self, what: str, body: Json | None = None) -> int:
        """Asks for a capture, a void or a refund; the status of the answer: 201, 202 or 409, else raises WentAstray."""
        answer = await self._client.post(f"/payments/{self.payment['paymentId']}/{what}", body or {}, self._deadline)
        if answer.status not in {201, 202, 409}:
            raise WentAstray(f"{what} was answered {answer.status}: {answer.body}")
        return answer.status

    async def must(self, what: str, body: Json | None = None) -> None:
        """The same, where a refusal is wrong."""
        if await self.wish(what, body) == 409:
            raise WentAstray(f"{what} was refused")

    async def pay_in_browser(self, payment_method: str) -> None:
        """The customer uses Stripe's own form. May be declined there, or come too late: that is told by the payment."""
        body = {"client_secret": self.payment["nextAction"]["clientSecret"], "payment_method": payment_method}
        await self._client.at_stripe("POST", "/browser/confirm", self._deadline, body)

    async def pass_3d_secure(self, outcome: str) -> None:
        """The customer's bank asks, and the customer `succeed`s or `fail`s."""
        intent = self.payment["nextAction"]["clientSecret"].split("_secret")[0]
        body = {"payment_intent": intent, "outcome": outcome}
        await self._client.at_stripe("POST", "/browser/authenticate", self._deadline, body)

    async def refund_in_dashboard(self, amount: int) -> None:
        """Somebody gives money back past this service."""
        body = {"payment_intent": (await self._at_stripe())["id"], "amount": amount}
        await self._client.at_stripe("POST", "/refunds", self._deadline, body)

    async def dispute(self) -> None:
        """The customer disputes the charge with the bank. Whether that has come to pass is told by the payment."""
        body = {"payment_intent": (await self._at_stripe())["id"]}
        await self._client.at_stripe("POST", "/disputes", self._deadline, body)

    async def decide_dispute(self, outcome: str) -> None:
        """The bank decides: `won` or `lost` for the shop."""
        charge = (await self._at_stripe())["charges"][-1]["id"]
        await self._client.at_stripe("POST", f"/disputes/{charge}", self._deadline, {"outcome": outcome})

    async def _at_stripe(self) -> Json:
        """The payment in Stripe's ledger, which it is in from its first attempt on."""
        path = f"/ledger?payment_id={self.payment['paymentId']}"
        ledger = await self._client.at_stripe("GET", path, self._deadline)
        intent: Json = ledger.body["payment_intents"][0]
        return intent

    async def _pause(self, what: str = "to settle") -> None:
        check_deadline(self._deadline, f"payment {self.payment['paymentId']}, {self.payment['status']}, waits {what}")
        await asyncio.sleep(LOOK_PAUSE_S)
