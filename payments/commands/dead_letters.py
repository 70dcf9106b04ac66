"""`payments dead-letters`: what was given up, and what an operator decides about it; kept with each letter."""

import argparse
from typing import Any
from uuid import UUID

import msgspec
import psycopg
from rich.console import Console
from rich.table import Table

from payments.database.operator_connection import operator_connection
from payments.database.queries import load_queries
from payments.development.dev_env import admin_dsn
from payments.errors import EXIT_FOUND_TROUBLE, EXIT_OK
from payments.logs import mask
from payments.settings import Settings

HELP = "see commands and messages that were given up; try them again, or discard them"
ROWS_MAX = 50  # a screen or two; SQL shows the rest
REASON_CHARACTERS_MAX = 500
TRIED_AGAIN = "tried again"
# The call that each queue's commands are for, and what in the message names its subject.
CALLS = {
    "payment_requested": ("create_payment_intent", "paymentId"),
    "capture_requested": ("capture_payment_intent", "captureId"),
    "void_requested": ("cancel_payment_intent", "paymentId"),
    "refund_requested": ("create_refund", "refundId"),
}

_QUERIES = load_queries("dead_letters")
_WORKER_QUERIES = load_queries("worker")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Four actions."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="list|show|retry|discard")
    listing = actions.add_parser("list", help="those that nobody has settled; exit code 1 when there are any")
    listing.add_argument("--all", action="store_true", help="also those that were settled")
    show = actions.add_parser("show", help="one of them, secrets masked")
    show.add_argument("id", type=_id)
    retry = actions.add_parser("retry", help="let them be worked on again, after their cause was mended")
    retry.add_argument("id", type=_id, nargs="+", help="from `payments dead-letters list`")
    discard = actions.add_parser("discard", help="settle them without doing anything")
    discard.add_argument("id", type=_id, nargs="+", help="from `payments dead-letters list`")
    discard.add_argument("--reason", type=_reason, required=True, help="kept with them: why nothing has to be done")


def _id(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 18):
        raise argparse.ArgumentTypeError("must be the number that `payments dead-letters list` shows")
    return int(text)


def _reason(text: str) -> str:
    if not 0 < len(text.strip()) <= REASON_CHARACTERS_MAX:
        raise argparse.ArgumentTypeError(f"must say something, in {REASON_CHARACTERS_MAX} characters at most")
    return text.strip()


def run(args: argparse.Namespace, settings: Settings) -> int:
    """Do one of the actions on the database that DATABASE_URL, or a running `payments up`, names."""
    console = Console(markup=False, emoji=False)  # what others have said is no markup
    with operator_connection(admin_dsn(settings)) as conn:
        match args.action:
            case "list":
                return _print_list(conn, console, with_settled=args.all)
            case "show":
                return _print_letter(conn, console, args.id)
            case "retry":
                return max([_retry(conn, console, number) for number in args.id])
            case _:
                return max([_discard(conn, console, number, args.reason) for number in args.id])


def _print_list(conn: psycopg.Connection, console: Console, *, with_settled: bool) -> int:
    rows = conn.execute(_QUERIES["list"], {"all": with_settled, "rows_max": ROWS_MAX}).fetchall()
    (unsettled,) = conn.execute(_QUERIES["count"]).fetchone() or (0,)
    if rows:
        table = Table("id", "origin", "payment", "died", "attempts", "why", "settled", box=None)
        for number, origin, payment_id, died_at, attempts, error, resolved_at, resolution in rows:
            settled = f"{resolved_at:%Y-%m-%d %H:%M} {resolution}" if resolved_at else "-"
            died = f"{died_at:%Y-%m-%d %H:%M:%S}"
            table.add_row(str(number), origin, str(payment_id or "-"), died, str(attempts), mask(error), mask(settled))
        console.print(table)
    console.print(f"unsettled: {unsettled}")
    if not unsettled:
        return EXIT_OK
    console.print("Mend the cause, then: payments dead-letters retry ID …   or: discard ID … --reason '…'")
    return EXIT_FOUND_TROUBLE


