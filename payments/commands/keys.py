"""`payments keys`: make, list and revoke the API keys of clients."""

import argparse
from datetime import UTC, datetime, timedelta
from uuid import UUID

import psycopg
from rich.console import Console
from rich.table import Column, Table

from payments.database.api_keys import CLIENT_ID, SCOPES, create_key, list_keys, revoke_key
from payments.database.operator_connection import operator_connection
from payments.development.dev_env import admin_dsn
from payments.errors import EXIT_FOUND_TROUBLE, EXIT_OK
from payments.settings import Settings

HELP = "make, list and revoke API keys"
DAYS_MAX = 3_650  # whoever wants longer wants no end


def client_id(text: str) -> str:
    """Parse a client's name as the database takes it."""
    if not CLIENT_ID.fullmatch(text):
        raise argparse.ArgumentTypeError(f"{text!r} must match {CLIENT_ID.pattern}")
    return text


def days(text: str) -> int:
    """Parse how long a key lives."""
    if not (text.isascii() and text.isdigit() and len(text) <= len(str(DAYS_MAX)) and 1 <= int(text) <= DAYS_MAX):
        raise argparse.ArgumentTypeError(f"must be a whole number from 1 to {DAYS_MAX}")
    return int(text)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Three actions; `create` prints the key, which cannot be shown again."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="create|list|revoke")
    create = actions.add_parser("create", help="make a key and print it, once")
    create.add_argument("client", type=client_id, help="who will hold it; idempotency keys belong to the client")
    create.add_argument("--scope", action="append", choices=SCOPES, required=True, help="may be given several times")
    create.add_argument("--days", type=days, help=f"let it end after so many days, 1 to {DAYS_MAX} (default: never)")
    actions.add_parser("list", help="all keys; the secrets themselves are kept nowhere")
    revoke = actions.add_parser("revoke", help="end a key")
    revoke.add_argument("key_id", type=UUID, help="its id, from `payments keys list`")


def run(args: argparse.Namespace, settings: Settings) -> int:
    """Do one of the actions on the database that DATABASE_URL, or a running `payments up`, names."""
    said, code = None, EXIT_OK
    with operator_connection(admin_dsn(settings)) as conn:
        match args.action:
            case "create":
                expires_at = datetime.now(UTC) + timedelta(days=args.days) if args.days else None
                said = create_key(conn, args.client, sorted(set(args.scope)), expires_at)
            case "list":
                _print_keys(conn)
            case "revoke" if revoke_key(conn, args.key_id):
                said = f"revoked {args.key_id}; a running API forgets it within seconds"
            case "revoke":
                said, code = f"no key {args.key_id} that was still good", EXIT_FOUND_TROUBLE
    if said is not None:  # committed: what is said holds
        print(said)
    return code


def _print_keys(conn: psycopg.Connection) -> None:
    # Whole, however narrow the terminal: `revoke` asks for it.
    table = Table(Column("key id", min_width=len(str(UUID(int=0)))), "client", "scopes", "created", "ends", box=None)
    for key in list_keys(conn):
        if key.revoked_at:
            ends = f"revoked {key.revoked_at:%Y-%m-%d %H:%M}"
        else:
            ends = f"{key.expires_at:%Y-%m-%d %H:%M}" if key.expires_at else "never"
        table.add_row(str(key.key_id), key.client_id, " ".join(key.scopes), f"{key.created_at:%Y-%m-%d %H:%M}", ends)
    Console().print(table)
