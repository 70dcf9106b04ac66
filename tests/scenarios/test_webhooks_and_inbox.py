"""Stripe's webhooks: late, early, twice, forged, poisonous or of somebody else's; each true one has one effect."""

import contextlib
import itertools
import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import uuid4

import psycopg
import pytest

from tests.conftest import wait_until
from tests.scenarios.stripe import CANCEL, CAPTURE, event, signed
from tests.scenarios.world import AMOUNT, World
from tests.system.running import System, payments_up

OLD_SECRET, NEW_SECRET = "whsec_of_last_year", "whsec_of_this_year"
BYTES_MAX = 65_536
TOLERANCE_S = 300


@pytest.fixture(scope="module")
def system() -> Iterator[System]:
    # Looking at Stripe comes too late here: what is known came by webhook or in an answer.
    with payments_up(
        "--copies",
        "2",
        STRIPE_WEBHOOK_SECRETS=f"{NEW_SECRET},{OLD_SECRET}",
        STRIPE_TIMEOUT_S="4",
        PAYMENTS_LEASE_S="6",
        PAYMENTS_WEBHOOK_BYTES_MAX=str(BYTES_MAX),
        PAYMENTS_RECONCILE_AFTER_S="600",
        PAYMENTS_EVENTS_BACKFILL_S="3600",
    ) as running:
        running.outwait_first_looks()
        yield running


def copy_of(original: dict[str, Any], **changes: Any) -> tuple[str, bytes]:
    """The same event under another id."""
    event_id = f"evt_{uuid4().hex}"
    return event_id, json.dumps(original | {"id": event_id} | changes).encode()


def test_35_webhook_before_the_answer(world: World) -> None:
    cart = str(uuid4())
    world.stripe.fault("slow", cart, delay_s=2.0)
    payment_id = world.accepted(cartId=cart)["paymentId"]
    world.until(payment_id, "SUCCEEDED")
    assert world.call(payment_id)["state"] == "in_flight", "the answer is still to come"
    assert world.history(payment_id)[-1]["source"] == "stripe-webhook"
    wait_until(lambda: world.call(payment_id)["state"] == "answered")
    assert world.way(payment_id) == ["REQUESTED", "SUCCEEDED"]
    world.agree()


def strange_intent(world: World, **metadata: str) -> dict[str, Any]:
    """A PaymentIntent that somebody else makes in the same account of Stripe's."""
    form = {"amount": "1234", "currency": "eur", "confirm": "true", "payment_method": "pm_card_visa"}
    form |= {"automatic_payment_methods[enabled]": "true", "automatic_payment_methods[allow_redirects]": "never"}
    return world.stripe.api(
        "payment_intents", **form, **{f"metadata[{name}]": value for name, value in metadata.items()}
    )


def test_36_foreign_payment_intent(world: World) -> None:
    intent = strange_intent(world)
    world.stripe.refund_in_dashboard(intent["id"], 34)
    dispute = world.stripe.open_dispute(intent["id"])
    kinds = {"payment_intent.succeeded", "refund.created", "charge.dispute.created"}

    def outcomes() -> dict[str, str]:
        query = """select message_type, outcome from payments.inbox where processed_at is not null
            and %(intent)s in (payload #>> '{data,object,id}', payload #>> '{data,object,payment_intent}')"""
        with world.system.connect() as conn:
            return dict(conn.execute(query, {"intent": intent["id"]}).fetchall())

    wait_until(lambda: kinds <= outcomes().keys())
    assert {outcomes()[kind] for kind in kinds} == {"foreign"}
    delivered = world.stripe.deliveries(object=dispute["id"])
    assert {one["status"] for one in delivered} == {"delivered"}
    assert world.system.rows("select 1 from payments.payments where processor_payment_intent = %s", intent["id"]) == []
    world.agree(foreign=(intent["id"],))


