"""`payments reconcile`: look at Stripe now, at everything that is open, in doubt or lost, and say what was found."""

import argparse
import asyncio
from collections import Counter

from rich.console import Console
from rich.table import Table
from rich.text import Text

from payments.database.connections import open_pool, transaction
from payments.database.operator_connection import told_in_words
from payments.database.queries import load_queries
from payments.development.dev_env import admin_dsn
from payments.development.surroundings import stripe_of_running_up
from payments.errors import EXIT_FOUND_TROUBLE, EXIT_OK, ConfigurationError
from payments.reconciler.asking import StripeAway
from payments.reconciler.jobs import Surroundings
from payments.reconciler.reconciler import LOOKING, Reconciler
from payments.settings import Settings
from payments.stripe_gateway.gateway import StripeGateway
from payments.wakeup import Notifier
from payments.worker.gate import Gate

HELP = "look at Stripe now, at everything open, in doubt or lost, and say what was found"
ROLE = "payments_worker"
CONNECTIONS_MAX = 10
# What somebody has to look at; all else is mended by itself.
TROUBLE = ("calls parked", "looks that broke", "imbalances")
UNANSWERED = "looks without an answer"

_QUERIES = load_queries("reconciler")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Everything, or only what is due."""
    parser.description = (
        "One pass of what the worker does all the time. Safe at any time, beside any number of workers. What Stripe "
        "says goes into the inbox, where a running worker weighs it. Exit code 1 when Stripe did not answer "
        "everything, or when something needs a person."
    )
    parser.add_argument("--due", action="store_true", help="only what is due, instead of everything at once")


def run(args: argparse.Namespace, settings: Settings) -> int:
    """One pass; print what it found."""
    dsn = admin_dsn(settings)
    settings = stripe_of_running_up(settings)
    if settings.stripe_api_key is None:
        raise ConfigurationError(("STRIPE_API_KEY is not set, and no `payments up` with its sandbox is running here.",))
    found: Counter[str] = Counter()
    console = Console()
    try:
        with told_in_words():
            asyncio.run(_reconcile(dsn, settings, found, at_once=not args.due))
    except StripeAway as error:
        _print(console, found)
        why = f" {error.why}; nothing is lost by that. Try again later."
        console.print(Text.assemble(("Stopped:", "red"), why))
        return EXIT_FOUND_TROUBLE
    _print(console, found)
    if found[UNANSWERED]:
        console.print("Not everything was answered; it is asked for again. Nothing is lost by that.")
    if any(found[kind] for kind in TROUBLE):
        console.print("Something needs a person: `payments dead-letters list`, `payments doctor`, and the log above.")
    return EXIT_FOUND_TROUBLE if any(found[kind] for kind in (UNANSWERED, *TROUBLE)) else EXIT_OK


async def _reconcile(dsn: str, settings: Settings, found: Counter[str], *, at_once: bool) -> None:
    async with (
        open_pool(dsn, ROLE, CONNECTIONS_MAX) as pool,
        Notifier(dsn, ROLE) as notifier,
        StripeGateway(settings) as gateway,
        Gate(pool, settings.stripe_calls_per_s) as gate,
    ):
        around = Surroundings(pool, gateway.paced(gate), notifier, settings, at_once, found)
        if at_once:
            async with transaction(pool) as conn:
                await conn.execute(_QUERIES["watch_at_once"])
        await Reconciler(around, LOOKING).run_once()


def _print(console: Console, found: Counter[str]) -> None:
    shown = {kind: count for kind, count in found.items() if count}
    if not shown:
        console.print("nothing is open, in doubt or lost")
        return
    table = Table("what", "how many", box=None)
    table.columns[1].justify = "right"
    for kind, count in shown.items():
        table.add_row(kind, str(count))
    console.print(table)
