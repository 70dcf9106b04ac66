"""Waiting for a payment or a refund on behalf of one caller, no longer than the caller stays."""

import asyncio
from typing import cast
from uuid import UUID

from payments.api.bodies import Disconnected
from payments.api.deadlines import in_time
from payments.api.envelope import log_failure
from payments.api.headers import parse_wait
from payments.api.request_record import record_of
from payments.api.services import ApiRequest, Services, services_of
from payments.api.views import PAYMENTS, REFUNDS, PaymentView, RefundView, Subject, View, find
from payments.database.connections import DATABASE_AWAY, statements


async def find_payment(services: Services, payment_id: UUID) -> PaymentView | None:
    """A payment as it stands."""
    return cast("PaymentView | None", await find_one(services, PAYMENTS, payment_id))


async def find_refund(services: Services, refund_id: UUID) -> RefundView | None:
    """A refund as it stands."""
    return cast("RefundView | None", await find_one(services, REFUNDS, refund_id))


async def find_one(services: Services, subject: Subject, wanted: UUID) -> View | None:
    """One payment or refund as it stands."""
    found = await in_time(_find(services, subject, wanted))
    return found[0] if found else None


async def _find(services: Services, subject: Subject, wanted: UUID) -> list[View]:
    async with statements(services.pool) as conn:
        return await find(conn, subject, [wanted])


async def wait_for_payment(
    request: ApiRequest, services: Services, payment_id: UUID, timeout_s: float
) -> PaymentView | None:
    """The payment once it has settled, or as it stands when time is up. Raises Disconnected when the caller left."""
    return cast("PaymentView | None", await wait_for(request, services, PAYMENTS, payment_id, timeout_s))


async def wait_for(
    request: ApiRequest, services: Services, subject: Subject, wanted: UUID, timeout_s: float
) -> View | None:
    """The same for a payment or a refund."""
    waiting = asyncio.create_task(services.waiters.wait(wanted, timeout_s, subject))
    leaving = asyncio.create_task(_until_disconnected(request))
    try:
        with services.in_flight.set_aside():
            await asyncio.wait({waiting, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not waiting.done():
            raise Disconnected
        view = waiting.result()
    finally:
        for task in (waiting, leaving):
            task.cancel()
        await asyncio.gather(waiting, leaving, return_exceptions=True)
    return view or await find_one(services, subject, wanted)


async def wait_if_preferred(
    request: ApiRequest, subject: Subject, wanted: UUID, headers: dict[str, str], *, is_new: bool
) -> View | None:
    """What the answer to a write becomes if the caller prefers to wait; None: as committed. Raises Disconnected.

    The write is committed, that much is known: whatever breaks in here must not have the caller send it once more.
    """
    services, wait_s = services_of(request), parse_wait(request.scope["headers"])
    if not wait_s or not services.waiters.has_room:
        return None
    headers["Preference-Applied"] = f"wait={wait_s}"
    try:
        view = None if is_new else await find_one(services, subject, wanted)
        if view is None or not view.is_settled:
            view = await wait_for(request, services, subject, wanted, wait_s)
    except Disconnected:
        raise
    except Exception as error:  # noqa: BLE001 - see above
        if not isinstance(error, DATABASE_AWAY):
            log_failure(error, record_of(request.scope))
        return None
    return view


async def _until_disconnected(request: ApiRequest) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
