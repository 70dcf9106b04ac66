"""What is in doubt is fetched, outside any transaction; without an answer the row waits and loses nothing."""

from typing import Any
from uuid import UUID

import pytest

from payments.inbox import recorder as recorder_module
from payments.inbox.fetching import PAUSE_S_MAX
from payments.inbox.recorder import ATTEMPTS_MAX, FETCHES_MAX
from payments.stripe_gateway.outcomes import Answered, KeyInUse, Outcome, RateLimited, Refused, Unauthorized, Unknown
from tests.domain.stripe_objects import INTENT, answered, event, fetched, intent
from tests.inbox.conftest import Desk
from tests.inbox.rows import insert_message

pytestmark = pytest.mark.anyio

ROW = "select processed_at, attempts, next_attempt_at > now(), last_error from payments.inbox"


def ask(desk: Desk, payment_id: UUID, **fields: Any) -> None:
    """A hint: an event of another API version, of a PaymentIntent that has in truth succeeded."""
    desk.truth.intents[INTENT] = intent(payment_id, "succeeded")
    desk.webhook(
        event("payment_intent.processing", intent(payment_id, "processing"), api_version="2019-02-11", **fields)
    )


@pytest.mark.every_postgres
async def test_doubt_is_settled_by_the_object_as_it_is(desk: Desk) -> None:
    payment_id = desk.payment()
    ask(desk, payment_id)
    await desk.settle()
    rows = desk.sql(
        "select source, message_id, message_type, outcome, payment_id from payments.inbox order by inbox_id"
    )
    assert rows[0][0::3] == ("stripe-webhook", "superseded")
    assert rows[1] == ("reconciler", f"{INTENT}/req_fetch1", "fetched.payment_intent", "applied", payment_id)
    assert [row[:4] for row in desk.history(payment_id)] == [
        ("fetched.payment_intent", "reconciler", "REQUESTED", "SUCCEEDED")
    ]


async def test_doubts_of_one_payment_are_settled_by_one_fetch(desk: Desk) -> None:
    payment_id = desk.payment()
    for _ in range(5):
        ask(desk, payment_id)
    await desk.settle()
    assert desk.truth.asked == [INTENT]
    assert sorted(desk.outcomes()) == ["applied", *["superseded"] * 5]


NO_ANSWERS = [RateLimited(None, None), Unauthorized(401, "no", None), Unknown("timeout"), KeyInUse(None)]


async def fail_to_fetch(desk: Desk, times: int = 1) -> None:
    for _ in range(times):
        desk.sql("update payments.inbox set next_attempt_at = now() where next_attempt_at is not null")
        await desk.recorder.run_once()
        await desk.recorder.finish_fetches(5)


@pytest.mark.parametrize("outcome", NO_ANSWERS)
async def test_without_an_answer_the_row_waits_and_is_asked_for_again(desk: Desk, outcome: Outcome) -> None:
    payment_id = desk.payment()
    ask(desk, payment_id)
    desk.truth.instead = outcome
    await fail_to_fetch(desk)
    processed_at, attempts, is_waiting, error = desk.one(ROW)
    assert (processed_at, attempts, is_waiting) == (None, 0, True)
    assert error
    assert desk.status(payment_id) == "REQUESTED"
    desk.truth.instead = None
    await desk.settle()
    assert desk.status(payment_id) == "SUCCEEDED"


@pytest.mark.parametrize("outcome", NO_ANSWERS)
async def test_row_has_all_its_attempts_after_an_outage_of_any_length(
    desk: Desk, outcome: Outcome, monkeypatch: pytest.MonkeyPatch
) -> None:
    payment_id = desk.payment()
    ask(desk, payment_id)
    desk.truth.instead = outcome
    await fail_to_fetch(desk, times=ATTEMPTS_MAX + 2)
    assert len(desk.truth.asked) == ATTEMPTS_MAX + 2
    desk.truth.instead = None

    async def stumble(*_: object) -> None:
        raise ValueError("an ordinary error")

    with monkeypatch.context() as patched:
        patched.setattr(recorder_module, "weigh", stumble)
        await fail_to_fetch(desk, times=ATTEMPTS_MAX - 1)
    assert desk.one("select attempts, outcome from payments.inbox") == (ATTEMPTS_MAX - 1, None)
    assert desk.sql("select from payments.dead_letters") == []
    await desk.settle()
    assert desk.status(payment_id) == "SUCCEEDED"


@pytest.mark.parametrize("outcome", NO_ANSWERS)
async def test_pause_without_an_answer_grows_with_the_age_of_the_row_up_to_a_minute(
    desk: Desk, outcome: Outcome
) -> None:
    ask(desk, desk.payment())
    desk.truth.instead = outcome
    pauses_s: list[float] = []
    for age_s in (-3600, 0, 40, 86400):  # the first: a clock that was set back
        desk.sql("update payments.inbox set received_at = clock_timestamp() - make_interval(secs => %s)", age_s)
        await fail_to_fetch(desk)
        (left_s,) = desk.one(
            "select extract(epoch from next_attempt_at - clock_timestamp())::float from payments.inbox"
        )
        pauses_s.append(left_s)
    assert min(pauses_s) > 0
    assert pauses_s[1] + 5 < pauses_s[2] < pauses_s[3] - 5
    assert max(pauses_s) <= PAUSE_S_MAX