def _print_letter(conn: psycopg.Connection, console: Console, number: int) -> int:
    row: Any = conn.execute(_QUERIES["show"], {"dead_letter_id": number}).fetchone()
    if row is None:
        console.print(f"there is no dead letter {number}")
        return EXIT_FOUND_TROUBLE
    names = ("id", "origin", "message", "payment", "died", "attempts", "why", "settled", "resolution")
    for name, value in zip(names, row[:-2], strict=True):
        if value is not None:
            console.print(f"{name:<11}", mask(str(value)), highlight=False)
    for name, value in (("headers", row[-2]), ("payload", row[-1])):
        console.print(f"{name}:")
        text = msgspec.json.format(msgspec.json.encode(value)).decode()
        console.print("\n".join(mask(line) for line in text.splitlines()), highlight=False)
    return EXIT_OK


def _retry(conn: psycopg.Connection, console: Console, number: int) -> int:
    """One transaction a letter: the command is in its queue and its call may go on, or nothing has changed."""
    with conn.transaction():
        letter = _lock(conn, console, number)
        if letter is None:
            return EXIT_FOUND_TROUBLE
        origin, message_id, headers, payload = letter
        if origin == "inbox":
            if not conn.execute(_QUERIES["revive"], {"inbox_id": message_id}).rowcount:
                console.print(f"{number}: row {message_id} of the inbox is not dead any more; discard the letter")
                return EXIT_FOUND_TROUBLE
            console.print(f"{number}: row {message_id} of the inbox will be weighed again")
        else:
            queue = origin.removeprefix("queue:")
            if conn.execute(_QUERIES["has_queue"], {"queue": queue}).fetchone() is None:
                console.print(f"{number}: there is no queue {queue} any more; discard the letter")
                return EXIT_FOUND_TROUBLE
            values = {"queue": queue, "message": _json(payload), "headers": _json(headers), "message_id": message_id}
            conn.execute(_QUERIES["send"], values)
            console.print(f"{number}: back in {queue}{_let_call_go_on(conn, queue, payload)}")
        conn.execute(_QUERIES["settle"], {"dead_letter_id": number, "resolution": TRIED_AGAIN})
    return EXIT_OK


def _let_call_go_on(conn: psycopg.Connection, queue: str, payload: object) -> str:
    """Makes a parked call callable again; what to tell of it."""
    operation, name = CALLS.get(queue, ("", ""))
    subject_id = _uuid(payload.get(name)) if isinstance(payload, dict) else None
    if subject_id is None:
        return ""
    values = {"subject_id": subject_id, "operation": operation}
    row: Any = conn.execute(_WORKER_QUERIES["unpark_call"], values).fetchone()
    if row is None:
        return ""
    return "; the reconciler looks at Stripe first" if row[0] == "to_reconcile" else "; its call may be made again"


def _discard(conn: psycopg.Connection, console: Console, number: int, reason: str) -> int:
    with conn.transaction():
        if _lock(conn, console, number) is None:
            return EXIT_FOUND_TROUBLE
        conn.execute(_QUERIES["settle"], {"dead_letter_id": number, "resolution": f"discarded: {reason}"})
    console.print(f"{number}: discarded")
    return EXIT_OK


def _lock(conn: psycopg.Connection, console: Console, number: int) -> tuple[str, str, object, object] | None:
    row: Any = conn.execute(_QUERIES["lock"], {"dead_letter_id": number}).fetchone()
    if row is None:
        console.print(f"there is no dead letter {number}")
        return None
    if row[4] is not None:
        console.print(f"{number} is settled already; `payments dead-letters show {number}` says how")
        return None
    return row[0], row[1], row[2], row[3]


def _json(value: object) -> str | None:
    return None if value is None else msgspec.json.encode(value).decode()


def _uuid(text: object) -> UUID | None:
    try:
        return UUID(text) if isinstance(text, str) else None
    except ValueError:
        return None
