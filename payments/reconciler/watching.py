"""The watches: looks at payments that have something open at Stripe, and ends what nobody finishes."""

import asyncio
from datetime import datetime, timedelta
from typing import Any, assert_never
from uuid import UUID

import msgspec
import psycopg
import structlog

from payments.database.connections import Connection, in_short, statements, transaction
from payments.database.queries import load_queries
from payments.domain.facts import UnreadableObject, read_payment_intent
from payments.domain.signals import Kind
from payments.domain.states import PaymentStatus
from payments.inbox.fetching import receive_fetched
from payments.outbox.events import VoidRequested
from payments.outbox.rows import append
from payments.reconciler.asking import Refusal, StripeAway, answer_of, each_page
from payments.reconciler.commands import ABANDONED, send_command
from payments.reconciler.jobs import Job, Surroundings, guard_plans
from payments.reconciler.looks import (
    KnownRefund,
    Limit,
    Limits,
    Look,
    Rest,
    Sight,
    Watched,
    decide_limit,
    decide_pause,
    decide_refunds,
    decide_sight,
    decide_watch,
)
from payments.reconciler.verdicts import Operation
from payments.stripe_gateway.outcomes import Answered
from payments.wakeup import INBOX, OUTBOX, QUEUE

# Looks of one claim, all under way at once: at Stripe's usual quarter of a second some thirty calls a second.
LOOKS_MAX = 8
# A claim ends by itself, should its process die: longer than the longest calls of a look, and its writing.
LEASE_EXTRA_S = 30.0
REFUND_PAGES_MAX = 10  # a thousand refunds of one payment
# One whose look broke, or got no answer, waits so long; the others go on.
BROKEN_PAUSE_S = 60.0

_QUERIES = load_queries("reconciler")
log = structlog.get_logger()


class _Claimed(msgspec.Struct, frozen=True):
    """A watch that is ours until its lease runs out. `until` names the lease; `history_id`: known before the look."""

    watched: Watched
    until: str
    history_id: int
    now: datetime


class _Seen(msgspec.Struct):
    """What a look has brought: objects for the inbox, and what the PaymentIntent says."""

    sight: Sight = Sight.NO_NEWS
    news: list[tuple[Kind, Answered]] = msgspec.field(default_factory=list)


async def look_at_watches(around: Surroundings) -> bool:
    """Looks at one batch of what is due; whether more may be. Raises StripeAway when Stripe answers none of them."""
    claims = await _claim(around)
    results = await asyncio.gather(*(_follow(around, claim) for claim in claims), return_exceptions=True)
    for claim, result in zip(claims, results, strict=True):
        if isinstance(result, BaseException) and not isinstance(result, StripeAway):
            await _record_broken(around, claim, result)
    away = [result for result in results if isinstance(result, StripeAway)]
    if away:
        around.found["looks without an answer"] += len(away)
        if len(away) == len(results):  # else only these objects are in trouble, and they are put off
            raise away[0]
        log.warning("watches.unanswered", count=len(away), why=away[0].why)
    return len(claims) == LOOKS_MAX


async def _claim(around: Surroundings) -> list[_Claimed]:
    settings = around.settings
    values = {
        "first_look_s": 0.0 if around.at_once else limits_of(around).first_look.total_seconds(),
        "rows_max": LOOKS_MAX,
        "lease_s": 2 * settings.stripe_timeout_s + LEASE_EXTRA_S,
    }
    async with transaction(around.pool) as conn:
        await guard_plans(conn)
        rows: list[Any] = await (await conn.execute(_QUERIES["claim_watches"], values)).fetchall()
    return [_read(row) for row in rows]


def limits_of(around: Surroundings) -> Limits:
    """The settings as spans. A limit below the first look's pause makes that come earlier."""
    settings = around.settings
    action_required = timedelta(hours=settings.action_required_hours)
    orphan_hold = timedelta(hours=settings.orphan_hold_hours)
    after = timedelta(seconds=settings.reconcile_after_s)
    return Limits(min(after, action_required, orphan_hold), action_required, orphan_hold)


def _read(row: tuple[Any, ...]) -> _Claimed:
    (payment_id, status, intent_id, looks, changed_at, capture_before, action, *rest) = row
    (is_orphan, is_cancelled, is_compensated, refunds, until, history_id, now) = rest
    watched = Watched(
        payment_id=payment_id,
        status=PaymentStatus(status),
        intent_id=intent_id,
        looks=looks,
        changed_at=changed_at,
        capture_before=capture_before,
        action=action,
        is_orphan=is_orphan,
        is_cancelled=is_cancelled,
        is_compensated=is_compensated,
        refunds=tuple(KnownRefund(UUID(one[0]), one[1], one[2]) for one in refunds),
    )
    return _Claimed(watched, until, history_id, now)


async def _follow(around: Surroundings, claim: _Claimed) -> None:
    watched = claim.watched
    match decide_watch(watched):
        case Rest():
            await _end(around, claim)
        case Look() as look:
            around.found["payments looked at"] += 1
            try:
                seen = await _look(around, watched, look)
            except StripeAway as error:
                # Put off like any other: one object that Stripe cannot show must not be the first in every batch.
                pause_s = max(error.pause_s, decide_pause(watched, claim.now, limits_of(around)).total_seconds())
                await _again(around, claim, watched.looks, min(pause_s, BROKEN_PAUSE_S))
                raise
            await _record(around, claim, seen)
        case other:
            assert_never(other)


