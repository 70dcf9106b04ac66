"""Random lives of payments on a running system; the same ones each time, unless asked for long and other ones."""

from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.scenarios.stripe import Stripe
from tests.stateful.lives import Lives
from tests.system.running import System, payments_up

IS_LONG = settings.get_current_profile_name() == "long"
HOURS_S = 12 * 3_600
USUAL = settings(max_examples=12, stateful_step_count=16, derandomize=True, database=None)


@pytest.fixture(scope="module")
def system() -> Iterator[System]:
    with payments_up(
        "--copies",
        "2",
        STRIPE_TIMEOUT_S="2",
        PAYMENTS_LEASE_S="4",
        PAYMENTS_RECONCILE_AFTER_S="2",
        PAYMENTS_EVENTS_BACKFILL_S="4",
    ) as running:
        yield running


@pytest.mark.timeout(HOURS_S if IS_LONG else 900)
def test_lives(system: System) -> None:
    key = (system.data_dir / "sandbox" / "api.key").read_text().strip()
    stripe = Stripe(system.env["STRIPE_API_BASE"], key)
    with stripe.http:
        stripe.reset_steering()
        how = settings() if IS_LONG else USUAL
        run_state_machine_as_test(
            lambda: Lives(system, stripe),
            settings=settings(how, deadline=None, print_blob=True, suppress_health_check=list(HealthCheck)),
        )
