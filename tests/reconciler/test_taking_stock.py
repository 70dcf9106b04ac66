"""What was made beyond Stripe's memory of events is listed in slices, each of which ends."""

import asyncio
import itertools
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from types import ModuleType, SimpleNamespace
from typing import Any, cast

import pytest

from payments.database.queries import load_queries
from payments.reconciler import balance, events, listing
from payments.reconciler.catching_up import catch_up
from payments.reconciler.jobs import Surroundings
from payments.reconciler.slices import OVERLAP, SPAN_MIN, Slice, Taken
from payments.reconciler.stock import take_stock
from payments.stripe_gateway.outcomes import Answered
from tests.audit.sound_books import past_the_triggers
from tests.database.rows import insert_payment
from tests.reconciler.bench import Bench

SINCE = datetime(2026, 1, 1, tzinfo=UTC)
LEAST = OVERLAP + SPAN_MIN


class OneMoment:
    """A Stripe where so many pages of somebody else's PaymentIntents, and nothing else, were made in one moment."""

    def __init__(self, pages: int) -> None:
        self._pages = pages

        self.listed: list[str] = []

    async def list_payment_intents(self, _gte: int, _lte: int, after: str | None) -> Answered:
        self.listed.append("payment intents")
        page = int(after.removeprefix("pi_")) + 1 if after else 1
        one = {"id": f"pi_{page}", "object": "payment_intent", "metadata": {}, "status": "succeeded"}
        return self._list([one], has_more=page < self._pages)

    async def list_refunds(self, **_: Any) -> Answered:
        self.listed.append("refunds")
        return self._list([], has_more=False)

    async def list_disputes(self, **_: Any) -> Answered:
        self.listed.append("disputes")
        return self._list([], has_more=False)

    async def list_events(self, starting_after: str | None = None, **_: Any) -> Answered:
        return await self.list_payment_intents(0, 0, starting_after)

    async def list_balance_transactions(self, starting_after: str | None = None, **_: Any) -> Answered:
        return await self.list_payment_intents(0, 0, starting_after)

    def _list(self, objects: list[dict[str, Any]], *, has_more: bool) -> Answered:
        return Answered({"object": "list", "data": objects, "has_more": has_more}, 200, "req_1")


@pytest.mark.parametrize(
    ("span", "pages", "is_whole"),
    [
        (LEAST, 2, True),
        (LEAST, 5, True),  # it cannot be halved: all that it holds is taken
        (2 * LEAST, 2, True),
        (2 * LEAST, 3, False),
    ],
)
def test_slice_that_holds_too_much_is_left_unless_it_is_the_least(
    span: timedelta, pages: int, *, is_whole: bool
) -> None:
    stripe = OneMoment(pages)
    around = cast("Surroundings", SimpleNamespace(gateway=stripe))
    taken = asyncio.run(take_stock(around, Slice(SINCE, SINCE + span, by_objects=True), pages_max=2))
    assert taken.is_whole is is_whole
    assert set(stripe.listed) >= ({"payment intents", "refunds", "disputes"} if is_whole else set())


@pytest.mark.anyio
@pytest.mark.parametrize("module", [balance, events])
@pytest.mark.parametrize(("span", "pages", "is_whole"), [(LEAST, 5, True), (2 * LEAST, 2, True), (2 * LEAST, 3, False)])
async def test_list_that_holds_too_much_is_left_unless_it_cannot_be_halved(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, module: ModuleType, span: timedelta, pages: int, *, is_whole: bool
) -> None:
    monkeypatch.setattr(module, "PAGES_MAX", 2)
    around = replace(bench.around, gateway=cast("Any", OneMoment(pages)))
    take = balance._take if module is balance else events.take_events
    assert (await take(around, Slice(SINCE, SINCE + span, by_objects=False))).is_whole is is_whole


