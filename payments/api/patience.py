"""Waiting for a payment on behalf of one caller, no longer than the caller stays."""

import asyncio
from uuid import UUID

from payments.api.bodies import Disconnected
from payments.api.deadlines import in_time
from payments.api.services import ApiRequest, Services
from payments.api.views import PaymentView, find_payments


async def find_payment(services: Services, payment_id: UUID) -> PaymentView | None:
    """A payment as it stands."""
    found = await in_time(_find_payments(services, payment_id))
    return found[0] if found else None


async def _find_payments(services: Services, payment_id: UUID) -> list[PaymentView]:
    async with services.pool.connection() as conn:
        return await find_payments(conn, [payment_id])


async def wait_for_payment(
    request: ApiRequest, services: Services, payment_id: UUID, timeout_s: float
) -> PaymentView | None:
    """The payment once it has settled, or as it stands when time is up. Raises Disconnected when the caller left."""
    waiting = asyncio.create_task(services.waiters.wait(payment_id, timeout_s))
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
    return view or await find_payment(services, payment_id)


async def _until_disconnected(request: ApiRequest) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
