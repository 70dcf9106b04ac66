"""The sandbox's settings: command line first, then ``STRIPE_SANDBOX_*`` of the environment, then a default."""

from __future__ import annotations

import argparse
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

# The version the sandbox was written against; events carry it unless an endpoint pins another.
API_VERSION = "2026-10-28.endive"


@dataclass(frozen=True)
class Settings:
    """Where to listen, where to keep state, whom to send webhooks."""

    host: str
    port: int
    state: str
    webhook_url: str | None
    webhook_secret: str | None
    api_key: str | None


_OPTIONS: tuple[tuple[str, str | None, str], ...] = (
    ("host", "127.0.0.1", "address to listen on"),
    ("port", "12111", "port to listen on"),
    ("state", ":memory:", "SQLite file that holds all state, or :memory:"),
    ("webhook-url", None, "where to deliver events; none: events are only listed"),
    ("webhook-secret", None, "whsec_… that signs the deliveries"),
    ("api-key", None, "the only secret key accepted; none: any sk_test_… or rk_test_… key"),
)


def read_settings(argv: Sequence[str] | None = None, environ: Mapping[str, str] = os.environ) -> Settings:
    """Read the settings; exits with usage on a bad value."""
    parser = argparse.ArgumentParser(prog="stripe-sandbox", description="A local stand-in for Stripe's API.")
    for name, default, text in _OPTIONS:
        variable = "STRIPE_SANDBOX_" + name.upper().replace("-", "_")
        parser.add_argument(f"--{name}", default=environ.get(variable, default), help=f"{text} [{variable}]")
    found = parser.parse_args(argv)
    if not str(found.port).isdigit():
        parser.error("--port must be a number")
    if found.webhook_url and not found.webhook_secret:
        parser.error("--webhook-url needs --webhook-secret: Stripe signs every delivery")
    return Settings(
        host=found.host,
        port=int(found.port),
        state=found.state,
        webhook_url=found.webhook_url or None,
        webhook_secret=found.webhook_secret or None,
        api_key=found.api_key or None,
    )
