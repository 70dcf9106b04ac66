"""`payments outbox`: what each queue is owed, and the description of the events."""

import argparse
import json
from datetime import timedelta
from typing import Any

from psycopg.rows import dict_row
from rich.console import Console
from rich.table import Table

from payments.database.operator_connection import operator_connection
from payments.database.queries import load_queries
from payments.development.dev_env import admin_dsn
from payments.errors import EXIT_FOUND_TROUBLE, EXIT_OK
from payments.outbox.asyncapi import document
from payments.outbox.events import rfc3339
from payments.settings import Settings

HELP = "what each queue is owed; the events' description"
# A relay at work is never so far behind; more means that it is away, or that the lane has stopped.
LATE_S = 60

_QUERIES = load_queries("outbox")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Two actions."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="status|asyncapi")
    status = actions.add_parser("status", help=f"the lag of each lane; answers 1 when one is over {LATE_S} s late")
    status.add_argument("--json", action="store_true", help="for programs")
    actions.add_parser("asyncapi", help="print the AsyncAPI 3 document of the queues, made from the event types")


def run(args: argparse.Namespace, settings: Settings) -> int:
    """Look at the database that DATABASE_URL, or a running `payments up`, names."""
    if args.action == "asyncapi":
        print(json.dumps(document(), indent=2, ensure_ascii=False))
        return EXIT_OK
    with operator_connection(admin_dsn(settings), dict_row) as conn:
        lanes = conn.execute(_QUERIES["lag"]).fetchall()
    if args.json:
        print(json.dumps([_as_json(lane) for lane in lanes], indent=2))
    else:
        _print_table(lanes)
    return EXIT_FOUND_TROUBLE if any(_is_late(lane) for lane in lanes) else EXIT_OK


def _is_late(lane: dict[str, Any]) -> bool:
    lag: timedelta = lane["lag"]
    return lag.total_seconds() > LATE_S


def _as_json(lane: dict[str, Any]) -> dict[str, Any]:
    oldest = lane["oldest_at"]
    return {
        "queue": lane["queue_name"],
        "waiting": lane["waiting"],
        "oldestAt": oldest and rfc3339(oldest),
        "lagSeconds": round(lane["lag"].total_seconds(), 3),
        "lastDispatchedAt": rfc3339(lane["last_dispatched_at"]),
        "late": _is_late(lane),
    }


def _print_table(lanes: list[dict[str, Any]]) -> None:
    table = Table("queue", "waiting", "oldest for", "last dispatched", "", box=None)
    table.columns[1].justify = table.columns[2].justify = "right"
    for lane in lanes:
        oldest_for = f"{lane['lag'].total_seconds():.1f} s" if lane["waiting"] else "-"
        last = f"{lane['last_dispatched_at']:%Y-%m-%d %H:%M:%S}"
        verdict = "[red]late: is a relay running? its log names lanes that stopped[/red]" if _is_late(lane) else ""
        table.add_row(lane["queue_name"], str(lane["waiting"]), oldest_for, last, verdict)
    Console().print(table)
