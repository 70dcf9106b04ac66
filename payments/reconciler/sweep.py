"""Looks for PaymentIntents that may or may not exist among all that were made: Stripe's list knows no metadata filter.

One sweep serves all calls in doubt: from the newest PaymentIntent down to the first attempt of the oldest call. It goes
on where it stood, in whatever process; a call is absent only if one whole sweep, begun when it was over, never met it:
each part notes for which calls it has looked, so who joins halfway waits for the next.
"""

import math
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import structlog

from payments.database.connections import transaction
from payments.database.queries import load_queries
from payments.reconciler.asking import StripeAway, each_page
from payments.reconciler.calls import Case, Evidence, find_cases, has_doubtful, look_into, settle
from payments.reconciler.jobs import Job, Surroundings, move_progress, read_progress
from payments.reconciler.verdicts import Doubled, Found, Question, decide_by_list, decide_question, names

# Between our clock and Stripe's: far beyond what NTP leaves.
SKEW_MAX = timedelta(minutes=10)
# Ahead by more than this, what a call has made might be older than where we begin to look for it.
AHEAD_MAX = SKEW_MAX / 2
# No PaymentIntent is newer than this, whatever Stripe's clock says.
FUTURE = timedelta(days=365)
CLOCK_PAUSE_S = 60.0
# One part of the job: five thousand PaymentIntents, some fifteen seconds.
PAGES_MAX = 50

BEGAN, BOTTOM, POSITION = "sweep/began", "sweep/bottom", "sweep/position"

_QUERIES = load_queries("reconciler")
log = structlog.get_logger()


class Sweep(msgspec.Struct, frozen=True):
    """A sweep under way: everything made after `position` was looked at; it ends at `bottom`."""

    began: datetime
    bottom: datetime
    position: datetime

    @property
    def is_over(self) -> bool:
        """Whether it has reached its end."""
        return self.position <= self.bottom

    def proves(self, case: Case) -> bool:
        """Whether what the whole sweep does not meet was never made by this call."""
        is_in_it = case.swept_to == self.position
        return is_in_it and case.quiet_at <= self.began and case.since - SKEW_MAX >= self.bottom


async def sweep(around: Surroundings) -> bool:
    """Looks through one part; whether the sweep goes on. Raises StripeAway."""
    found = await find_cases(around, swept=True)
    cases = [case for case in found if decide_question(case.doubtful) is Question.CREATED]
    if not cases:
        return False
    around.found["doubtful calls"] += len(cases)
    taken_up = await _take_up(around, cases)
    if taken_up is None:
        return False  # another process has it
    going, cases, now = taken_up
    by_payment = {str(case.doubtful.subject_id): case for case in cases}
    matches: dict[str, list[dict[str, Any]]] = {}
    pages, reached, is_done = 0, going.position, False
    async for page in each_page(
        lambda after: around.gateway.list_payment_intents(
            math.floor(going.bottom.timestamp()), math.ceil(going.position.timestamp()), after
        )
    ):
        pages += 1
        _check_clock(around, now)
        for intent in page.objects:
            payment_id = names(intent, "paymentId")
            if payment_id in by_payment:
                matches.setdefault(payment_id, []).append(intent)
        is_done = not page.has_more
        reached = _made_at(page.objects, reached)
        if pages == PAGES_MAX:
            break
    around.found["pages of PaymentIntents"] += pages
    await _conclude(around, going, by_payment, matches, going.bottom if is_done else reached)
    return not is_done


def _check_clock(around: Surroundings, now: datetime) -> None:
    """Nothing is proved by a clock that is wrong: `now` is the database's, which dates attempts. Raises StripeAway."""
    stripe_time = around.gateway.stripe_time()
    if stripe_time is not None and now - stripe_time > AHEAD_MAX:
        ahead_s = round((now - stripe_time).total_seconds())
        log.error("sweep.clock_ahead", ahead_s=ahead_s)
        raise StripeAway(f"the database's clock is {ahead_s} s ahead of Stripe's", CLOCK_PAUSE_S)


def _made_at(objects: list[dict[str, Any]], otherwise: datetime) -> datetime:
    created = objects[-1].get("created") if objects else None
    return datetime.fromtimestamp(created, UTC) if type(created) is int else otherwise


async def _take_up(around: Surroundings, cases: list[Case]) -> tuple[Sweep, list[Case], datetime] | None:
    """The sweep under way, or a new one for the calls there are; the database's time. None: another was quicker."""
    async with transaction(around.pool) as conn:
        progress, now = await read_progress(conn, BEGAN, BOTTOM, POSITION)
        if len(progress) == 3:
            going = Sweep(progress[BEGAN], progress[BOTTOM], progress[POSITION])
            if not going.is_over and any(going.proves(case) for case in cases):
                return going, cases, now
        fresh = Sweep(now, min(case.since for case in cases) - SKEW_MAX, now + FUTURE)
        if not await move_progress(conn, POSITION, progress.get(POSITION), fresh.position):
            return None
        await move_progress(conn, BEGAN, progress.get(BEGAN), fresh.began)
        await move_progress(conn, BOTTOM, progress.get(BOTTOM), fresh.bottom)
        await conn.execute(_QUERIES["begin_sweep"], {"call_ids": _ids(cases), "position": fresh.position})
        return fresh, [msgspec.structs.replace(case, swept_to=fresh.position) for case in cases], now


def _ids(cases: Iterable[Case]) -> list[int]:
    return [case.doubtful.call_id for case in cases]


async def _conclude(
    around: Surroundings,
    going: Sweep,
    by_payment: dict[str, Case],
    matches: dict[str, list[dict[str, Any]]],
    reached: datetime,
) -> None:
    """What was found is settled at once; what was not, only by the one who brings the sweep to its end.

    Raises StripeAway once that is done: a PaymentIntent that Stripe does not show holds up no other call. Its own waits
    for the next sweep, since this one did find it, and `move_sweep` passes it by.
    """
    away = None
    for payment_id, intents in matches.items():
        try:
            await _settle_found(around, by_payment[payment_id], intents)
        except StripeAway as error:
            away = away or error
    unseen = [case for payment_id, case in by_payment.items() if payment_id not in matches]
    await _conclude_unseen(around, going, unseen, reached)
    if away is not None:
        raise away


async def _conclude_unseen(around: Surroundings, going: Sweep, cases: list[Case], reached: datetime) -> None:
    async with transaction(around.pool) as conn:
        is_ours = await move_progress(conn, POSITION, going.position, reached)
        if is_ours:
            values = {"call_ids": _ids(cases), "before": going.position, "position": reached}
            await conn.execute(_QUERIES["move_sweep"], values)
    if not is_ours or reached > going.bottom:
        return
    for case in cases:
        if going.proves(case):
            await settle(around, case, Evidence(decide_by_list(case.doubtful, []), None, 0))


async def _settle_found(around: Surroundings, case: Case, intents: list[dict[str, Any]]) -> None:
    verdict = decide_by_list(case.doubtful, intents)
    if isinstance(verdict, Doubled):
        await settle(around, case, Evidence(verdict, None, 0))
        return
    assert isinstance(verdict, Found), "it was found under its own name"
    # Asked for once more: a list shows no charge, and the charge knows until when a hold stands.
    intent_id = str(verdict.objects[0]["id"])
    await look_into(
        around, [msgspec.structs.replace(case, doubtful=msgspec.structs.replace(case.doubtful, intent_id=intent_id))]
    )


SWEEP = Job(
    "sweep", sweep, lambda settings: min(1.0, settings.reconcile_after_s), takes_turns=True, has_work=has_doubtful
)
