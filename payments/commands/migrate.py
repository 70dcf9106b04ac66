"""`payments migrate`: bring the database to the schema of this release."""

import argparse

from payments.database.migrate import SCHEMA_VERSION, migrate
from payments.development.dev_env import admin_dsn
from payments.settings import Settings

HELP = "bring the database to the schema of this release; safe to repeat"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """No arguments: DATABASE_DIRECT_URL or DATABASE_URL must be an administrator's address."""
    parser.description = (
        "Creates roles, pgmq and the schema, or applies what is missing. Needs DATABASE_DIRECT_URL or DATABASE_URL of "
        "an administrator (a superuser, or a role that may create roles and owns the database)."
    )


def run(_args: argparse.Namespace, settings: Settings) -> int:
    """Migrate and say what was done."""
    applied = migrate(admin_dsn(settings))
    done = f"applied {', '.join(applied)}" if applied else "nothing to do"
    print(f"schema version {SCHEMA_VERSION}: {done}")
    return 0