@pytest.mark.anyio
async def test_listing_ends_beyond_all_that_a_clock_ahead_of_ours_has_dated(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was made last before the crash is what a backup has lost."""
    parts: list[Slice] = []

    async def take(_: Surroundings, part: Slice, __: int) -> Taken:
        parts.append(part)
        return Taken(None, is_whole=True)

    monkeypatch.setattr(listing, "take_stock", take)
    now = datetime.now(UTC)
    await listing._compare(bench.around, listing.Listing(now - timedelta(hours=3), now, None, None, now))
    assert all(later.since < earlier.until for earlier, later in itertools.pairwise(parts) if earlier.until)
    assert (parts[-1].until or now) > now + timedelta(days=1)


@pytest.mark.anyio
async def test_crowded_present_believes_a_clock_that_runs_ahead_for_minutes_only(bench: Bench) -> None:
    """Beyond that, what happens from now on would lie behind what is taken for known."""
    now = datetime.now(UTC)
    bench.conn.execute("insert into payments.reconciler_progress (job, position) values ('x', %s)", (now,))

    async def take(_: Surroundings, part: Slice) -> Taken:
        return Taken(now + timedelta(days=1), is_whole=part.until is not None)

    assert await catch_up(bench.around, "x", take)
    ((position,),) = bench.conn.execute("select max(position) from payments.reconciler_progress").fetchall()
    assert position <= now + timedelta(minutes=11)


@pytest.mark.anyio
async def test_who_was_overtaken_while_catching_up_knows_nothing_of_the_present(bench: Bench) -> None:
    async def take(_: Surroundings, part: Slice) -> Taken:
        bench.conn.execute("update payments.reconciler_progress set position = now() where job = 'x'")
        return Taken(part.until, is_whole=True)

    bench.conn.execute("insert into payments.reconciler_progress (job, position) values ('x', now() - interval '1 m')")
    assert await catch_up(bench.around, "x", take) is None


@pytest.mark.anyio
@pytest.mark.parametrize("per_s", [1, 3, 5, 8, 20])
async def test_catching_up_comes_to_the_present_however_much_there_is(bench: Bench, per_s: int) -> None:
    """After an hour's pause, with two thousand objects in a slice at most."""
    now = datetime.now(UTC)
    bench.conn.execute(
        "insert into payments.reconciler_progress (job, position) values ('x', %s)", (now - timedelta(hours=1),)
    )

    async def take(_: Surroundings, part: Slice) -> Taken:
        until = min(part.until or now, now)
        is_whole = part.is_least or (until - part.since).total_seconds() * per_s <= 2_000
        return Taken(until, is_whole=is_whole)

    for _ in range(20):
        if await catch_up(bench.around, "x", take) is False:
            return
    raise AssertionError("it never comes to the present")


@pytest.mark.anyio
async def test_catching_up_hears_of_what_a_clock_ahead_of_stripes_has_gone_past(bench: Bench) -> None:
    """By our clock, Stripe is known beyond its present, by three hours; what happens there is heard of all the same."""
    stripes_now = datetime.now(UTC).replace(microsecond=0) - timedelta(hours=3)
    heard: list[datetime] = []
    made: list[datetime] = []

    async def take(_: Surroundings, part: Slice) -> Taken:
        found = [one for one in made if part.since <= one and (part.until is None or one <= part.until)]
        heard.extend(found)
        return Taken(max(found, default=None), is_whole=True)

    for second in range(3):
        assert await catch_up(bench.around, "x", take) is False
        made.append(stripes_now + timedelta(seconds=second))
    assert await catch_up(bench.around, "x", take) is False
    assert set(heard) == set(made)
    rows = dict(bench.conn.execute("select job, position from payments.reconciler_progress").fetchall())
    assert rows["x/heard"] == made[-1]
    assert rows["x"] > made[-1] + timedelta(hours=2), "what it says of how far it has come goes by our clock, as before"


@pytest.mark.anyio
async def test_crowd_in_hours_that_a_clock_went_past_is_caught_up_with(bench: Bench) -> None:
    """Our clock was put right: what was heard last lies hours behind where it had come to, and before the crowd."""
    now = datetime.now(UTC)
    for job, hours in (("x", 5), ("x/heard", -3)):
        bench.conn.execute(
            "insert into payments.reconciler_progress (job, position) values (%s, %s)",
            (job, now + timedelta(hours=hours)),
        )

    made = [now - timedelta(seconds=seconds) for seconds in range(1800)]

    async def take(_: Surroundings, part: Slice) -> Taken:
        found = [one for one in made if part.since <= one and (part.until is None or one <= part.until)]
        return Taken(max(found, default=None), is_whole=part.is_least or len(found) <= 200)

    for _ in range(10):
        if await catch_up(bench.around, "x", take) is False:
            return
    raise AssertionError("it never comes to the present")


@pytest.mark.anyio
async def test_catching_up_begins_with_the_first_payment_there_is(bench: Bench) -> None:
    """The list was never looked at, as at a first start, and after an upgrade that reads one more."""
    first, last = (insert_payment(bench.conn) for _ in range(2))
    began = datetime.now(UTC) - timedelta(hours=5)
    with past_the_triggers(bench.conn):
        for payment_id, created_at in ((first, began), (last, began + timedelta(hours=4))):
            bench.conn.execute(
                "update payments.payments set created_at = %s where payment_id = %s", (created_at, payment_id)
            )
    taken: list[Slice] = []

    async def take(_: Surroundings, part: Slice) -> Taken:
        taken.append(part)
        return Taken(None, is_whole=True)

    assert await catch_up(bench.around, "x", take) is False
    assert taken[0].since == began - OVERLAP


@pytest.mark.anyio
async def test_listing_takes_a_payment_whose_intent_is_not_known_for_one_of_which_nothing_is(bench: Bench) -> None:
    """As after a restore: only the listing can tell us of its PaymentIntent."""
    unknown, known, failed = (insert_payment(bench.conn) for _ in range(3))
    bench.conn.execute("update payments.payments set processor_payment_intent = 'pi_1' where payment_id = %s", (known,))
    bench.conn.execute(
        "update payments.payments set status = 'FAILED', failure_reason = 'CARD_DECLINED' where payment_id = %s",
        (failed,),
    )
    query = load_queries("reconciler")["known_payments"].decode()
    rows = bench.conn.execute(query, {"payment_ids": [unknown, known, failed]}).fetchall()
    assert dict(rows) == {unknown: None, known: "REQUESTED", failed: "FAILED"}
