"""`payments worker`: call Stripe for the commands in its queues, and record what Stripe said."""

import argparse
import asyncio

import structlog

from payments.database.connections import open_pool
from payments.errors import ConfigurationError
from payments.inbox.recorder import Recorder
from payments.process import database_url, run_process
from payments.reconciler.jobs import Surroundings
from payments.reconciler.reconciler import Reconciler
from payments.settings import Settings
from payments.stripe_gateway.gateway import StripeGateway
from payments.wakeup import Listener, Notifier
from payments.worker.cancel_payment_intent import CANCEL_PAYMENT_INTENT
from payments.worker.capture_payment_intent import CAPTURE_PAYMENT_INTENT
from payments.worker.create_payment_intent import CREATE_PAYMENT_INTENT
from payments.worker.create_refund import CREATE_REFUND
from payments.worker.gate import Gate
from payments.worker.worker import Worker

HELP = "call Stripe for what was requested, and record its answers and webhooks"
ROLE = "payments_worker"
# Each command takes a connection for two transactions of milliseconds, and none while it waits for Stripe; the recorder
# takes one or two. More would only crowd PostgreSQL.
CONNECTIONS_MAX = 10
# Beyond the grace time that calls have, to hand back and record.
END_S = 3.0
OPERATIONS = (CREATE_PAYMENT_INTENT, CAPTURE_PAYMENT_INTENT, CANCEL_PAYMENT_INTENT, CREATE_REFUND)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """No arguments: the settings say everything."""
    parser.description = "Runs until SIGTERM; then calls under way finish, and all else is handed back."


def run(_args: argparse.Namespace, settings: Settings) -> int:
    """Work until stopped."""
    database_url(settings)  # a missing setting is told before anything starts
    if settings.stripe_api_key is None:
        raise ConfigurationError(("STRIPE_API_KEY is not set; only `payments up` brings its own sandbox.",))
    return run_process("worker", lambda stop: work(settings, stop))


log = structlog.get_logger()


async def work(settings: Settings, stop: asyncio.Event) -> None:
    """Everything that the process is made of, until `stop` is set."""
    dsn = database_url(settings)
    listen_dsn = settings.listen_dsn or dsn
    async with (
        open_pool(dsn, ROLE, CONNECTIONS_MAX, behind_pooler=settings.is_pooled) as pool,
        Notifier(listen_dsn, ROLE) as notifier,
        Listener(listen_dsn, ROLE) as listener,
        StripeGateway(settings) as gateway,
        Gate(pool, settings.stripe_calls_per_s) as gate,
    ):
        paced = gateway.paced(gate)  # for those who only read from Stripe
        worker = Worker(pool, gateway, notifier, listener, settings, OPERATIONS, gate)
        recorder = Recorder(pool, paced, notifier, listener, settings)
        reconciler = Reconciler(Surroundings(pool, paced, notifier, settings))
        async with asyncio.TaskGroup() as all_of_them:  # if one breaks, the process ends and is started again
            tasks = {all_of_them.create_task(part.run(stop)) for part in (worker, recorder, reconciler)}
            all_of_them.create_task(_cut_short(tasks, stop, settings.shutdown_grace_s + END_S))


async def _cut_short(tasks: set[asyncio.Task[None]], stop: asyncio.Event, within_s: float) -> None:
    """Cancels what has not ended in time: a commit that waits for a standby, or a database that answers nothing."""
    await stop.wait()
    _, late = await asyncio.wait(tasks, timeout=within_s)
    while late:
        log.warning("process.cut_short", process="worker", parts=len(late))
        for task in late:  # again and again: what it does at its end may hang as well
            task.cancel()
        _, late = await asyncio.wait(late, timeout=END_S)
