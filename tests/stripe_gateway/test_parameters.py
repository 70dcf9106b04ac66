"""What the service sends, held against the types of the `stripe` package and against what the sandbox takes."""

import asyncio
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlencode
from uuid import UUID

import pytest
from stripe._encode import _api_encode

from payments.commands.worker import OPERATIONS
from payments.domain.states import PaymentStatus
from payments.settings import Settings
from payments.stripe_gateway.gateway import StripeGateway
from payments.worker.operation import Command, Operation, Payment, Refund, Situation
from stripe_sandbox.forms import decode_form
from stripe_sandbox.params import check
from stripe_sandbox.routes import find_route
from tests.sandbox.stripe_names import PARAMETERS
from tests.sandbox.stripe_types import misfits

NOW = datetime(2026, 11, 1, tzinfo=UTC)
ONE, TWO = UUID(int=1), UUID(int=2)


class Recorded(Exception):
    """Raised instead of calling."""


class Recorder:
    """Stands where the official client does, and takes down what it is asked to send."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, str, dict[str, Any]]] = []

    async def raw_request_async(self, method: str, path: str, **given: Any) -> None:
        given.pop("idempotency_key", None)
        self.sent.append((method.upper(), path, given))
        raise Recorded


def situations(operation: Operation) -> Iterator[Situation]:
    """One for each way in which the parameters of an operation may differ."""
    for method, customer in ((None, None), ("pm_card_visa", None), ("pm_1", "cus_1")):
        for reason in (None, "fraudulent", "the parcel was lost"):
            for cancellation in ("abandoned", "requested_by_customer"):
                payment = Payment(
                    payment_id=ONE,
                    cart_id=TWO,
                    order_id=TWO,
                    customer_id=TWO,
                    amount=1999,
                    currency="EUR",
                    capture_method="manual" if customer else "automatic",
                    payment_method=method,
                    processor_customer=customer,
                    metadata={"basket": "blue"},
                    status=PaymentStatus.REQUESTED,
                    processor_payment_intent=None if operation.name == "create_payment_intent" else "x",
                    capture_id=ONE,
                    amount_to_capture=1000,
                )
                refund = Refund(refund_id=TWO, amount=500, reason=reason, status="REQUESTED")
                command = Command(ONE, ONE, cancellation_reason=cancellation)
                yield Situation(command, payment, refund, call=None, was_asked=False, now=NOW)


async def send(work: Any) -> None:
    with pytest.raises(Recorded):
        await work


async def everything_sent(gateway: StripeGateway) -> None:
    """Every call of the gateway, each with all it can say."""
    for operation in OPERATIONS:
        for situation in situations(operation):
            await send(operation.call(gateway, operation.build_parameters(situation), "key"))
    for retrieve in (
        gateway.retrieve_payment_intent,
        gateway.retrieve_refund,
        gateway.retrieve_charge,
        gateway.retrieve_dispute,
    ):
        await send(retrieve("x"))
    await send(gateway.list_payment_intents(created_gte=1, created_lte=2, starting_after="pi_1"))
    await send(gateway.list_refunds("pi_1", created_gte=1, created_lte=2, starting_after="re_1"))
    await send(gateway.list_disputes(1, "pi_1", "dp_1", created_lte=2))
    await send(gateway.list_events(created_gte=1, created_lte=2, starting_after="evt_1"))
    await send(gateway.list_events(ending_before="evt_1"))
    await send(gateway.list_balance_transactions(1, 2, source="ch_1", starting_after="txn_1"))


def calls() -> list[tuple[str, str, Mapping[str, Any]]]:
    async def record() -> list[tuple[str, str, dict[str, Any]]]:
        environ = {
            "STRIPE_API_KEY": "sk_test_x",
            "STRIPE_WEBHOOK_SECRETS": "whsec_x",
            "STRIPE_API_BASE": "http://127.0.0.1:9",
        }
        recorder = Recorder()
        async with StripeGateway(Settings.load(environ)) as gateway:
            gateway._client = recorder  # type: ignore[assignment]
            await everything_sent(gateway)
        return recorder.sent

    return list(asyncio.run(record()))


def test_every_method_of_the_gateway_was_heard() -> None:
    verbs = ("create", "capture", "cancel", "retrieve", "list")
    methods = [name for name in vars(StripeGateway) if name.split("_")[0] in verbs]
    heard = {(method, path) for method, path, _ in calls()}
    assert len(heard) == len(methods) > 10


def test_what_is_sent_fits_the_package() -> None:
    wrong = [
        fault
        for method, path, given in calls()
        for fault in misfits(PARAMETERS[method, path], given, f"{method} {path}")
    ]
    assert wrong == []


def test_what_is_sent_is_taken_by_the_sandbox() -> None:
    for method, path, given in calls():
        form = decode_form(urlencode(list(_api_encode(dict(given)))))
        taken = check(find_route(method, path)[0].spec, form)
        assert set(taken) == set(given)
