"""`payments up`: run everything on this machine, for development and trying out."""

import argparse
import sys
from pathlib import Path

import msgspec

from payments.development.output import Output
from payments.development.procfile import default_procfile, read_procfile
from payments.development.supervisor import Supervisor
from payments.errors import ConfigurationError
from payments.logs import configure_logging
from payments.settings import Settings, inherited_environment

HELP = "run everything on this machine: PostgreSQL, the Stripe sandbox and all processes"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """How many of each process, and from which Procfile."""
    parser.description = (
        "Starts an embedded PostgreSQL (unless DATABASE_URL is set), brings it to the current schema, starts the "
        "Stripe sandbox (unless STRIPE_API_KEY is set) and every process of the Procfile, and restarts whatever dies. "
        "When all is ready it prints addresses and a key, and writes them to $PAYMENTS_DATA_DIR/dev.env. "
        "Ctrl-C stops everything."
    )
    parser.add_argument("--copies", type=_copies, default=1, help="copies of relay and of worker, 1 to 16 (default 1)")
    parser.add_argument("--procfile", type=Path, default=default_procfile(), help="default: the project's Procfile")


def run(args: argparse.Namespace, settings: Settings) -> int:
    """Supervise until told to stop."""
    if settings.stripe_api_base is not None and settings.stripe_api_key is None:
        raise ConfigurationError(
            ("STRIPE_API_BASE is set without STRIPE_API_KEY; set both, or neither for the sandbox.",)
        )
    environment = inherited_environment()
    if "PAYMENTS_LOG_FORMAT" not in environment:  # people read this terminal
        configure_logging(msgspec.structs.replace(settings, log_format="console"), "up")
    colour = sys.stdout.isatty() and "NO_COLOR" not in environment
    supervisor = Supervisor(
        settings, read_procfile(args.procfile), copies=args.copies, output=Output(sys.stdout, colour=colour)
    )
    return supervisor.run()


def _copies(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 16:
        raise argparse.ArgumentTypeError("must be a whole number from 1 to 16")
    return int(text)
