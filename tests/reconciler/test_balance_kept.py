"""Which of Stripe's balance transactions are kept, and for which payment."""

import json
from dataclasses import replace
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any, cast

import pytest
import structlog

from payments.database.connections import open_pool
from payments.database.queries import load_queries
from payments.reconciler.asking import StripeAway
from payments.reconciler.balance import BALANCE
from payments.reconciler.jobs import Surroundings
from payments.settings import Settings
from payments.stripe_gateway.outcomes import Outcome, Refused, Unauthorized
from tests.database.rows import insert_payment
from tests.development.databases import Database
from tests.reconciler.bench import Bench

KEEP = load_queries("balance")["keep"].decode()


@pytest.mark.every_postgres
def test_money_is_kept_for_the_payment_of_its_intent_or_else_for_the_one_it_names(database: Database) -> None:
    """Named by metadata alone: money that the books know nothing of, as of a second charge, is what they must show."""
    with database.connect() as admin:
        payment_id, other_id = insert_payment(admin), insert_payment(admin)
        admin.execute(
            "update payments.payments set processor_payment_intent = 'pi_known' where payment_id = %s", (payment_id,)
        )

    def booked(number: int, intent_id: str | None, named: object) -> dict[str, object]:
        return {
            "transaction_id": f"txn_{number}",
            "kind": "charge",
            "about": "charge",
            "source": f"ch_{number}",
            "named_payment_id": named and str(named),
            "intent_id": intent_id,
            "amount": 1000,
            "fee": 30,
            "currency": "EUR",
            "exchange_rate": None,
            "moved": 1000,
            "moved_currency": "EUR",
            "created_at": datetime(2026, 1, 1, tzinfo=UTC).isoformat(),
        }

    rows = [
        booked(1, "pi_known", None),
        booked(2, "pi_known", other_id),
        booked(3, "pi_unheard_of", payment_id),
        booked(4, "pi_unheard_of", None),
    ]
    with database.connect("payments_worker") as worker:
        for _ in range(2):
            worker.execute(KEEP, {"rows": json.dumps(rows)})
    with database.connect() as admin:
        kept = admin.execute(
            "select transaction_id, payment_id from payments.balance_transactions order by 1"
        ).fetchall()
    assert kept == [("txn_1", payment_id), ("txn_2", payment_id), ("txn_3", payment_id)]


@pytest.mark.anyio
async def test_balance_is_not_read_before_a_restores_look_at_stripe_has_ended(database: Database) -> None:
    """A dispute's money bears no metadata of ours: before its payment is found again it would be nobody's, for ever."""
    assert BALANCE.has_work is not None
    async with open_pool(database.dsn("payments_worker"), "payments_worker", 1) as pool:
        around = Surroundings(pool, None, None, Settings.load({}))  # type: ignore[arg-type]  # asks and tells nobody
        assert await BALANCE.has_work(around)
        with database.connect() as admin:
            admin.execute("update payments.cluster set stripe_unlisted_since = now()")
        assert not await BALANCE.has_work(around)


def around_a_stripe_that_says(bench: Bench, outcome: Outcome) -> Surroundings:
    async def list_balance_transactions(**_: Any) -> Outcome:
        return outcome

    gateway = SimpleNamespace(list_balance_transactions=list_balance_transactions)
    return replace(bench.around, gateway=cast("Any", gateway))


@pytest.mark.anyio
@pytest.mark.parametrize("outcome", [Unauthorized(403, "no right", None), Refused({}, 400, None)])
async def test_a_key_that_may_not_read_the_balance_is_no_refused_key(bench: Bench, outcome: Outcome) -> None:
    """All else goes on: nobody is to be alarmed as if Stripe took no calls of ours."""
    with structlog.testing.capture_logs() as log:
        assert await BALANCE.run(around_a_stripe_that_says(bench, outcome)) is False
    assert [line["event"] for line in log] == ["balance.refused"]


@pytest.mark.anyio
async def test_a_key_that_stripe_does_not_know_alarms_from_here_as_well(bench: Bench) -> None:
    with pytest.raises(StripeAway) as raised:
        await BALANCE.run(around_a_stripe_that_says(bench, Unauthorized(401, "no", None)))
    assert raised.value.is_key_refused
