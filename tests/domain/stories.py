"""Ways of a payment's life, told: what Stripe says in the course of each, and how it has to end, whatever the order.

A story begins with a payment as it stands, and maybe refunds that were asked for. Its words may come in any order and
several times, with one exception: what follows from a wish of ours (`because`) is never said before the wish.
"""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from tests.domain.story import Story, Word, expanded, said_no
from tests.domain.stripe_objects import (
    CHARGE,
    INSUFFICIENT_FUNDS,
    Json,
    answered,
    declined,
    dispute,
    event,
    intent,
    refund,
    refused,
)

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def stories(new_uuid: Iterator[UUID], intent_ids: Iterator[str]) -> list[Story]:
    """Fresh stories, with ids of their own."""
    return [make(next(new_uuid), next(intent_ids), new_uuid) for make in MAKERS]


def _start(name: str, payment_id: UUID, **fields: Any) -> Story:
    return Story(name, payment_id, **fields)


def _hold(story: Story, intent_id: str) -> Json:
    """The words of a hold that was placed."""
    base: Json = {"id": intent_id, "capture_method": "manual"}
    story.tell("payment_intent.created", intent(story.payment_id, "requires_confirmation", **base))
    held = intent(story.payment_id, "requires_capture", **base)
    story.tell("payment_intent.amount_capturable_updated", held)
    story.answer(answered(expanded(held)))
    story.before[intent_id] = expanded(held)
    return base


def _captured(name: str, amount: int) -> Any:
    def make(payment_id: UUID, intent_id: str, ids: Iterator[UUID]) -> Story:
        story = _start(name, payment_id, capture_method="manual", wish=f"capture {amount}", capture_id=next(ids))
        base = _hold(story, intent_id)
        done = intent(payment_id, "succeeded", **base, amount_received=amount)
        story.answer(answered(expanded(done), "capture_payment_intent"), because=True, subject=story.capture_id)
        story.tell("payment_intent.succeeded", done, because=True)
        if amount < 1000:  # Stripe calls it a refund that the rest of the hold is let go
            rest = refund(
                intent_id, 1000 - amount, "succeeded", id=f"re_rest_{payment_id.hex}", balance_transaction=None
            )
            story.tell("refund.created", rest, because=True)
        story.truth[intent_id] = expanded(done)
        story.captured = amount
        story.published = ["payment-authorized", "payment-succeeded"]
        return story

    return make


def _capture_refused(name: str, status: str, ends_as: str) -> Any:
    def make(payment_id: UUID, intent_id: str, ids: Iterator[UUID]) -> Story:
        story = _start(name, payment_id, capture_method="manual", wish="capture 1000", capture_id=next(ids))
        base = _hold(story, intent_id)
        ended = {"latest_charge": CHARGE, **({"cancellation_reason": "automatic"} if status == "canceled" else {})}
        inside = intent(payment_id, status, **base, **ended)
        story.answer(said_no("capture_payment_intent", inside), because=True, subject=story.capture_id)
        if status == "canceled":
            story.tell("payment_intent.canceled", inside, because=True)
        story.truth[intent_id] = expanded(inside)
        story.ends_as, story.captured = ends_as, 0
        story.published = ["payment-authorized", *(["payment-expired"] if ends_as == "EXPIRED" else [])]
        return story

    return make


def _capture_done_by_somebody_else(payment_id: UUID, intent_id: str, ids: Iterator[UUID]) -> Story:
    fields: dict[str, Any] = {"capture_method": "manual", "wish": "capture 1000", "capture_id": next(ids)}
    story = _start("captured in the dashboard first", payment_id, **fields)
    base = _hold(story, intent_id)
    done = intent(payment_id, "succeeded", **base, amount_received=700)
    story.answer(said_no("capture_payment_intent", done), because=True, subject=story.capture_id)
    story.tell("payment_intent.succeeded", done, because=True)
    story.truth[intent_id] = expanded(done)
    story.captured = 700
    story.published = ["payment-authorized", "payment-succeeded"]
    return story


