"""The checkouts of the demo: what a shop's customers do, driven over HTTP alone."""

import asyncio
import random
from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import aiohttp
import msgspec

REQUEST_TIMEOUT_S = 40.0  # above the longest wait we ask for
WAIT_S = 10  # how long one request waits for its payment to settle, before we ask again
RETRY_PAUSE_S = 0.2
UNSETTLED = ("REQUESTED", "PROCESSING", "CAPTURING", "VOIDING")
HTTP_SERVER_ERROR = 500


class Kind(msgspec.Struct, frozen=True):
    """A sort of checkout: the card's token, what the browser does, how it must end, and how often it occurs."""

    name: str
    payment_method: str | None
    ends_as: str
    weight: int
    capture_method: str = "automatic"
    browser_pays_with: str | None = None
    sent_twice: bool = False


KINDS = (
    Kind("charged", "pm_card_visa", "SUCCEEDED", 10),
    Kind("charged, sent twice", "pm_card_visa", "SUCCEEDED", 3, sent_twice=True),
    Kind("hold placed", "pm_card_visa", "AUTHORIZED", 2, capture_method="manual"),
    Kind("declined", "pm_card_visa_chargeDeclined", "FAILED", 2),
    Kind("no funds", "pm_card_visa_chargeDeclinedInsufficientFunds", "FAILED", 2),
    Kind("card expired", "pm_card_chargeDeclinedExpiredCard", "FAILED", 1),
    Kind("paid in browser", None, "SUCCEEDED", 2, browser_pays_with="pm_card_visa"),
    Kind("left at 3-D Secure", "pm_card_authenticationRequired", "ACTION_REQUIRED", 1),
)


class Outcome(msgspec.Struct):
    """One checkout: what was wished, and the payment as the API showed it last."""

    kind: Kind
    payment: dict[str, Any]


class NeverSettled(Exception):
    """A checkout did not settle before the deadline; the message names it."""


class Shop:
    """Drives checkouts against one API; every request is repeated under its key until it is answered."""

    def __init__(self, http: aiohttp.ClientSession, api_url: str, api_key: str, sandbox_url: str) -> None:
        self._http = http
        self._api_url = api_url.rstrip("/")
        self._authorization = {"Authorization": f"Bearer {api_key}"}
        self._sandbox_url = sandbox_url.rstrip("/")

    async def run(self, count: int, concurrency: int, deadline_s: float) -> AsyncIterator[Outcome]:
        """`count` checkouts, at most `concurrency` at once, in the order in which they settle.

        Raises NeverSettled when the deadline passes.
        """
        kinds = random.choices(KINDS, weights=[kind.weight for kind in KINDS], k=count)  # noqa: S311 - no secret
        places = asyncio.Semaphore(concurrency)

        async def one(kind: Kind) -> Outcome:
            async with places:
                return Outcome(kind, await self._check_out(kind, asyncio.get_running_loop().time() + deadline_s))

        tasks = [asyncio.create_task(one(kind)) for kind in kinds]
        try:
            for finished in asyncio.as_completed(tasks):
                yield await finished
        finally:
            for task in tasks:
                task.cancel()

    async def stripes_books(self, deadline_s: float) -> dict[str, Any]:
        """The sandbox's ledger: what was really authorized, captured and refunded."""
        deadline = asyncio.get_running_loop().time() + deadline_s
        return await self._until_answered("GET", f"{self._sandbox_url}/_sandbox/ledger", deadline)

    async def _check_out(self, kind: Kind, deadline: float) -> dict[str, Any]:
        body: dict[str, Any] = {"cartId": str(uuid4()), "amount": random.randint(100, 50_000), "currency": "EUR"}  # noqa: S311
        body["captureMethod"] = kind.capture_method
        if kind.payment_method:
            body["paymentMethod"] = kind.payment_method
        headers = {"Idempotency-Key": str(uuid4())}
        payment = await self._ask("POST", "/payments/authorize", deadline, json=body, headers=headers)
        if kind.sent_twice:
            again = await self._ask("POST", "/payments/authorize", deadline, json=body, headers=headers)
            if again["paymentId"] != payment["paymentId"]:
                raise NeverSettled(f"the same request made payment {payment['paymentId']} and {again['paymentId']}")
        payment = await self._settled(payment["paymentId"], UNSETTLED, deadline)
        if kind.browser_pays_with and payment["status"] == "ACTION_REQUIRED":
            await self._pay_in_browser(payment, kind.browser_pays_with, deadline)
            payment = await self._settled(payment["paymentId"], (*UNSETTLED, "ACTION_REQUIRED"), deadline)
        return payment

    async def _settled(self, payment_id: str, passing: tuple[str, ...], deadline: float) -> dict[str, Any]:
        while True:
            payment = await self._ask("GET", f"/payments/{payment_id}?wait={WAIT_S}", deadline)
            if payment["status"] not in passing:
                return payment
            _check_deadline(deadline, f"payment {payment_id} is still {payment['status']}")
            await asyncio.sleep(RETRY_PAUSE_S)

    async def _pay_in_browser(self, payment: dict[str, Any], payment_method: str, deadline: float) -> None:
        body = {"client_secret": payment["nextAction"]["clientSecret"], "payment_method": payment_method}
        await self._until_answered("POST", f"{self._sandbox_url}/_sandbox/browser/confirm", deadline, json=body)

    async def _ask(self, method: str, path: str, deadline: float, **options: Any) -> dict[str, Any]:
        headers = self._authorization | options.pop("headers", {})
        return await self._until_answered(method, self._api_url + path, deadline, headers=headers, **options)

    async def _until_answered(self, method: str, url: str, deadline: float, **options: Any) -> dict[str, Any]:
        """Repeats a request while nobody answers or the answer is a 5xx, as any client of a payment API must."""
        while True:
            try:
                async with self._http.request(method, url, **options) as response:
                    answer = await response.read()
                    if response.status < HTTP_SERVER_ERROR:
                        if not response.ok:
                            raise NeverSettled(f"{method} {url} was answered {response.status}: {answer.decode()}")
                        return msgspec.json.decode(answer, type=dict)
                    trouble = f"{method} {url} was answered {response.status}"
            except (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError, TimeoutError) as error:
                trouble = f"{method} {url} cannot be reached: {error}"
            _check_deadline(deadline, trouble)
            await asyncio.sleep(RETRY_PAUSE_S)


def _check_deadline(deadline: float, trouble: str) -> None:
    if asyncio.get_running_loop().time() > deadline:
        raise NeverSettled(trouble)
