"""The ways of a payment's life that the demo drives: a table of stories, each a few steps of a checkout."""

import asyncio
from collections.abc import Awaitable, Callable

import msgspec

from payments.demo.checkout import Checkout
from payments.demo.client import Json

VISA = "pm_card_visa"
DECLINES = "pm_card_visa_chargeDeclined"
ASKS_3D_SECURE = "pm_card_authenticationRequired"

Play = Callable[[Checkout], Awaitable[None]]


class Story(msgspec.Struct, frozen=True):
    """A kind of checkout: the token it pays with, what happens then, how often it occurs, how often it is sent."""

    name: str
    payment_method: str | None
    weight: int
    play: Play
    capture_method: str = "automatic"
    times_sent: int = 1


def ends_as(status: str) -> Play:
    """Nobody does anything more."""

    async def play(checkout: Checkout) -> None:
        await checkout.reach(status)

    return play


def captured(share: int) -> Play:
    """The shop charges one part in `share` of the hold; the rest is released."""

    async def play(checkout: Checkout) -> None:
        await checkout.reach("AUTHORIZED")
        await checkout.must("capture", {"amount": checkout.amount // share})
        await checkout.reach("SUCCEEDED")

    return play


async def voided(checkout: Checkout) -> None:
    """The shop lets go of the hold."""
    await checkout.reach("AUTHORIZED")
    await checkout.must("void")
    await checkout.reach("VOIDED")


async def voided_at_once(checkout: Checkout) -> None:
    """The order is cancelled while the authorization is under way."""
    await checkout.must("void")
    await checkout.reach("VOIDED", "AUTHORIZED")


def refunded(*shares: int) -> Play:
    """The shop gives back parts of the charge, at once."""

    async def play(checkout: Checkout) -> None:
        await checkout.reach("SUCCEEDED")
        wishes = [checkout.must("refunds", {"amount": checkout.amount // share}) for share in shares]
        await asyncio.gather(*wishes)
        await checkout.until(all_processed, what="for its refunds")

    return play


async def refund_fails_later(checkout: Checkout) -> None:
    """The bank sends a refund back after it had succeeded: the money stays with the shop."""
    await checkout.reach("SUCCEEDED")
    await checkout.must("refunds")
    await checkout.until(any_failed, what="for its refund to fail")


async def refunded_in_dashboard(checkout: Checkout) -> None:
    """Somebody gives back a third in Stripe's Dashboard: this service learns of it, and adopts it."""
    await checkout.reach("SUCCEEDED")
    await checkout.refund_in_dashboard(checkout.amount // 3)
    await checkout.until(lambda _, refunds: any(one["external"] for one in refunds), what="for the Dashboard's refund")
    await checkout.until(all_processed, what="for the Dashboard's refund")


def paid_in_browser(*cards: str) -> Play:
    """The customer tries these cards in Stripe's form."""

    async def play(checkout: Checkout) -> None:
        await checkout.reach("ACTION_REQUIRED")
        for card in cards:
            await checkout.pay_in_browser(card)
        await checkout.reach("SUCCEEDED", "ACTION_REQUIRED")

    return play


async def secured(checkout: Checkout) -> None:
    """The customer passes 3-D Secure."""
    await checkout.reach("ACTION_REQUIRED")
    await checkout.pass_3d_secure("succeed")
    await checkout.reach("SUCCEEDED", "ACTION_REQUIRED")


async def abandoned(checkout: Checkout) -> None:
    """The customer leaves at 3-D Secure; the shop gives up."""
    await checkout.reach("ACTION_REQUIRED")
    await checkout.must("void")
    await checkout.reach("VOIDED")


def disputed(outcome: str) -> Play:
    """The customer disputes the charge; the bank decides for the shop (`won`) or against it (`lost`)."""

    async def play(checkout: Checkout) -> None:
        await checkout.reach("SUCCEEDED")
        await checkout.dispute()
        await checkout.until(lambda payment, _: payment["disputed"], what="for its dispute to be known")
        await checkout.decide_dispute(outcome)
        await checkout.until(
            lambda payment, _: payment["disputed"] == (outcome == "lost"), what="for its dispute to end"
        )

    return play


async def paid_too_late(checkout: Checkout) -> None:
    """The customer pays while the shop gives up. Whoever comes second: no money stays with the shop."""
    await checkout.reach("ACTION_REQUIRED")
    status, _ = await asyncio.gather(checkout.wish("void"), checkout.pay_in_browser(VISA))
    await checkout.until(lambda payment, _: payment["status"] in {"SUCCEEDED", "VOIDED"}, what="for void or payment")
    if status == 409 and checkout.payment["status"] == "SUCCEEDED":  # too late to void: so the shop gives it back
        await checkout.must("refunds")
    await checkout.until(
        lambda payment, _: payment["amountCaptured"] == payment["amountRefunded"], what="for its refund"
    )


def all_processed(_payment: Json, refunds: list[Json]) -> bool:
    """Whether there is a refund, and the bank has them all."""
    return bool(refunds) and all(one["status"] == "PROCESSED" for one in refunds)


def any_failed(_payment: Json, refunds: list[Json]) -> bool:
    """Whether the bank could not take one."""
    return any(one["status"] == "FAILED" for one in refunds)


STORIES = (
    Story("charged", VISA, 16, ends_as("SUCCEEDED")),
    Story("charged, sent twice", VISA, 4, ends_as("SUCCEEDED"), times_sent=2),
    Story("bank debit", "pm_usBankAccount_success", 2, ends_as("SUCCEEDED")),
    Story("declined", DECLINES, 3, ends_as("FAILED")),
    Story("no funds", "pm_card_visa_chargeDeclinedInsufficientFunds", 2, ends_as("FAILED")),
    Story("card expired", "pm_card_chargeDeclinedExpiredCard", 2, ends_as("FAILED")),
    Story("bank debit bounces", "pm_usBankAccount_insufficientFunds", 1, ends_as("FAILED")),
    Story("hold kept", VISA, 2, ends_as("AUTHORIZED"), "manual"),
    Story("hold captured", VISA, 5, captured(1), "manual"),
    Story("hold captured by half", VISA, 3, captured(2), "manual"),
    Story("hold voided", VISA, 3, voided, "manual"),
    Story("hold voided at once", VISA, 3, voided_at_once, "manual"),
    Story("paid in browser", None, 4, paid_in_browser(VISA)),
    Story("paid with second card", None, 2, paid_in_browser(DECLINES, VISA)),
    Story("3-D Secure passed", ASKS_3D_SECURE, 3, secured),
    Story("3-D Secure left open", ASKS_3D_SECURE, 2, ends_as("ACTION_REQUIRED")),
    Story("3-D Secure, given up", ASKS_3D_SECURE, 2, abandoned),
    Story("refunded", VISA, 4, refunded(1)),
    Story("refunded by half", VISA, 3, refunded(2)),
    Story("two equal refunds", VISA, 3, refunded(3, 3)),
    Story("refund takes a while", "pm_card_pendingRefund", 2, refunded(1)),
    Story("refund fails later", "pm_card_refundFail", 2, refund_fails_later),
    Story("refunded in Dashboard", VISA, 2, refunded_in_dashboard),
    Story("dispute won", VISA, 2, disputed("won")),
    Story("dispute lost", VISA, 2, disputed("lost")),
    Story("paid while given up", None, 2, paid_too_late),
)
