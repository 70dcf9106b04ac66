"""`payments demo`: drive every way of a payment's life through a running system, and compare the books."""

import argparse
import asyncio
from urllib.parse import urlsplit

import aiohttp
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

from payments.demo.books import Books
from payments.demo.client import REQUEST_TIMEOUT_S, CannotGoOn, Client
from payments.demo.shop import Outcome, Shop
from payments.demo.tables import table_of_books, table_of_stories
from payments.development.dev_env import read_dev_env
from payments.errors import EXIT_FOUND_TROUBLE, EXIT_OK, ConfigurationError
from payments.settings import LOOPBACK_HOSTS, Settings

HELP = "drive every way of a payment's life, then compare our books with Stripe's"
CHECKOUTS = 300
CONCURRENCY = 16
DEADLINE_S = 120


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """How many checkouts, how many at once, and how long the slowest may take."""
    parser.description = (
        "Drives checkouts by HTTP against the running `payments up`: charges, declines, holds captured and voided, "
        "browsers and 3-D Secure, refunds, disputes, money that comes too late. Ends in two tables and one line that "
        "says whether our books and the Stripe sandbox's agree. Processes may be killed meanwhile."
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
    if urlsplit(found["STRIPE_API_BASE"]).hostname not in LOOPBACK_HOSTS:
        raise ConfigurationError(
            (f"This `payments up` charges at {found['STRIPE_API_BASE']}; the demo needs the Stripe sandbox.",),
            advice="Start `payments up` without STRIPE_API_KEY: it brings the sandbox along.",
        )
    console = Console()
    try:
        outcomes, books = asyncio.run(_drive(args, found, console))
    except CannotGoOn as error:
        console.print(Text.assemble(("The demo stopped:", "red"), f" {error}"))
        return EXIT_FOUND_TROUBLE
    console.print(table_of_stories(outcomes, books), "", table_of_books(books), "")
    return _verdict(outcomes, books, console)


async def _drive(args: argparse.Namespace, found: dict[str, str], console: Console) -> tuple[list[Outcome], Books]:
    timeout = aiohttp.ClientTimeout(total=REQUEST_TIMEOUT_S)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    async with aiohttp.ClientSession(timeout=timeout) as http:
        shop = Shop(Client(http, found["API_URL"], found["API_KEY"], found["STRIPE_API_BASE"]))
        outcomes: list[Outcome] = []
        with Progress(*columns, console=console) as progress:
            task = progress.add_task("checkouts", total=args.checkouts)
            async for outcome in shop.tell(args.checkouts, args.concurrency, args.deadline):
                outcomes.append(outcome)
                progress.advance(task)
        return outcomes, await shop.compare(outcomes, args.deadline)


def _verdict(outcomes: list[Outcome], books: Books, console: Console) -> int:
    astray = [one for one in outcomes if one.astray is not None]
    for difference in books.differences:
        console.print(Text(f"  {difference.payment_id}: {difference.what}"))
    for one in astray:
        console.print(Text(f"  {one.payment.get('paymentId')}: {one.story.name}: {one.astray}"))
    if books.differences or astray:
        points = f"{len(books.differences)} points; {len(astray)} checkouts went astray."
        console.print(f"[red]Our books and Stripe's DISAGREE on {points}")
        return EXIT_FOUND_TROUBLE
    console.print(f"[green]Our books and Stripe's agree on all {len(outcomes)} payments.")
    return EXIT_OK
