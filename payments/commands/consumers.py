"""`payments consumers`: queues and reading roles for whoever wants to hear what happens to payments."""

import argparse
import json
import sys
from collections.abc import Callable
from typing import Any, TypeVar, assert_never

import psycopg
from psycopg.conninfo import conninfo_to_dict
from psycopg.rows import dict_row
from rich.console import Console
from rich.table import Table

from payments.consumers.addresses import consumer_dsn
from payments.consumers.registry import Access, add, has_forgotten, list_consumers, remove, renew_password, shut_out
from payments.consumers.subscriptions import parse_name, parse_patterns, parse_start
from payments.database.operator_connection import operator_connection
from payments.development.dev_env import admin_dsn
from payments.errors import EXIT_OK
from payments.outbox.events import rfc3339
from payments.settings import Settings

HELP = "add, list and remove consumers of events"

T = TypeVar("T")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Four actions; `add` and `password` print the password, which cannot be shown again."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="add|list|password|remove")
    adding = actions.add_parser(
        "add",
        help="make a queue and a role that may read it and nothing else; prints queue, role, password and dsn as JSON",
        description="Without --events, a queue that is there already (ordering, from the start) gets its reading role.",
    )
    _add_name(adding)
    adding.add_argument(
        "--events",
        type=_parsed(parse_patterns),
        metavar="KEY[,KEY…]",
        help="routing keys such as payment.requested, or patterns: payment.*, dispute.#, # for everything",
    )
    adding.add_argument(
        "--from",
        dest="start",
        type=_parsed(parse_start),
        metavar="now|beginning|TIME",
        help="what it is owed: what happens from now on (default), all of the outbox, or all of it from a time on",
    )
    listing = actions.add_parser("list", help="all consumers, and how much waits for each")
    listing.add_argument("--json", action="store_true", help="for programs")
    _add_name(actions.add_parser("password", help="give a consumer's role a new password; prints the same as add"))
    removing = actions.add_parser("remove", help="drop a consumer's queue, with what waits there, and its role")
    _add_name(removing)
    removing.add_argument("--keep-queue", action="store_true", help="take away its role only")


def _add_name(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", type=_parsed(parse_name), help="the consumer's name, and its queue's")


def _parsed(parse: Callable[[str], T]) -> Callable[[str], T]:
    """`parse` as argparse likes it: a ValueError's words reach the user."""

    def parsed(text: str) -> T:
        try:
            return parse(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from error

    return parsed


def run(args: argparse.Namespace, settings: Settings) -> int:
    """Do one of the actions on the database that DATABASE_URL, or a running `payments up`, names."""
    dsn = admin_dsn(settings)
    match args.action:
        case "add":
            with operator_connection(dsn) as conn:
                access = add(conn, args.name, args.events, args.start)
                printed = _as_json(conn, dsn, access)
                misses_some = args.start not in {None, "now"} and has_forgotten(conn)
            print(printed)
            if misses_some:
                print("Events of payments long at rest are forgotten; the queue gets what is kept.", file=sys.stderr)
        case "password":
            with operator_connection(dsn) as conn:
                printed = _as_json(conn, dsn, renew_password(conn, args.name))
            print(printed)
        case "list":
            with operator_connection(dsn, dict_row) as conn:
                consumers = list_consumers(conn)
            _print_list(consumers, as_json=args.json)
        case "remove":
            with operator_connection(dsn) as conn:
                shut_out(conn, args.name, keep_queue=args.keep_queue)
            with operator_connection(dsn) as conn:
                remove(conn, args.name, keep_queue=args.keep_queue)
            print(f"removed {args.name}" + (": its role; the queue is kept" if args.keep_queue else ""))
        case other:
            assert_never(other)
    return EXIT_OK


def _as_json(conn: psycopg.Connection[Any], dsn: str, access: Access) -> str:
    """Printed once the transaction is committed: before, nobody could use it."""
    found = {"host": conn.info.host, "port": str(conn.info.port), "dbname": conn.info.dbname}
    said = {name: str(value) for name, value in conninfo_to_dict(dsn).items() if value is not None}
    address = consumer_dsn({**found, **said}, access.role, access.password)
    return json.dumps(
        {"queue": access.queue, "role": access.role, "password": access.password, "dsn": address}, indent=2
    )


def _print_list(consumers: list[dict[str, Any]], *, as_json: bool) -> None:
    if as_json:
        print(json.dumps([_row_as_json(one) for one in consumers], indent=2))
        return
    table = Table("queue", "hears", "read by", "waiting", "owed", box=None)
    table.columns[3].justify = table.columns[4].justify = "right"
    for one in consumers:
        waiting = "?" if one["waiting"] is None else str(one["waiting"])  # its queue is locked, or gone
        table.add_row(one["queue"], ", ".join(one["events"]), one["role"] or "nobody", waiting, str(one["owed"]))
    Console().print(table)


def _row_as_json(one: dict[str, Any]) -> dict[str, Any]:
    return {
        "queue": one["queue"],
        "events": one["events"],
        "role": one["role"],
        "waiting": one["waiting"],
        "owed": one["owed"],
        "lagSeconds": round(one["lag_s"], 3),
        "createdAt": rfc3339(one["created_at"]),
    }
