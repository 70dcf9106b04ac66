"""A running system for each module of scenarios, calm at the beginning of each."""

from collections.abc import Iterator

import pytest

from tests.scenarios.stripe import Stripe
from tests.scenarios.world import World
from tests.system.conftest import pytest_runtest_makereport
from tests.system.running import System

__all__ = ["pytest_runtest_makereport"]  # what the system printed stands beside a failure here, too


@pytest.fixture
def world(system: System) -> Iterator[World]:
    """The module's system, without faults; `system` says with which settings it runs."""
    key = (system.data_dir / "sandbox" / "api.key").read_text().strip()
    stripe = Stripe(system.env["STRIPE_API_BASE"], key)
    with stripe.http:
        stripe.reset_steering()
        yield World(system, stripe)
        stripe.reset_steering()
