"""`payments inbox`: what Stripe told us and nobody has weighed, what came of a row, and dead rows once more."""

import argparse
from datetime import timedelta
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

HELP = "see what Stripe told us and what came of it; try dead rows again"
ROWS_MAX = 50  # a screen or two; SQL shows the rest
LATE = timedelta(minutes=1)  # a recorder at work weighs within it whatever it can

_QUERIES = load_queries("inbox")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Three actions."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="status|show|retry")
    actions.add_parser(
        "status", help="what waits, and what was given up; exit code 1 when anything was, or waits for over a minute"
    )
    show = actions.add_parser("show", help="rows with what came of them")
    show.add_argument("key", help="an inbox id, a payment's id, or Stripe's id of an event")
    show.add_argument("--payload", action="store_true", help="also what Stripe sent, secrets masked")
    retry = actions.add_parser("retry", help="let dead rows be weighed again, after their cause was mended")
    retry.add_argument("inbox_id", type=int, nargs="+", help="from `payments inbox status`")


def run(args: argparse.Namespace, settings: Settings) -> int:
    """Do one of the actions on the database that DATABASE_URL, or a running `payments up`, names."""
    console = Console(markup=False, emoji=False)  # what others have said is no markup
    with operator_connection(admin_dsn(settings)) as conn:
        match args.action:
            case "status":
                return _print_status(conn, console)
            case "show":
                return _print_rows(conn, console, args.key, with_payload=args.payload)
            case _:
                return _retry(conn, console, args.inbox_id)


def _print_status(conn: psycopg.Connection, console: Console) -> int:
    waiting = conn.execute(_QUERIES["summarize_waiting"]).fetchall()
    table = Table("source", "waiting", "put off", "oldest", "age", "most attempts", box=None)
    for source, count, put_off, oldest_at, age, attempts in waiting:
        table.add_row(source, str(count), str(put_off), f"{oldest_at:%Y-%m-%d %H:%M:%S}", str(age), str(attempts))
    console.print(table if waiting else "nothing waits to be weighed")
    is_late = any(age > LATE for _, _, _, _, age, _ in waiting)
    if is_late:
        console.print("late: is a worker running? payments.inbox_pending has each row's last_error", style="red")
    dead = conn.execute(_QUERIES["list_dead"], {"rows_max": ROWS_MAX}).fetchall()
    if not dead:
        console.print("no row was given up")
        return EXIT_FOUND_TROUBLE if is_late else EXIT_OK
    table = Table("inbox id", "source", "type", "payment", "died", "why", box=None)
    for inbox_id, source, kind, payment_id, died_at, error in dead:
        table.add_row(inbox_id, source, kind, str(payment_id or "-"), f"{died_at:%Y-%m-%d %H:%M:%S}", mask(error))
    (total,) = conn.execute(_QUERIES["count_dead"]).fetchone() or (0,)
    console.print(f"\ngiven up: {total}")
    console.print(table)
    console.print("Mend the cause, then: payments inbox retry INBOX_ID …")
    return EXIT_FOUND_TROUBLE


def _print_rows(conn: psycopg.Connection, console: Console, key: str, *, with_payload: bool) -> int:
    values = {"inbox_id": _whole(key), "payment_id": _uuid(key), "message_id": key, "rows_max": ROWS_MAX}
    rows: list[tuple[Any, ...]] = conn.execute(_QUERIES["show_rows"], values).fetchall()
    if not rows:
        console.print(f"no row of the inbox has {key!r} as its id, payment or message")
        return EXIT_FOUND_TROUBLE
    names = ("source", "message id", "type", "payment", "received", "processed", "outcome", "attempts", "next", "error")
    for row in rows:
        console.print(str(row[0]), style="bold")
        for name, value in zip(names, row[1:-1], strict=True):
            if value is not None:
                console.print(f"  {name:<11}", mask(str(value)), highlight=False)
        if with_payload:
            text = msgspec.json.format(msgspec.json.encode(row[-1])).decode()
            console.print("\n".join(mask(line) for line in text.splitlines()), highlight=False)
    return EXIT_OK


def _retry(conn: psycopg.Connection, console: Console, inbox_ids: list[int]) -> int:
    code = EXIT_OK
    with conn.transaction():
        for inbox_id in inbox_ids:
            if conn.execute(_QUERIES["revive"], {"inbox_id": inbox_id}).rowcount:
                conn.execute(_QUERIES["settle_dead"], {"inbox_id": inbox_id})
                console.print(f"{inbox_id} will be weighed again")
            else:
                console.print(f"{inbox_id} is no dead row")
                code = EXIT_FOUND_TROUBLE
    return code


def _whole(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 18 else None


def _uuid(text: str) -> UUID | None:
    try:
        return UUID(text)
    except ValueError:
        return None
