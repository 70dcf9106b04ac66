"""Calls whose key is of no use any more: what they did at Stripe is found, or proved never to have been.

A capture, a cancel and a refund are looked up by their PaymentIntent, one by one. A PaymentIntent that may not exist is
looked for among all that were made since (sweep.py).
"""

import asyncio
from datetime import datetime
from typing import Any, assert_never
from uuid import UUID

import msgspec
import structlog

from payments.database.connections import in_short, statements, transaction
from payments.database.queries import load_queries
from payments.domain.attempts import KEY_AGE_MAX, CallOutcome
from payments.domain.signals import Kind
from payments.domain.states import PaymentStatus
from payments.inbox.fetching import last_history_id, receive_fetched
from payments.reconciler.asking import Refusal, StripeAway, answer_of, each_page
from payments.reconciler.commands import BY_CUSTOMER, QUEUES, send_command
from payments.reconciler.jobs import LOCKED, Job, Surroundings, guard_plans
from payments.reconciler.verdicts import (
    Absent,
    Doubled,
    Doubtful,
    Found,
    Operation,
    Question,
    Unshown,
    Verdict,
    decide_by_intent,
    decide_by_list,
    decide_question,
)
from payments.stripe_gateway.outcomes import Answered
from payments.wakeup import INBOX, QUEUE

# One part of the job: few enough that what is newer comes soon.
CALLS_MAX = 200
AT_ONCE_MAX = 8
# All refunds of one PaymentIntent: a thousand. More, and nothing is proved: an operator must look.
REFUND_PAGES_MAX = 10

_QUERIES = load_queries("reconciler")
log = structlog.get_logger()


class Case(msgspec.Struct, frozen=True):
    """A doubtful call: since when its effect may exist, from when on it is certainly done; the reason of a cancel.

    `swept_to`: how far down the sweep has looked for it, every part from the beginning on.
    """

    doubtful: Doubtful
    since: datetime
    quiet_at: datetime
    cancellation_reason: str
    swept_to: datetime | None = None


class Evidence(msgspec.Struct, frozen=True):
    """A verdict and what it rests on: the request id of the list, and how far the history went before it was asked."""

    verdict: Verdict
    request_id: str | None
    history_id: int


async def has_doubtful(around: Surroundings) -> bool:
    """Whether there is any call to reconcile at all."""
    async with statements(around.pool) as conn:
        return await (await conn.execute(_QUERIES["has_doubtful"])).fetchone() is not None


async def find_cases(around: Surroundings, *, swept: bool) -> list[Case]:
    """The calls to reconcile that have been quiet for long enough: first those to be swept for, or the others."""
    values = {
        "quiet_s": around.settings.reconcile_after_s,
        "attempt_s": around.settings.lease_s + around.settings.stripe_timeout_s,
        "key_s": KEY_AGE_MAX.total_seconds(),
        "swept": swept,
        "rows_max": CALLS_MAX,
    }
    async with statements(around.pool) as conn:
        rows: list[Any] = await (await conn.execute(_QUERIES["find_doubtful"], values)).fetchall()
    return [_read(row) for row in rows]


def _read(row: tuple[Any, ...]) -> Case:
    (
        call_id,
        payment_id,
        subject_id,
        operation,
        status,
        intent_id,
        capture_id,
        refund_status,
        since,
        quiet_at,
        reason,
        swept_to,
    ) = row
    doubtful = Doubtful(
        call_id=call_id,
        payment_id=payment_id,
        subject_id=subject_id,
        operation=Operation(operation),
        status=PaymentStatus(status),
        intent_id=intent_id,
        capture_id=capture_id,
        refund_status=refund_status,
    )
    return Case(doubtful, since, quiet_at, reason or BY_CUSTOMER, swept_to)


async def look_into(around: Surroundings, cases: list[Case]) -> None:
    """Settles cases one by one, some at once; raises StripeAway when Stripe does not answer."""
    limit = asyncio.Semaphore(AT_ONCE_MAX)

    async def one(case: Case) -> None:
        async with limit:
            try:
                evidence = await _ask(around, case.doubtful)
            except Refusal as error:
                evidence = Evidence(Unshown(str(error)), None, 0)
            await settle(around, case, evidence)

    results = await asyncio.gather(*(one(case) for case in cases), return_exceptions=True)
    broken = [result for result in results if isinstance(result, BaseException)]
    if broken:  # a fault of ours says more than Stripe's silence
        raise next((error for error in broken if not isinstance(error, StripeAway)), broken[0])


async def _ask(around: Surroundings, doubtful: Doubtful) -> Evidence:
    history_id = await last_history_id(around.pool, doubtful.payment_id)
    question = decide_question(doubtful)
    match question:
        case Question.NONE:
            return Evidence(Found(()), None, history_id)
        case Question.INTENT:
            assert doubtful.intent_id is not None
            answer = answer_of(await around.gateway.retrieve_payment_intent(doubtful.intent_id))
            return Evidence(decide_by_intent(doubtful, answer.object), answer.request_id, history_id)
        case Question.REFUNDS:
            return await _look_through_refunds(around, doubtful, history_id)
        case Question.CREATED:
            raise AssertionError("the sweep looks for these")
        case _:
            assert_never(question)


