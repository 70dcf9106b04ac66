"""`payments relay`: the process that carries events from the outbox to the queues."""

import argparse
from functools import partial

from payments.process import run_process
from payments.relay import relay
from payments.settings import Settings

HELP = "carry events from the outbox to the queues"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """None: the settings say it all."""
    parser.description = (
        "Carries events from the outbox to the queues bound to them, each exactly once and in order. "
        "Several may run at once, on one host or many."
    )


def run(args: argparse.Namespace, settings: Settings) -> int:
    """Run until SIGTERM or Ctrl-C."""
    del args
    return run_process("relay", partial(relay.main, settings))
