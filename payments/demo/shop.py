"""The shop of the demo: many checkouts at once, each a story; and both books when all are told."""

import asyncio
import random
from collections.abc import AsyncIterator

import msgspec

from payments.demo.books import Books, compare_books
from payments.demo.checkout import Checkout, WentAstray
from payments.demo.client import Client, Json
from payments.demo.stories import STORIES, Story

# News of what happened in the last moment may still be under way when all stories are told.
SETTLE_PAUSE_S = 0.5


class Outcome(msgspec.Struct):
    """One checkout as it ended; `astray`: what came of it instead of what must."""

    story: Story
    payment: Json
    refunds: list[Json]
    astray: str | None = None


class Shop:
    """Tells stories against one API."""

    def __init__(self, client: Client) -> None:
        self._client = client

    async def tell(self, count: int, concurrency: int, deadline_s: float) -> AsyncIterator[Outcome]:
        """`count` stories, at most `concurrency` at once, in the order in which they end; each once if they fit.

        Raises CannotGoOn when the deadline of one passes.
        """
        places = asyncio.Semaphore(concurrency)

        async def one(story: Story) -> Outcome:
            async with places:
                checkout = Checkout(self._client, asyncio.get_running_loop().time() + deadline_s)
                astray = None
                try:
                    await checkout.authorize(story.payment_method, story.capture_method, times=story.times_sent)
                    await story.play(checkout)
                except WentAstray as error:
                    astray = str(error)
                return Outcome(story, checkout.payment, checkout.refunds, astray)

        tasks = [asyncio.create_task(one(story)) for story in choose(count)]
        try:
            for finished in asyncio.as_completed(tasks):
                yield await finished
        finally:
            for task in tasks:
                task.cancel()

    async def compare(self, outcomes: list[Outcome], deadline_s: float) -> Books:
        """Both books, once they agree or, if they never do, once the deadline has passed. Renews the outcomes."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + deadline_s
        while True:
            ledger = (await self._client.at_stripe("GET", "/ledger", deadline)).body
            books = compare_books([(one.payment, one.refunds) for one in outcomes], ledger)
            if not books.differences or loop.time() > deadline:
                return books
            await asyncio.sleep(SETTLE_PAUSE_S)
            doubtful = {difference.payment_id for difference in books.differences}
            for one in outcomes:
                if one.payment["paymentId"] in doubtful:
                    await self._look_again(one, deadline)

    async def _look_again(self, outcome: Outcome, deadline: float) -> None:
        path = f"/payments/{outcome.payment['paymentId']}"
        outcome.payment = await self._client.get(path, deadline)
        outcome.refunds = (await self._client.get(f"{path}/refunds", deadline))["items"]


def choose(count: int) -> list[Story]:
    """So many stories, shuffled: one of each as far as they go, the rest by their weights."""
    weights = [story.weight for story in STORIES]
    rest = random.choices(STORIES, weights=weights, k=max(0, count - len(STORIES)))  # noqa: S311 - no secret
    chosen = [*STORIES[:count], *rest]
    random.shuffle(chosen)
    return chosen