def _voided_hold(payment_id: UUID, intent_id: str, ids: Iterator[UUID]) -> Story:
    story = _start("void of a hold, at any stage", payment_id, capture_method="manual", wish="void")
    base = _hold(story, intent_id)
    gone = intent(payment_id, "canceled", **base, latest_charge=CHARGE)
    story.answer(answered(expanded(gone), "cancel_payment_intent"), because=True)
    story.tell("payment_intent.canceled", gone, because=True)
    let_go = refund(intent_id, 1000, "succeeded", id=f"re_rest_{payment_id.hex}", balance_transaction=None)
    story.tell("refund.created", let_go, because=True)
    story.truth[intent_id] = expanded(gone)
    story.ends_as, story.captured, story.published = "VOIDED", 0, ["payment-voided"]
    return story


def _voided_open(name: str, status: str) -> Any:
    def make(payment_id: UUID, intent_id: str, ids: Iterator[UUID]) -> Story:
        story = _start(name, payment_id, wish="void")
        story.tell("payment_intent.created", intent(payment_id, "requires_confirmation", id=intent_id))
        there = intent(payment_id, status, id=intent_id)
        story.tell(f"payment_intent.{status}", there)
        story.answer(answered(there))
        story.before[intent_id] = there
        gone = intent(payment_id, "canceled", id=intent_id)
        story.answer(answered(gone, "cancel_payment_intent"), because=True)
        story.tell("payment_intent.canceled", gone, because=True)
        story.ends_as, story.captured, story.published = "VOIDED", 0, ["payment-voided"]
        return story

    return make


def _void_came_too_late(payment_id: UUID, intent_id: str, ids: Iterator[UUID]) -> Story:
    story = _start("charged before the void", payment_id, wish="void")
    story.tell("payment_intent.created", intent(payment_id, "requires_confirmation", id=intent_id))
    story.before[intent_id] = intent(payment_id, "requires_confirmation", id=intent_id)
    taken = intent(payment_id, "succeeded", id=intent_id)
    story.tell("payment_intent.succeeded", taken, because=True)
    story.answer(answered(expanded(taken)), because=True)
    story.answer(said_no("cancel_payment_intent", taken), because=True)
    story.truth[intent_id] = expanded(taken)
    story.published = ["payment-succeeded", "refund-requested"]
    story.ends_refunds = [(1000, "REQUESTED", False)]
    return story


def _expired(payment_id: UUID, intent_id: str, ids: Iterator[UUID]) -> Story:
    story = _start("the hold expires", payment_id, capture_method="manual")
    base = _hold(story, intent_id)
    lapsed = intent(payment_id, "canceled", **base, cancellation_reason="automatic", latest_charge=CHARGE)
    story.tell("payment_intent.canceled", lapsed)
    story.truth[intent_id] = expanded(lapsed)
    story.ends_as, story.captured, story.published = "EXPIRED", 0, ["payment-expired"]
    return story


def _declined(payment_id: UUID, intent_id: str, ids: Iterator[UUID]) -> Story:
    story = _start("declined, and closed at once", payment_id, cancels=True)
    story.tell("payment_intent.created", intent(payment_id, "requires_confirmation", id=intent_id))
    tried: Json = {"id": intent_id, "last_payment_error": INSUFFICIENT_FUNDS, "latest_charge": CHARGE}
    failed = intent(payment_id, "requires_payment_method", **tried)
    story.tell("payment_intent.payment_failed", failed)
    story.answer(declined(failed))
    gone = intent(payment_id, "canceled", **tried, cancellation_reason="abandoned")
    story.words.append(Word("stripe-webhook", "payment_intent.canceled", event("payment_intent.canceled", gone)))
    story.answer(answered(gone, "cancel_payment_intent"))
    story.truth[intent_id] = expanded(gone, status="failed")
    story.ends_as, story.captured, story.published = "FAILED", 0, ["payment-failed"]
    story.cancels = False  # when the cancel is heard of first, there is nothing left to close
    return story


def _abandoned(name: str, *, was_tried: bool, method: str | None) -> Any:
    def make(payment_id: UUID, intent_id: str, ids: Iterator[UUID]) -> Story:
        story = _start(name, payment_id, payment_method=method)
        status = "requires_action" if method else "requires_payment_method"
        asked = intent(payment_id, status, id=intent_id)
        story.answer(answered(asked))
        story.before[intent_id] = asked
        tried: Json = {}
        if was_tried:
            tried = {"last_payment_error": INSUFFICIENT_FUNDS, "latest_charge": CHARGE}
            failed = intent(payment_id, "requires_payment_method", id=intent_id, **tried)
            story.tell("payment_intent.payment_failed", failed, because=True)
        gone = intent(payment_id, "canceled", id=intent_id, cancellation_reason="abandoned", **tried)
        story.tell("payment_intent.canceled", gone, because=True)
        story.answer(answered(gone, "cancel_payment_intent"), because=True)
        story.truth[intent_id] = expanded(gone, status="failed") if was_tried else gone
        story.wish = "wait for the customer"
        story.ends_as, story.captured, story.published = "FAILED", 0, ["payment-failed"]
        return story

    return make


