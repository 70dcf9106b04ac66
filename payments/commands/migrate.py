"""`payments migrate`: bring a database to the schema of this release; with `--rebase`, back to work after a restore."""

import argparse
from datetime import datetime

from payments.database.migrate import SCHEMA_VERSION, migrate
from payments.database.operator_connection import told_in_words
from payments.database.rebase import Rebased, is_home, rebase
from payments.development.dev_env import admin_dsn
from payments.domain.moments import parse_moment
from payments.errors import EXIT_OK, ClusterMoved
from payments.settings import Settings

HELP = "bring the database to the schema of this release; safe to repeat"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """DATABASE_DIRECT_URL or DATABASE_URL must be an administrator's address."""
    parser.description = (
        "Creates roles, pgmq and the schema, or applies what is missing. Needs DATABASE_DIRECT_URL or DATABASE_URL of "
        "an administrator (a superuser, or a role that may create roles and owns the database)."
    )
    parser.add_argument(
        "--rebase",
        action="store_true",
        help="after a restore: settle what was dispatched, and have Stripe listed before anything is taken or called",
    )
    parser.add_argument(
        "--since",
        type=_moment,
        metavar="TIME",
        help="with --rebase: when the backup was taken (2026-01-31T12:00:00Z); needed for a dump restored on its own "
        "server, and after a physical restore; otherwise the newest time in the database counts",
    )


def _moment(text: str) -> datetime:
    try:
        return parse_moment(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def run(args: argparse.Namespace, settings: Settings) -> int:
    """Migrate and say what was done; with `--rebase` settle a restore. Raises ClusterMoved without it."""
    dsn = admin_dsn(settings)
    with told_in_words():
        applied = migrate(dsn)
    done = f"applied {', '.join(applied)}" if applied else "nothing to do"
    print(f"schema version {SCHEMA_VERSION}: {done}")
    if args.rebase or args.since is not None:
        _tell(rebase(dsn, args.since))
    elif not is_home(dsn):
        raise ClusterMoved(
            "This database was restored from another PostgreSQL cluster; no process works on it yet.",
            advice="Stop whatever still works on the old one, then run `payments migrate --rebase`.",
        )
    return EXIT_OK


def _tell(rebased: Rebased) -> None:
    if rebased.has_moved:
        print("the database has moved to this cluster; what its lanes still owed was sent:")
        for queue, count in rebased.sent.items():
            print(f"  {queue}: {count}")
        print(f"outbox rows that got a transaction id of this cluster: {rebased.restamped}")
    if rebased.unlisted_since is None:
        print("nothing to rebase: the database is at home in this cluster")
        print(
            "a dump restored on this very server, or a physical restore to an earlier time: "
            "payments migrate --rebase --since TIME"
        )
        return
    print(f"Stripe is looked at from {rebased.unlisted_since.isoformat(timespec='seconds')} on")
    print(
        "next: start api, relay and worker. Payments and other wishes are answered with 503, and no call moves money, "
        "until a worker has looked at all that; `payments doctor` says how it stands"
    )
