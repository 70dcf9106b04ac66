"""How the systems of this room run: with leases, timeouts and looks short enough to see what follows a fault."""

from collections.abc import Iterator
from contextlib import contextmanager

from tests.system.running import System, payments_up

SETTINGS = {
    "STRIPE_TIMEOUT_S": "3",
    "PAYMENTS_LEASE_S": "4",
    "PAYMENTS_RECONCILE_AFTER_S": "3",
    "PAYMENTS_EVENTS_BACKFILL_S": "5",
}


@contextmanager
def system_on(database_url: str, *arguments: str, **environment: str) -> Iterator[System]:
    """Two relays, two workers and an API on a database that is there already."""
    with payments_up("--copies", "2", *arguments, DATABASE_URL=database_url, **SETTINGS | environment) as running:
        yield running
