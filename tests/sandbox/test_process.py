"""The sandbox as a process: its state outlives it, its clock moves, its ledger balances."""

import threading
import time
from pathlib import Path

import stripe

from tests.sandbox.driver import Driver, Process, Steer, error_of


def test_state_survives_sigkill(state: Path) -> None:
    process = Process(state)
    process.start()
    driver, steer = Driver(process.base_url, "sk_test_x"), Steer(process.base_url)
    try:
        held = driver.hold(metadata={"paymentId": "p"})
        paid = driver.pay("k-kill", metadata={"paymentId": "p"})
        steer.advance(3600)
        steer.post("behaviours", refund_delay_s=77)
        order = steer.fault("status", status=503, match={"path": "/v1/refunds"})
        before = steer.get("ledger")
        process.kill()
        process.start()
        driver.reconnect()
        assert steer.get("ledger") == before
        assert driver.pay("k-kill", metadata={"paymentId": "p"}).id == paid.id
        assert driver.capture(held.id).status == "succeeded"
        assert steer.get("clock")["offset_s"] == 3600
        assert steer.get("behaviours")["refund_delay_s"] == 77
        assert error_of(lambda: driver.refund(payment_intent=paid.id)).http_status == 503
        assert steer.fired(order) == 1
    finally:
        driver.close()
        process.stop()


def test_kill_under_load_leaves_effects_and_records_together(state: Path) -> None:
    """What was answered is there; what was not, is there once or not at all, and the same key settles it."""
    process = Process(state)
    process.start()
    driver, steer = Driver(process.base_url, "sk_test_x"), Steer(process.base_url)
    keys = [f"load-{number}" for number in range(400)]
    try:
        threading.Timer(0.15, process.kill).start()
        outcomes = driver.together(*(driver.paying(key, metadata={"paymentId": key}) for key in keys))
        answered = {key: one.id for key, one in zip(keys, outcomes, strict=True) if not isinstance(one, BaseException)}
        assert len(answered) < len(keys), "the kill came too late to prove anything"
        while process._process is not None:
            time.sleep(0.01)
        process.start()
        driver.reconnect()
        for key in keys:
            again = driver.pay(key, metadata={"paymentId": key})
            assert answered.get(key, again.id) == again.id
        report = steer.get("ledger")
        assert sorted(line["metadata"]["paymentId"] for line in report["payment_intents"]) == sorted(keys)
        assert report["imbalances"] == []
        assert report["totals"]["usd"]["amount_captured"] == 1000 * len(keys)
    finally:
        driver.close()
        process.stop()


def test_ledger_tells_what_was_really_done(api: Driver, steer: Steer) -> None:
    paid = api.pay(metadata={"paymentId": "p"})
    api.refund(payment_intent=paid.id, amount=300, metadata={"refundId": "r"})
    part = api.hold(amount=900, metadata={"paymentId": "p"})
    api.capture(part.id, amount_to_capture=500)
    error_of(lambda: api.pay(payment_method="pm_card_visa_chargeDeclined", metadata={"paymentId": "p"}))
    api.pay(metadata={"paymentId": "other"})
    report = steer.ledger("p")
    assert report["count"] == 3
    first, second, third = report["payment_intents"]
    names = ("amount_authorized", "amount_captured", "amount_released", "amount_refunded")
    assert [first[name] for name in names] == [1000, 1000, 0, 300]
    assert [second[name] for name in names] == [900, 500, 400, 0]
    assert [third[name] for name in names] == [0, 0, 0, 0]
    assert first["refunds"][0]["metadata"] == {"refundId": "r"}
    assert third["charges"][0]["decline_code"] == "generic_decline"
    assert report["totals"]["usd"]["amount_captured"] == 1500
    assert steer.get("ledger", payment_intent=part.id)["payment_intents"][0]["id"] == part.id


def test_release_can_make_a_refund_object(api: Driver, steer: Steer) -> None:
    """Integrators report Refund objects for released amounts; a robust client counts no money twice."""
    steer.post("behaviours", release_makes_refund=True)
    held = api.hold(metadata={"paymentId": "p"})
    api.capture(held.id, amount_to_capture=600)
    page = api.run(api.refunds.list_async({"payment_intent": held.id}))
    assert [one.amount for one in page.data] == [400]
    assert steer.ledger("p")["payment_intents"][0]["amount_refunded"] == 0


def test_clock_moves_and_dates_objects(api: Driver, steer: Steer) -> None:
    steer.advance(10 * 24 * 3600)
    assert abs(api.pay(confirm=False).created - time.time() - 10 * 24 * 3600) < 30
    steer.post("clock", now=2_000_000_000)
    assert abs(api.pay(confirm=False).created - 2_000_000_000) < 30


def test_only_the_given_key_is_accepted(state: Path) -> None:
    process = Process(state)
    process.environment = {"STRIPE_SANDBOX_API_KEY": "sk_test_the_only_one"}
    process.start()
    right, wrong = Driver(process.base_url, "sk_test_the_only_one"), Driver(process.base_url, "sk_test_another")
    try:
        assert right.pay().status == "succeeded"
        assert isinstance(error_of(wrong.pay), stripe.AuthenticationError)
    finally:
        right.close()
        wrong.close()
        process.stop()
