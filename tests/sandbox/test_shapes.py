"""Objects have at least the fields, with the types, of Stripe's published fixtures.

`STRIPE_FIXTURES` names a JSON file cut from github.com/stripe/openapi (fixtures3.json), unless one stands beside the
checkout; without it these are skipped, for the file is not ours to ship.
"""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from tests.sandbox.driver import Driver, Steer

PATH = Path(os.environ.get("STRIPE_FIXTURES") or Path(__file__).parents[3] / "shared" / "stripe" / "fixtures.json")
# Fields of the fixtures that only some accounts or kinds have, or that are filled in the example only.
OPTIONAL = {
    "charge": {"refunds", "source", "transfer_data", "review"},
    "payment_intent": {"source"},
    "dispute": {"evidence"},
    "event": {"data"},
}


@pytest.fixture(scope="module")
def fixtures() -> Any:
    if not PATH.exists():
        pytest.skip("STRIPE_FIXTURES names no file")
    return json.loads(PATH.read_text())


def objects(api: Driver, steer: Steer) -> dict[str, Any]:
    paid = api.pay(capture_method="automatic", payment_method="pm_card_createDispute")
    steer.advance(5)
    refunded = api.pay()
    charge = api.charge(paid.latest_charge)
    return {
        "payment_intent": paid,
        "charge": charge,
        "refund": api.refund(payment_intent=refunded.id),
        "event": api.events_of(paid.id)[0],
        "balance_transaction": api.run(api.v1.balance_transactions.list_async({"source": charge.id})).data[0],
        "dispute": api.run(api.v1.disputes.list_async({"charge": charge.id})).data[0],
        "customer": api.customer(),
        "payment_method": api.run(api.v1.payment_methods.retrieve_async(paid.payment_method)),
    }


def test_objects_have_the_published_fields(api: Driver, steer: Steer, fixtures: Any) -> None:
    for kind, one in objects(api, steer).items():
        ours, theirs = one.to_dict(), fixtures[kind]
        missing = set(theirs) - set(ours) - OPTIONAL.get(kind, set())
        assert missing == set(), kind
        for name in set(theirs) & set(ours):
            if ours[name] is not None and theirs[name] is not None:
                assert type(ours[name]) is type(theirs[name]), f"{kind}.{name}"