def test_36_payment_intent_that_is_ours_by_metadata(world: World) -> None:
    payment_id, cart, order = str(uuid4()), str(uuid4()), str(uuid4())
    intent = strange_intent(world, paymentId=payment_id, cartId=cart, orderId=order)
    wait_until(lambda: world.http.get(f"/payments/{payment_id}").status_code == 200)
    payment = world.until(payment_id, "SUCCEEDED")
    assert (payment["cartId"], payment["orderId"], payment["amount"]) == (cart, order, 1234)
    assert payment["processorReference"] == intent["latest_charge"]
    assert world.stripe.keys(payment_id) == {None}, "nothing was charged for it by us"
    world.agree()


def test_37_same_event_again_and_at_once(world: World) -> None:
    world.stripe.webhooks(duplicate=3)
    payment_id = world.paid()["paymentId"]
    told = world.heard(payment_id, "payment_intent.succeeded")
    body = json.dumps(told).encode()
    headers = signed(body, NEW_SECRET)
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: world.deliver(body, headers), range(16)))
    assert {one.status_code for one in answers} == {200}
    rows = "select count(*) from payments.inbox where source = 'stripe-webhook' and message_id = %s"
    assert world.system.rows(rows, told["id"]) == [(1,)]
    world.agree()


def test_37_other_event_of_the_same_state(world: World) -> None:
    payment_id = world.paid()["paymentId"]
    told = world.heard(payment_id, "payment_intent.succeeded")
    copies = [copy_of(told) for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        answers = list(
            pool.map(lambda body: world.deliver(body, signed(body, NEW_SECRET)), [body for _, body in copies])
        )
    assert {one.status_code for one in answers} == {200}
    assert {world.weighed(event_id)["outcome"] for event_id, _ in copies} == {"ignored"}
    assert world.events(payment_id) == ["payment-requested", "payment-succeeded"]
    world.agree()


def release_in_order(world: World, payment_id: str, kinds: tuple[str, ...]) -> None:
    """Deliver a payment's held events in this order, each of them twice."""
    intent = world.stripe.intent(payment_id)
    objects = {intent["id"], *(charge["id"] for charge in intent["charges"])}
    held = {one["type"]: one["event"] for one in world.stripe.deliveries(status="held") if one["object"] in objects}
    events = [held[kind] for kind in kinds]
    assert {one["http_status"] for one in world.stripe.release(events=[*events, *reversed(events)])} == {200}


def let_stripe_answer(world: World, faults: list[int], queue: str) -> None:
    """From now on, and at once: whoever had no answer often would wait for half a minute."""
    for fault in faults:
        world.stripe.withdraw(fault)
    world.execute(f"update pgmq.q_{queue} set vt = clock_timestamp()")


def test_38_every_order_of_events_without_any_answer(world: World) -> None:
    world.stripe.webhooks(mode="hold")
    orders = list(itertools.permutations(["payment_intent.created", "charge.succeeded", "payment_intent.succeeded"]))
    carts = [str(uuid4()) for _ in orders]
    lost = [world.stripe.fault("after_executing", cart, times=None) for cart in carts]
    ids = [world.accepted(cartId=cart)["paymentId"] for cart in carts]
    for payment_id, order in zip(ids, orders, strict=True):
        wait_until(lambda: world.stripe.intents(payment_id))  # noqa: B023
        release_in_order(world, payment_id, order)
    for payment_id in ids:
        assert world.until(payment_id, "SUCCEEDED")["amountCaptured"] == AMOUNT
        assert world.way(payment_id) == ["REQUESTED", "SUCCEEDED"]
    let_stripe_answer(world, lost, "payment_requested")
    world.agree()


def test_38_every_order_of_a_decline_and_a_second_try(world: World) -> None:
    world.stripe.webhooks(mode="hold")
    kinds = ["payment_intent.created", "payment_intent.payment_failed", "payment_intent.succeeded"]
    ids = []
    for order in itertools.permutations(kinds):
        payment = world.authorize(paymentMethod=None).json()
        assert payment["status"] == "ACTION_REQUIRED"
        secret = payment["nextAction"]["clientSecret"]
        assert world.stripe.confirm(secret, "pm_card_visa_chargeDeclined").status_code == 402
        assert world.stripe.confirm(secret).status_code == 200
        release_in_order(world, payment["paymentId"], order)
        ids.append(payment["paymentId"])
    for payment_id in ids:
        assert world.until(payment_id, "SUCCEEDED")["amountCaptured"] == AMOUNT
        assert world.events(payment_id) == ["payment-requested", "payment-action-required", "payment-succeeded"]
    world.agree()


@pytest.mark.parametrize(
    ("wish", "path", "end", "kinds"),
    [
        ("capture", CAPTURE, "SUCCEEDED", ("charge.captured", "payment_intent.succeeded")),
        ("void", CANCEL, "VOIDED", ("payment_intent.created", "payment_intent.canceled")),
    ],
)
def test_38_every_order_of_a_hold_and_its_end(
    world: World, wish: str, path: str, end: str, kinds: tuple[str, ...]
) -> None:
    world.stripe.webhooks(mode="hold")
    done = "succeeded" if wish == "capture" else "canceled"
    ids, lost = [], []
    for order in itertools.permutations(["payment_intent.amount_capturable_updated", *kinds]):
        cart = str(uuid4())
        payment_id = world.held(cartId=cart)["paymentId"]
        lost.append(world.stripe.fault("after_executing", cart, path, times=None))
        assert world.act(payment_id, wish, Prefer="wait=0").status_code == 202
        wait_until(lambda: world.stripe.intent(payment_id)["status"] == done)  # noqa: B023
        release_in_order(world, payment_id, order)
        ids.append(payment_id)
    for payment_id in ids:
        world.until(payment_id, end)
    let_stripe_answer(world, lost, f"{wish}_requested")
    world.agree()


def test_39_retried_for_days_and_replayed(world: World) -> None:
    payment_id = world.paid()["paymentId"]
    told = world.heard(payment_id, "payment_intent.succeeded")
    fresh_id, fresh = copy_of(told, created=int(time.time()) - 3 * 86_400)
    assert world.deliver(fresh, signed(fresh, NEW_SECRET)).status_code == 200  # signed afresh, as each attempt is
    assert world.weighed(fresh_id)["outcome"] == "ignored"
    old_id, old = copy_of(told)
    replayed = world.deliver(old, signed(old, NEW_SECRET, at=time.time() - TOLERANCE_S - 10))
    assert (replayed.status_code, replayed.json()["code"]) == (400, "invalid_signature")
    assert world.inbox(old_id) == {}
    world.agree()


def genuine() -> bytes:
    thing = {"id": "pi_nobody_knows", "object": "payment_intent", "amount": 1, "currency": "eur", "status": "succeeded"}
    return event("payment_intent.succeeded", thing, f"evt_{uuid4().hex}")


def as_signed(body: bytes, **how: Any) -> tuple[bytes, dict[str, str]]:
    return body, signed(body, NEW_SECRET, **how)


HOSTILE: dict[str, Callable[[], tuple[bytes, dict[str, Any]]]] = {
    "unsigned": lambda: (genuine(), {"Content-Type": "application/json"}),
    "forged": lambda: (body := genuine(), signed(body, "whsec_of_somebody_else")),
    "blank secret": lambda: (body := genuine(), signed(body, "")),
    "truncated": lambda: ((body := genuine())[:-20], signed(body, NEW_SECRET)),
    "re-serialised": lambda: (json.dumps(json.loads(body := genuine()), indent=1).encode(), signed(body, NEW_SECRET)),
    "oversize": lambda: as_signed(b'{"pad": "' + b"x" * BYTES_MAX + b'"}'),
    "not ASCII in the header": lambda: (genuine(), {"Stripe-Signature": "t=1,v1=é".encode()}),
    "not UTF-8": lambda: as_signed(b'{"id": "evt_\xff"}'),
    "a list": lambda: as_signed(b"[]"),
    "a string": lambda: as_signed(b'"evt_1"'),
    "null": lambda: as_signed(b"null"),
    "nothing": lambda: as_signed(b""),
    "no JSON": lambda: as_signed(b"id=evt_1&object=event"),
    "not a number": lambda: as_signed(b'{"id": "evt_1", "created": NaN}'),
    "nested deeply": lambda: as_signed(b'{"data":' * 5_000 + b"1" + b"}" * 5_000),
    "data of no object": lambda: as_signed(b'{"id": "evt_1", "object": "event", "type": "x", "data": {"object": 7}}'),
    "id of no string": lambda: as_signed(b'{"id": ["evt_1"], "object": "event", "type": "x", "data": {"object": {}}}'),
    "from the future": lambda: as_signed(genuine(), at=time.time() + TOLERANCE_S + 60),
    "timestamp of no number": lambda: (genuine(), {"Stripe-Signature": "t=never,v1=" + "0" * 64}),
    "thousand signatures": lambda: (
        body := genuine(),
        {"Stripe-Signature": signed(body, NEW_SECRET)["Stripe-Signature"] + (",v1=" + "0" * 64) * 1_000},
    ),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_40_hostile_delivery(world: World, kind: str) -> None:
    count = "select count(*) from payments.inbox"
    before = world.system.rows(count)
    body, headers = HOSTILE[kind]()
    began = time.monotonic()
    answer = world.deliver(body, {"Content-Type": "application/json"} | headers)
    assert 400 <= answer.status_code < 500, answer.text
    assert time.monotonic() - began < 5
    assert world.system.rows(count) == before
    world.agree()


def test_41_secret_rotation(world: World) -> None:
    ways = [(OLD_SECRET,), (NEW_SECRET,), (OLD_SECRET, NEW_SECRET), ("whsec_not_ours_yet", NEW_SECRET)]
    for secrets in ways:
        body = genuine()
        assert world.deliver(body, signed(body, *secrets)).status_code == 200, secrets
        assert world.weighed(json.loads(body)["id"])["outcome"] == "foreign"
    world.stripe.webhooks(secrets=[OLD_SECRET, NEW_SECRET])
    try:
        payment_id = world.paid()["paymentId"]
        world.heard(payment_id, "payment_intent.succeeded")
    finally:
        world.stripe.webhooks(secrets=[NEW_SECRET])
    world.agree()


@pytest.mark.parametrize(
    "elsewhere", [{"livemode": True}, {"account": "acct_of_somebody_else"}], ids=["mode", "account"]
)
def test_42_other_mode_or_account(world: World, elsewhere: dict[str, Any]) -> None:
    world.stripe.webhooks(mode="hold")
    payment = world.authorize(paymentMethod=None).json()
    world.stripe.confirm(payment["nextAction"]["clientSecret"]).raise_for_status()
    intent = world.stripe.intent(payment["paymentId"])
    thing = {name: intent[name] for name in ("id", "amount", "currency", "status", "metadata")} | {
        "object": "payment_intent"
    }
    event_id = f"evt_{uuid4().hex}"
    body = event("payment_intent.succeeded", thing, event_id, **elsewhere)
    assert world.deliver(body, signed(body, NEW_SECRET)).status_code == 200
    assert world.weighed(event_id)["outcome"] == "quarantined"
    assert world.payment(payment["paymentId"])["status"] == "ACTION_REQUIRED"
    world.stripe.release()
    world.until(payment["paymentId"], "SUCCEEDED")
    world.agree()


def test_42_other_api_version_is_a_hint(world: World) -> None:
    payment = world.authorize(paymentMethod=None).json()
    world.stripe.webhooks(api_version="2020-08-27")
    try:
        world.stripe.confirm(payment["nextAction"]["clientSecret"]).raise_for_status()
        world.until(payment["paymentId"], "SUCCEEDED")
        assert world.history(payment["paymentId"])[-1]["source"] == "reconciler", "the object itself was asked for"
        world.agree()
    finally:
        ours = world.heard(payment["paymentId"], "payment_intent.created")["api_version"]
        world.stripe.webhooks(api_version=ours)


@contextlib.contextmanager
def database_away(world: World) -> Iterator[None]:
    """Nobody is let into the database, and whoever was in is out."""
    with psycopg.connect(world.system.env["DATABASE_URL"], dbname="postgres", autocommit=True) as conn:
        conn.execute("alter database payments allow_connections false")
        try:
            conn.execute("select pg_terminate_backend(pid) from pg_stat_activity where datname = 'payments'")
            yield
        finally:
            conn.execute("alter database payments allow_connections true")


def test_43_database_is_down(world: World) -> None:
    world.stripe.webhooks(mode="hold")
    payment = world.authorize(paymentMethod=None).json()
    world.stripe.confirm(payment["nextAction"]["clientSecret"]).raise_for_status()
    with database_away(world):
        (attempt,) = world.stripe.release(types=["payment_intent.succeeded"])
        assert attempt["http_status"] == 503
        world.stripe.webhooks(mode="deliver")
    world.until(payment["paymentId"], "SUCCEEDED")  # Stripe tries again
    world.agree()


def test_44_poison_event(world: World) -> None:
    payment = world.authorize(paymentMethod=None).json()
    poison = f"poison-{uuid4().hex}"
    world.execute(
        """insert into payments.inbox (source, message_id, message_type, payment_id, payload)
        values ('stripe-api', %s, 'api.create_payment_intent', %s, '{"outcome": "gibberish"}')""",
        poison,
        payment["paymentId"],
    )
    world.stripe.confirm(payment["nextAction"]["clientSecret"]).raise_for_status()
    world.until(payment["paymentId"], "SUCCEEDED")
    world.paid()
    assert world.weighed(poison)["outcome"] == "dead"
    (letter,) = world.dead_letters(payment["paymentId"])
    assert letter["origin"] == "inbox"
    world.agree(dead_letters=1)


@pytest.mark.parametrize(
    "nonsense", [{"amount": 10**30}, {"amount": "1999"}, {"status": "\u0000\ud800"}, {"currency": None}]
)
def test_44_nonsense_about_a_payment_of_ours(world: World, nonsense: dict[str, Any]) -> None:
    payment_id = world.paid()["paymentId"]
    told = world.heard(payment_id, "payment_intent.succeeded")
    data = {"object": told["data"]["object"] | nonsense}
    event_id, body = copy_of(told, data=data)
    assert world.deliver(body, signed(body, NEW_SECRET)).status_code == 200
    assert world.weighed(event_id)["outcome"] in {"superseded", "ignored"}
    world.agree()


def test_45_all_answers_are_lost(world: World) -> None:
    lost = world.stripe.fault_everywhere("after_executing", match={"method": "POST"})
    paid = world.accepted()["paymentId"]
    held = world.accepted(captureMethod="manual", orderId=str(uuid4()))["paymentId"]
    world.until(paid, "SUCCEEDED")
    world.until(held, "AUTHORIZED")
    captured = world.accepted(captureMethod="manual", orderId=str(uuid4()))["paymentId"]
    world.until(captured, "AUTHORIZED")
    assert world.act(captured, "capture", {"amount": 700}, Prefer="wait=0").status_code == 202
    assert world.act(held, "void", Prefer="wait=0").status_code == 202
    refund_id = world.act(paid, "refunds", Prefer="wait=0").json()["refundId"]
    world.refund_until(refund_id, "PROCESSED")
    world.until(held, "VOIDED")
    assert world.until(captured, "SUCCEEDED")["amountCaptured"] == 700
    sources = {one["source"] for one_id in (paid, held, captured) for one in world.history(one_id)}
    assert sources <= {"api", "stripe-webhook", "reconciler"}
    world.stripe.withdraw(lost)
    world.agree()
