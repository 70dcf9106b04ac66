"""`payments api`: the HTTP API."""

import argparse

import uvloop

from payments.api.process import run_api
from payments.api.server import listen
from payments.process import run_process
from payments.settings import Settings

HELP = "serve the HTTP API on HOST:PORT"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """No arguments: settings say all."""
    parser.description = "Serves the HTTP API until SIGTERM; requests under way are finished then. Many copies may run."


def run(_args: argparse.Namespace, settings: Settings) -> int:
    """Serve until told to stop."""
    with listen(settings.host, settings.port) as listener:
        return run_process("api", lambda stop: run_api(settings, listener, stop), loop_factory=uvloop.new_event_loop)
