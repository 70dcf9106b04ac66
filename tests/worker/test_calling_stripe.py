"""Each test is a line of scenarios.md, 'Calling Stripe': real worker processes, a real database, the sandbox's ledger."""

from tests.conftest import wait_until
from tests.worker.world import World


def test_straight_way(world: World) -> None:
    payment_id = world.request()
    world.start_worker()
    wait_until(world.settled(payment_id))
    (intent,) = world.sandbox.intents(payment_id)
    assert intent["amount_captured"] == 1000
    call = world.call(payment_id)
    assert call is not None
    assert (call["state"], call["outcome"], call["attempts"]) == ("answered", "answered", 1)
    ((message_id, payload),) = world.answers(payment_id)
    assert message_id == f"{call['stripe_request_id']}/1"
    assert payload["operation"] == "create_payment_intent"
    assert payload["object"]["latest_charge"]["object"] == "charge"