async def test_intent_that_stripe_does_not_know_changes_nothing(desk: Desk) -> None:
    payment_id = desk.payment()
    ask(desk, payment_id)
    desk.truth.intents.clear()
    await desk.settle()
    assert desk.status(payment_id) == "REQUESTED"
    assert desk.outcomes() == ["superseded", "ignored"]
    assert "knows no PaymentIntent" in desk.history(payment_id)[0][5]


async def test_fetch_that_is_refused_goes_to_an_operator(desk: Desk) -> None:
    payment_id = desk.payment()
    ask(desk, payment_id)
    desk.truth.instead = Refused({"code": "x"}, 400, None)
    await desk.settle()
    assert desk.outcomes() == ["dead"]
    assert desk.sql("select payment_id from payments.dead_letters") == [(payment_id,)]


async def test_answers_under_one_request_id_are_all_kept(desk: Desk) -> None:
    """Another server than Stripe may number its requests badly."""
    first, second = desk.payment(payment_method=None), desk.payment(payment_method=None)

    async def same_id(intent_id: str) -> Outcome:
        return Answered(desk.truth.intents[intent_id], 200, None)

    desk.truth.retrieve_payment_intent = same_id  # type: ignore[method-assign]
    for payment_id, number in ((first, 1), (second, 2), (first, 1)):
        thing = intent(payment_id, "requires_payment_method", id=f"pi_{number}")
        desk.truth.intents[f"pi_{number}"] = thing
        desk.webhook(event("payment_intent.x", thing, api_version=None))
        await desk.settle()
    assert (desk.status(first), desk.status(second)) == ("ACTION_REQUIRED", "ACTION_REQUIRED")
    assert desk.one("select count(*) from payments.inbox where source = 'reconciler'") == (3,)


async def test_more_doubts_than_may_be_fetched_at_once_come_later(desk: Desk) -> None:
    for number in range(FETCHES_MAX + 5):
        payment_id = desk.payment()
        thing = intent(payment_id, "succeeded", id=f"pi_{number}")
        desk.truth.intents[f"pi_{number}"] = thing
        desk.webhook(event("payment_intent.succeeded", thing, api_version=None))
    await desk.recorder.run_once()
    await desk.recorder.finish_fetches(5)
    assert len(desk.truth.asked) == FETCHES_MAX
    await desk.settle()
    assert desk.one("select count(*) from payments.payments where status <> 'SUCCEEDED'") == (0,)


async def test_word_that_came_while_a_fetch_was_under_way_makes_it_stale(desk: Desk) -> None:
    payment_id = desk.payment(payment_method=None)
    desk.answer(answered(intent(payment_id, "requires_payment_method")), payment_id)
    await desk.settle()
    asked: list[str] = []
    old_truth = intent(payment_id, "processing")
    new_truth = intent(payment_id, "requires_action")

    async def slow(intent_id: str) -> Outcome:
        """Stripe goes on, and we hear of it, while its answer is on the way."""
        asked.append(intent_id)
        desk.truth.intents[INTENT] = old_truth if len(asked) == 1 else new_truth
        outcome = await type(desk.truth).retrieve_payment_intent(desk.truth, intent_id)
        if len(asked) == 1:
            desk.webhook(event("payment_intent.payment_failed", intent(payment_id, "requires_payment_method")))
            await another.run_once()
        return outcome

    another = desk.another_recorder()
    desk.truth.retrieve_payment_intent = slow  # type: ignore[method-assign]
    desk.webhook(event("payment_intent.processing", old_truth))
    await desk.settle()
    assert asked == [INTENT, INTENT]
    (action,) = desk.one("select next_action ->> 'type' from payments.payments where payment_id = %s", payment_id)
    assert (desk.status(payment_id), action) == ("ACTION_REQUIRED", "use_stripe_sdk")


async def test_word_that_is_weighed_in_the_same_batch_makes_a_fetched_object_stale(desk: Desk) -> None:
    payment_id = desk.payment(payment_method=None)
    desk.answer(answered(intent(payment_id, "requires_payment_method")), payment_id)
    await desk.settle()
    (known_until,) = desk.one("select max(history_id) from payments.payment_history")
    desk.truth.intents[INTENT] = intent(payment_id, "requires_action")
    desk.webhook(event("payment_intent.payment_failed", intent(payment_id, "requires_payment_method")))
    old_truth = fetched(intent(payment_id, "processing"), known_until)
    insert_message(desk.admin, "reconciler", f"{INTENT}/req_old", "fetched.payment_intent", payment_id, old_truth)
    assert await desk.recorder.run_once() == 2
    await desk.settle()
    assert desk.truth.asked == [INTENT]
    (action,) = desk.one("select next_action ->> 'type' from payments.payments where payment_id = %s", payment_id)
    assert (desk.status(payment_id), action) == ("ACTION_REQUIRED", "use_stripe_sdk")


async def test_answer_that_comes_after_the_lease_was_lost_adds_nothing(desk: Desk) -> None:
    payment_id = desk.payment()
    ask(desk, payment_id)

    async def overtaken(intent_id: str) -> Outcome:
        desk.sql("update payments.inbox set processed_at = now(), outcome = 'superseded'")
        return Answered(desk.truth.intents[intent_id], 200, "req_late")

    desk.truth.retrieve_payment_intent = overtaken  # type: ignore[method-assign]
    await desk.recorder.run_once()
    await desk.recorder.finish_fetches(5)
    assert desk.one("select count(*) from payments.inbox") == (1,)
