"""`payments demo`: drive checkouts through a running system and hold our books against Stripe's."""

import argparse
import asyncio
from collections import Counter
from typing import Any

import aiohttp
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from payments.demo.books import compare_books
from payments.demo.checkouts import KINDS, REQUEST_TIMEOUT_S, NeverSettled, Outcome, Shop
from payments.development.dev_env import read_dev_env
from payments.errors import EXIT_FOUND_TROUBLE, ConfigurationError
from payments.settings import Settings

HELP = "drive some hundred checkouts, then compare our books with Stripe's"
CHECKOUTS = 300
CONCURRENCY = 16
DEADLINE_S = 120
SUM_CHARACTERS = 8  # a sum is shown whole, also in 80 columns; cut off, it could be compared with nothing


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """How many checkouts, how many at once, and how long the slowest may take."""
    parser.description = (
        "Drives checkouts by HTTP against the running `payments up`: charges, holds, declines, browser payments, "
        "requests sent twice. Ends in a table and one line that says whether our books and the Stripe sandbox's agree. "
        "Processes may be killed meanwhile."
    )
    parser.add_argument("--checkouts", type=_count, default=CHECKOUTS, help=f"how many (default {CHECKOUTS})")
    parser.add_argument(
        "--concurrency", type=_count, default=CONCURRENCY, help=f"how many at once (default {CONCURRENCY})"
    )
    parser.add_argument(
        "--deadline", type=float, default=DEADLINE_S, metavar="S", help=f"seconds for each (default {DEADLINE_S})"
    )


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 6 and int(text) > 0):
        raise argparse.ArgumentTypeError("must be a whole number from 1 to 999999")
    return int(text)


def run(args: argparse.Namespace, settings: Settings) -> int:
    """Drive, compare, and answer 0 only when both books agree and every checkout ended as it must."""
    found = read_dev_env(settings.data_dir)
    if not found:
        raise ConfigurationError(
            (f"No `payments up` is running on {settings.data_dir} (PAYMENTS_DATA_DIR).",),
            advice="Start `payments up` (or `make run`) in another terminal and wait for its addresses.",
        )
    console = Console()
    try:
        outcomes, ledger = asyncio.run(_drive(args, found, console))
    except NeverSettled as error:
        console.print(f"[red]The demo stopped:[/red] {error}", highlight=False)
        return EXIT_FOUND_TROUBLE
    console.print(_table(outcomes, ledger))
    return _verdict(outcomes, ledger, console)


async def _drive(
    args: argparse.Namespace, found: dict[str, str], console: Console
) -> tuple[list[Outcome], dict[str, Any]]:
    timeout = aiohttp.ClientTimeout(total=REQUEST_TIMEOUT_S)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    async with aiohttp.ClientSession(timeout=timeout) as http:
        shop = Shop(http, found["API_URL"], found["API_KEY"], found["STRIPE_API_BASE"])
        outcomes: list[Outcome] = []
        with Progress(*columns, console=console) as progress:
            task = progress.add_task("checkouts", total=args.checkouts)
            async for outcome in shop.run(args.checkouts, args.concurrency, args.deadline):
                outcomes.append(outcome)
                progress.advance(task)
        return outcomes, await shop.stripes_books(args.deadline)


def _table(outcomes: list[Outcome], ledger: dict[str, Any]) -> Table:
    """One line a kind of checkout: how many, how they ended, and what both books hold for them, in minor units."""
    theirs = {intent["metadata"].get("paymentId"): intent for intent in ledger["payment_intents"]}
    table = Table(title="EUR, in cents", box=SIMPLE_HEAD, show_edge=False, padding=0)
    for name in ("checkouts", "ended as"):
        table.add_column(name, no_wrap=True)
    for name in ("ours: held", "taken", "Stripe's: held", "taken"):
        table.add_column(name, justify="right", min_width=SUM_CHARACTERS)
    for kind in KINDS:
        payments = [outcome.payment for outcome in outcomes if outcome.kind is kind]
        intents = [theirs[payment["paymentId"]] for payment in payments if payment["paymentId"] in theirs]
        ends = Counter(payment["status"] for payment in payments)
        table.add_row(
            kind.name,
            "\n".join(f"{count:>4} {status}" for status, count in ends.items()),
            str(sum(payment["amountAuthorized"] - payment["amountCaptured"] for payment in payments)),
            str(sum(payment["amountCaptured"] for payment in payments)),
            str(sum(intent["amount_authorized"] - intent["amount_captured"] for intent in intents)),
            str(sum(intent["amount_captured"] for intent in intents)),
        )
    return table


def _verdict(outcomes: list[Outcome], ledger: dict[str, Any], console: Console) -> int:
    differences = compare_books((outcome.payment for outcome in outcomes), ledger)
    astray = [one for one in outcomes if one.payment["status"] != one.kind.ends_as]
    for difference in differences:
        console.print(f"  {difference.payment_id}: {difference.what}", highlight=False)
    for one in astray:
        console.print(
            f"  {one.payment['paymentId']}: {one.kind.name} ended as {one.payment['status']}", highlight=False
        )
    if differences or astray:
        console.print(
            f"[red]Our books and Stripe's DISAGREE on {len(differences)} points; {len(astray)} checkouts went astray."
        )
        return EXIT_FOUND_TROUBLE
    console.print(f"[green]Our books and Stripe's agree on all {len(outcomes)} payments.")
    return 0