async def _look(around: Surroundings, watched: Watched, look: Look) -> _Seen:
    """Asks Stripe, outside any transaction."""
    seen = _Seen()
    if look.intent and watched.intent_id is not None:
        answer = answer_of(await around.gateway.retrieve_payment_intent(watched.intent_id))
        seen.sight = _sight(watched, answer)
        if seen.sight in {Sight.NEWS, Sight.HALF_MADE}:
            seen.news.append((Kind.PAYMENT_INTENT, answer))
    if look.refunds and watched.intent_id is not None:
        intent_id, pages = watched.intent_id, 0
        async for page in each_page(lambda after: around.gateway.list_refunds(intent_id, starting_after=after)):
            pages += 1
            for refund in decide_refunds(watched, page.objects):
                seen.news.append((Kind.REFUND, Answered(refund, 200, page.request_id)))
            if pages == REFUND_PAGES_MAX:
                break
    return seen


def _sight(watched: Watched, answer: Answered) -> Sight:
    try:
        return decide_sight(watched, read_payment_intent(answer.object))
    except UnreadableObject:
        return Sight.NEWS  # the recorder says what is wrong with it


async def _record(around: Surroundings, claim: _Claimed, seen: _Seen) -> None:
    """One transaction for all that follows from a look."""
    watched = claim.watched
    limits = limits_of(around)
    may_end = seen.sight in {Sight.NO_NEWS, Sight.HALF_MADE}
    limit = decide_limit(watched, claim.now, limits) if may_end else None
    queue: str | None = None
    has_voided = False
    async with transaction(around.pool) as conn:
        await guard_plans(conn)
        for kind, answer in seen.news:
            object_id = str(answer.object.get("id"))
            await receive_fetched(conn, kind, object_id, watched.payment_id, answer, claim.history_id)
        if seen.sight is Sight.LEFT_OPEN or limit is Limit.ABANDONED:
            payment_id = watched.payment_id
            queue = await send_command(conn, Operation.CANCEL, payment_id, payment_id, ABANDONED)
        elif limit is Limit.ORPHANED:
            has_voided = await _void_orphan(conn, watched.payment_id)
        is_over = seen.sight is Sight.AT_REST and not any(one.status == "PENDING" for one in watched.refunds)
        if is_over:
            await conn.execute(_QUERIES["end_watch"], _fence(claim))
        else:
            pause_s = decide_pause(watched, claim.now, limits).total_seconds()
            await conn.execute(
                _QUERIES["watch_again"], {**_fence(claim), "looks": watched.looks + 1, "pause_s": pause_s}
            )
    _tell(around, watched, seen, limit, queue, has_voided=has_voided)


def _tell(  # noqa: PLR0913 - all that a look can come to
    around: Surroundings, watched: Watched, seen: _Seen, limit: Limit | None, queue: str | None, *, has_voided: bool
) -> None:
    if seen.news:
        around.found["news for the inbox"] += len(seen.news)
        around.notifier.notify(INBOX)
    if queue is not None:
        around.found["cancels sent"] += 1
        around.notifier.notify(QUEUE, queue)
    if has_voided:
        around.found["orphan holds voided"] += 1
        around.notifier.notify(OUTBOX)
    log.info(
        "payment.looked_at",
        payment_id=str(watched.payment_id),
        status=watched.status.value,
        looks=watched.looks + 1,
        sight=seen.sight.value,
        news=len(seen.news),
        limit=limit.value if limit else None,
    )


async def _void_orphan(conn: Connection, payment_id: UUID) -> bool:
    row: Any = await (await conn.execute(_QUERIES["void_orphan"], {"payment_id": payment_id})).fetchone()
    if row is None:
        return False
    order_id, amount, currency, sequence, at = row
    history = {
        "payment_id": payment_id,
        "signal": "time limit of an orphan hold",
        "from_status": PaymentStatus.AUTHORIZED.value,
        "to_status": PaymentStatus.VOIDING.value,
        "why": "no order has claimed the hold in time",
    }
    await conn.execute(_QUERIES["add_history"], history)
    event = VoidRequested(payment_id=payment_id, order_id=order_id, amount=amount, currency=currency, requested_at=at)
    await append(conn, payment_id, sequence, event, at)
    return True


async def _record_broken(around: Surroundings, claim: _Claimed, error: BaseException) -> None:
    """One look must never stop the others: a refusal, a lock that somebody keeps, or a fault of ours."""
    if not isinstance(error, Exception):
        raise error
    log.error(
        "watch.broken",
        payment_id=str(claim.watched.payment_id),
        error=in_short(error) if isinstance(error, (Refusal, psycopg.Error)) else type(error).__name__,
        exc_info=None if isinstance(error, (Refusal, psycopg.Error)) else error,
    )
    around.found["looks that broke"] += 1
    pause_s = max(BROKEN_PAUSE_S, decide_pause(claim.watched, claim.now, limits_of(around)).total_seconds())
    await _again(around, claim, claim.watched.looks + 1, pause_s)


async def _again(around: Surroundings, claim: _Claimed, looks: int, pause_s: float) -> None:
    async with statements(around.pool) as conn:
        await conn.execute(_QUERIES["watch_again"], {**_fence(claim), "looks": looks, "pause_s": pause_s})


async def _end(around: Surroundings, claim: _Claimed) -> None:
    around.found["watches ended"] += 1
    async with statements(around.pool) as conn:
        await conn.execute(_QUERIES["end_watch"], _fence(claim))


def _fence(claim: _Claimed) -> dict[str, object]:
    return {"payment_id": claim.watched.payment_id, "claimed": claim.until}


WATCHES = Job("watches", look_at_watches, lambda settings: min(1.0, settings.reconcile_after_s), takes_turns=False)