async def _look_through_refunds(around: Surroundings, doubtful: Doubtful, history_id: int) -> Evidence:
    refunds: list[dict[str, Any]] = []
    request_id, pages = None, 0
    async for page in each_page(lambda after: around.gateway.list_refunds(doubtful.intent_id, starting_after=after)):
        pages += 1
        refunds += page.objects
        request_id = page.request_id
        if pages == REFUND_PAGES_MAX and page.has_more:
            raise Refusal(200, "more refunds than anybody looks through")
    return Evidence(decide_by_list(doubtful, refunds), request_id, history_id)


async def settle(around: Surroundings, case: Case, evidence: Evidence) -> None:
    """One transaction for what follows from a verdict, if the call still is to be reconciled.

    While somebody keeps its payment locked, the call stays as it is, and the others have their turn.
    """
    try:
        await _settle(around, case, evidence)
    except LOCKED as error:
        around.found["calls of locked payments"] += 1
        log.warning("call.unsettled", payment_id=str(case.doubtful.payment_id), error=in_short(error))


async def _settle(around: Surroundings, case: Case, evidence: Evidence) -> None:
    verdict = evidence.verdict
    match verdict:
        case Found():
            await _close(around, case, evidence, verdict.objects)
        case Absent():
            await _ask_again(around, case)
        case Doubled():
            ids = ", ".join(str(one["id"]) for one in verdict.objects)
            await park(around, case, f"Stripe has two for one wish: {ids}", verdict.objects)
        case Unshown(why):
            await park(around, case, f"Stripe refused to show what became of it: {why}", ())
        case _:
            assert_never(verdict)


async def _close(around: Surroundings, case: Case, evidence: Evidence, objects: tuple[dict[str, Any], ...]) -> None:
    doubtful = case.doubtful
    async with transaction(around.pool) as conn:
        await guard_plans(conn)
        values = {"call_id": doubtful.call_id, "outcome": CallOutcome.SETTLED}
        if not (await conn.execute(_QUERIES["close_call"], values)).rowcount:
            return
        for found in objects:
            answer = Answered(found, 200, evidence.request_id)
            await receive_fetched(
                conn, _kind(found), str(found["id"]), doubtful.payment_id, answer, evidence.history_id
            )
    if objects:
        around.found["lost effects found"] += 1
        around.notifier.notify(INBOX)
    else:
        around.found["calls settled otherwise"] += 1
    log.info(
        "call.reconciled",
        operation=doubtful.operation.value,
        payment_id=str(doubtful.payment_id),
        found=[str(found["id"]) for found in objects],
    )


async def _ask_again(around: Surroundings, case: Case) -> None:
    """Nothing exists under the old key: a command is due, which goes out under the next one, if the wish stands."""
    doubtful = case.doubtful
    async with transaction(around.pool) as conn:
        await guard_plans(conn)
        # First the payment, then its call: the worker's order.
        await conn.execute(_QUERIES["lock_payment"], {"payment_id": doubtful.payment_id})
        values = {"call_id": doubtful.call_id, "outcome": CallOutcome.ABSENT}
        if not (await conn.execute(_QUERIES["close_call"], values)).rowcount:
            return
        queue = await send_command(
            conn, doubtful.operation, doubtful.payment_id, doubtful.subject_id, case.cancellation_reason
        )
    around.found["proofs of absence"] += 1
    if queue is not None:
        around.notifier.notify(QUEUE, queue)
    log.info("call.proved_absent", operation=doubtful.operation.value, payment_id=str(doubtful.payment_id))


async def park(around: Surroundings, case: Case, why: str, objects: tuple[dict[str, Any], ...]) -> None:
    """Leaves a call to an operator, with a dead letter that names it; what exists goes to the recorder all the same."""
    doubtful = case.doubtful
    async with transaction(around.pool) as conn:
        await guard_plans(conn)
        values = {"call_id": doubtful.call_id, "why": why}
        if not (await conn.execute(_QUERIES["park_call"], values)).rowcount:
            return
        message = {"paymentId": doubtful.payment_id, **_subject(doubtful)}
        letter = {
            "call_id": doubtful.call_id,
            "origin": f"queue:{QUEUES[doubtful.operation]}",
            "payload": msgspec.json.encode(message).decode(),
            "why": why,
        }
        await conn.execute(_QUERIES["leave_dead_letter"], letter)
        for found in objects:
            answer = Answered(found, 200, None)
            await receive_fetched(conn, _kind(found), str(found["id"]), doubtful.payment_id, answer, 0)
    around.found["calls parked"] += 1
    around.notifier.notify(INBOX)
    log.error("call.parked", operation=doubtful.operation.value, payment_id=str(doubtful.payment_id), why=why)


def _subject(doubtful: Doubtful) -> dict[str, UUID]:
    match doubtful.operation:
        case Operation.CAPTURE:
            return {"captureId": doubtful.subject_id}
        case Operation.REFUND:
            return {"refundId": doubtful.subject_id}
        case Operation.CREATE | Operation.CANCEL:
            return {}
        case _:
            assert_never(doubtful.operation)


def _kind(found: dict[str, Any]) -> Kind:
    return Kind.REFUND if found.get("object") == "refund" else Kind.PAYMENT_INTENT


async def reconcile_calls(around: Surroundings) -> bool:
    """Settles what can be asked for directly; whether the rest would have to be swept for is the sweep's business."""
    found = await find_cases(around, swept=False)
    cases = [case for case in found if decide_question(case.doubtful) is not Question.CREATED]
    around.found["doubtful calls"] += len(cases)
    await look_into(around, cases)
    return False


CALLS = Job(
    "calls",
    reconcile_calls,
    lambda settings: min(1.0, settings.reconcile_after_s),
    takes_turns=True,
    has_work=has_doubtful,
)