def _hold_abandoned(payment_id: UUID, intent_id: str, ids: Iterator[UUID]) -> Story:
    story = _start("a hold placed at the last moment is let go as abandoned", payment_id, capture_method="manual")
    base: Json = {"id": intent_id, "capture_method": "manual"}
    story.tell("payment_intent.requires_action", intent(payment_id, "requires_action", **base))
    story.tell("payment_intent.amount_capturable_updated", intent(payment_id, "requires_capture", **base))
    gone = intent(payment_id, "canceled", **base, latest_charge=CHARGE, cancellation_reason="abandoned")
    story.tell("payment_intent.canceled", gone)
    story.answer(answered(expanded(gone), "cancel_payment_intent"))
    story.truth[intent_id] = expanded(gone)
    story.ends_as, story.captured, story.published = "VOIDED", 0, ["payment-voided"]
    return story


def _paid(story: Story, intent_id: str) -> None:
    """The payment has succeeded before the story begins."""
    taken = intent(story.payment_id, "succeeded", id=intent_id)
    story.truth[intent_id] = expanded(taken)
    story.is_paid = True


def _refunded(name: str, statuses: list[str], ends_as: str, published: list[str]) -> Any:
    def make(payment_id: UUID, intent_id: str, ids: Iterator[UUID]) -> Story:
        refund_id = next(ids)
        story = _start(name, payment_id, refunds=[refund_id], published=published)
        _paid(story, intent_id)
        ours = {"metadata": {"paymentId": str(payment_id), "refundId": str(refund_id)}, "id": f"re_{refund_id.hex}"}
        first = refund(intent_id, 400, statuses[0], **ours)
        story.answer(answered(first, "create_refund"), subject=refund_id)
        for number, status in enumerate(statuses):
            kind = "refund.created" if number == 0 else "refund.updated"
            story.tell(kind, refund(intent_id, 400, status, **ours))
        if statuses[-1] == "failed":
            story.tell("refund.failed", refund(intent_id, 400, "failed", **ours))
        story.ends_refunds = [(400, ends_as, False)]
        return story

    return make


def _refund_refused(payment_id: UUID, intent_id: str, ids: Iterator[UUID]) -> Story:
    """Somebody in the dashboard was quicker, and gave all of it back."""
    refund_id = next(ids)
    story = _start("refunded in the dashboard at the same time", payment_id, refunds=[refund_id], refund_amount=1000)
    _paid(story, intent_id)
    theirs = refund(intent_id, 1000, "succeeded", id=f"re_theirs_{refund_id.hex}")
    story.tell("refund.created", theirs)
    story.tell("refund.updated", theirs)
    no = {**refused({"type": "invalid_request_error", "code": "charge_already_refunded"}), "operation": "create_refund"}
    story.answer(no, subject=refund_id)
    story.ends_refunds = [(1000, "FAILED", False), (1000, "PROCESSED", True)]
    story.published = ["refund-failed", "refund-processed"]
    return story


def _external(payment_id: UUID, intent_id: str, ids: Iterator[UUID]) -> Story:
    story = _start("refunded in the dashboard, heard before the charge", payment_id)
    taken = intent(payment_id, "succeeded", id=intent_id)
    story.tell("payment_intent.succeeded", taken)
    story.answer(answered(expanded(taken)))
    for kind, status in (("refund.created", "pending"), ("refund.updated", "succeeded")):
        story.tell(kind, refund(intent_id, 300, status, id=f"re_theirs_{payment_id.hex}"))
    story.truth[intent_id] = expanded(taken)
    story.ends_refunds = [(300, "PROCESSED", True)]
    story.published = ["payment-succeeded", "refund-processed"]
    return story


