"""`payments doctor`: is everything well, and if not, what to do."""

import argparse

from rich.console import Console
from rich.text import Text

from payments.development.dev_env import admin_dsn
from payments.doctor.checks import examine
from payments.doctor.findings import Finding, Level
from payments.errors import EXIT_FOUND_TROUBLE, EXIT_OK
from payments.settings import Settings

HELP = "check server, schema, lanes, inbox and books; say what to do about each fault"
_COLOURS = {Level.OK: "green", Level.WARNING: "yellow", Level.FAULT: "red"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """No arguments: looks at DATABASE_DIRECT_URL or DATABASE_URL, else at the running `payments up`."""
    parser.description = "Exit code 0 when nothing is at fault, 1 otherwise. Reads only; payments_readonly may run it."


def run(_args: argparse.Namespace, settings: Settings) -> int:
    """Print every finding; answer 1 when one is a fault."""
    findings = examine(admin_dsn(settings), settings)
    console = Console()
    for finding in findings:
        _print(console, finding)
    return EXIT_FOUND_TROUBLE if any(finding.level is Level.FAULT for finding in findings) else EXIT_OK


def _print(console: Console, finding: Finding) -> None:
    advice = f"\n           → {finding.advice}" if finding.advice else ""
    found = f" {finding.check}: {finding.found}{advice}"
    console.print(Text.assemble((f"{finding.level:<8}", _COLOURS[finding.level]), found))
