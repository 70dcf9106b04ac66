"""When a refund is called for, and when it has to be looked for first."""

from datetime import UTC, datetime, timedelta

import msgspec
import pytest

from payments.domain.attempts import Attempt, Reconcile
from payments.worker.create_refund import CREATE_REFUND, decide
from payments.worker.operation import Situation
from tests.stripe_gateway.test_parameters import situations

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)


@pytest.mark.parametrize(("hours", "expected"), [(22, Attempt), (24, Reconcile)])
def test_refund_whose_call_a_restored_backup_lost_is_not_called_for_under_a_forgotten_key(
    hours: int, expected: type
) -> None:
    """It may have been made yesterday: its first key would make another one."""
    situation: Situation = next(situations(CREATE_REFUND))
    assert situation.refund is not None
    refund = msgspec.structs.replace(situation.refund, created_at=NOW - timedelta(hours=hours))
    assert isinstance(decide(msgspec.structs.replace(situation, refund=refund, now=NOW)), expected)