def _equal_partials(payment_id: UUID, intent_id: str, ids: Iterator[UUID]) -> Story:
    refunds = [next(ids), next(ids)]
    story = _start("two equal partial refunds", payment_id, refunds=refunds)
    _paid(story, intent_id)
    for refund_id in refunds:
        ours = {"metadata": {"paymentId": str(payment_id), "refundId": str(refund_id)}, "id": f"re_{refund_id.hex}"}
        done = refund(intent_id, 400, "succeeded", **ours)
        story.answer(answered(done, "create_refund"), subject=refund_id)
        story.tell("refund.created", done)
        story.tell("charge.refunded", {"id": CHARGE, "object": "charge", "payment_intent": intent_id})
    story.ends_refunds = [(400, "PROCESSED", False)] * 2
    return story


def _disputed(name: str, statuses: list[str], *, disputed: bool) -> Any:
    def make(payment_id: UUID, intent_id: str, ids: Iterator[UUID]) -> Story:
        story = _start(name, payment_id, disputed=disputed)
        taken = intent(payment_id, "succeeded", id=intent_id)
        story.tell("payment_intent.succeeded", taken)
        story.answer(answered(expanded(taken)))
        for number, status in enumerate(statuses):
            is_last = number == len(statuses) - 1 and status in ("won", "lost", "warning_closed")
            kind = "created" if number == 0 else "closed" if is_last else "updated"
            thing = dispute(intent_id, status, id=f"dp_{payment_id.hex}")
            story.tell(f"charge.dispute.{kind}", thing)
        story.truth[intent_id] = expanded(taken)
        is_over = statuses[-1] in ("won", "lost", "warning_closed")
        story.published = ["payment-succeeded", "dispute-opened", *(["dispute-closed"] if is_over else [])]
        return story

    return make


def _refund_while_disputed(payment_id: UUID, intent_id: str, ids: Iterator[UUID]) -> Story:
    refund_id = next(ids)
    story = _start("refunded while disputed", payment_id, refunds=[refund_id])
    _paid(story, intent_id)
    ours = {"metadata": {"paymentId": str(payment_id), "refundId": str(refund_id)}, "id": f"re_{refund_id.hex}"}
    done = refund(intent_id, 400, "succeeded", **ours)
    story.answer(answered(done, "create_refund"), subject=refund_id)
    story.tell("refund.created", done)
    for kind, status in (("created", "warning_needs_response"), ("closed", "warning_closed")):
        story.tell(f"charge.dispute.{kind}", dispute(intent_id, status, id=f"dp_{payment_id.hex}"))
    story.ends_refunds = [(400, "PROCESSED", False)]
    story.published = ["refund-processed", "dispute-opened", "dispute-closed"]
    return story


MAKERS = [
    _captured("captured in full", 1000),
    _captured("captured in part", 400),
    _capture_refused("capture refused, the hold stands", "requires_capture", "AUTHORIZED"),
    _capture_refused("captured too late", "canceled", "EXPIRED"),
    _capture_done_by_somebody_else,
    _voided_hold,
    _voided_open("void while the customer is asked", "requires_action"),
    _voided_open("void while it is processed", "processing"),
    _void_came_too_late,
    _expired,
    _declined,
    _abandoned("nobody finishes", was_tried=False, method=None),
    _abandoned("nobody finishes after 3-D Secure was asked for", was_tried=False, method="pm_card_visa"),
    _abandoned("tried in vain, then given up", was_tried=True, method=None),
    _hold_abandoned,
    _refunded("refunded at once", ["succeeded"], "PROCESSED", ["refund-processed"]),
    _refunded("refund pending, then done", ["pending", "succeeded"], "PROCESSED", ["refund-processed"]),
    _refunded("refund pending", ["pending"], "PENDING", []),
    _refunded("refund pending, then failed", ["pending", "failed"], "FAILED", ["refund-failed"]),
    _refunded("refund fails after success", ["succeeded", "failed"], "FAILED", ["refund-failed"]),
    _refund_refused,
    _external,
    _equal_partials,
    _disputed("dispute won", ["needs_response", "under_review", "won"], disputed=False),
    _disputed("dispute lost", ["needs_response", "lost"], disputed=True),
    _disputed("dispute open", ["needs_response", "under_review"], disputed=True),
    _disputed("inquiry closed", ["warning_needs_response", "warning_under_review", "warning_closed"], disputed=False),
    _disputed("inquiry becomes a chargeback", ["warning_needs_response", "needs_response", "won"], disputed=False),
    _refund_while_disputed,
]
