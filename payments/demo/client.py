"""A patient client of the API, and of the sandbox that stands in for Stripe: asks again until it is answered."""

import asyncio
from typing import Any
from uuid import uuid4

import aiohttp
import msgspec

REQUEST_TIMEOUT_S = 40.0  # above the longest wait we ask for
RETRY_PAUSE_S = 0.2
HTTP_SERVER_ERROR = 500

Json = dict[str, Any]


class CannotGoOn(Exception):
    """Nobody answered or nothing ended before the deadline, or an answer makes no sense; the message says what."""


class Answer(msgspec.Struct, frozen=True):
    """A status and a body of JSON."""

    status: int
    body: Json


class Client:
    """Repeats every request, under one key, while nobody answers or the answer is a 5xx or calls itself retryable."""

    def __init__(self, http: aiohttp.ClientSession, api_url: str, api_key: str, sandbox_url: str) -> None:
        self._http = http
        self._api_url = api_url.rstrip("/")
        self._authorization = {"Authorization": f"Bearer {api_key}"}
        self._sandbox_url = f"{sandbox_url.rstrip('/')}/_sandbox"

    async def get(self, path: str, deadline: float) -> Json:
        """What the API shows; raises CannotGoOn."""
        url = self._api_url + path
        answer = await self._until_answered("GET", url, deadline, headers=self._authorization)
        if answer.status >= 400:
            raise CannotGoOn(f"GET {url} was answered {answer.status}: {answer.body}")
        return answer.body

    async def post(self, path: str, body: Json, deadline: float, key: str | None = None) -> Answer:
        """A wish, under a key of its own unless one is given; raises CannotGoOn."""
        headers = self._authorization | {"Idempotency-Key": key or str(uuid4())}
        return await self._until_answered("POST", self._api_url + path, deadline, json=body, headers=headers)

    async def at_stripe(self, method: str, path: str, deadline: float, body: Json | None = None) -> Answer:
        """What a customer's browser, the bank or somebody in Stripe's Dashboard does; and reading Stripe's ledger."""
        return await self._until_answered(method, self._sandbox_url + path, deadline, json=body)

    async def _until_answered(self, method: str, url: str, deadline: float, **options: Any) -> Answer:
        while True:
            try:
                async with self._http.request(method, url, **options) as response:
                    text = await response.read()
                    body = msgspec.json.decode(text) if text else {}
                    if response.status < HTTP_SERVER_ERROR and body.get("retryable") is not True:
                        return Answer(response.status, body)
                    trouble = f"{method} {url} was answered {response.status}"
            except (
                aiohttp.ClientConnectionError,
                aiohttp.ClientPayloadError,
                msgspec.DecodeError,
                TimeoutError,
            ) as error:
                trouble = f"{method} {url} cannot be reached: {error}"
            check_deadline(deadline, trouble)
            await asyncio.sleep(RETRY_PAUSE_S)


def check_deadline(deadline: float, trouble: str) -> None:
    """Raises CannotGoOn once the deadline, in the event loop's time, has passed."""
    if asyncio.get_running_loop().time() > deadline:
        raise CannotGoOn(trouble)
