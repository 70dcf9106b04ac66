"""What happens to customers in the lives that are rare: lost commands, old keys, months unheard, nonsense."""

import asyncio
import contextlib
import hmac
import json
import signal
import time
from hashlib import sha256
from uuid import uuid4

import aiohttp

from payments.stripe_gateway.api_version import STRIPE_API_VERSION
from soak.faults import CALM
from soak.lives import (
    VISA,
    Story,
    Teller,
    browser,
    capture_all,
)
from soak.system import Json, System

DAY_S = 86_400
# As if time had passed, which no trigger is to notice.
AGED = """
set session_replication_role = replica;
update payments.payments set updated_at = updated_at - interval '25 hours' where payment_id = '{payment}';
update payments.refunds set updated_at = updated_at - interval '25 hours' where payment_id = '{payment}';
update payments.watches set next_look_at = clock_timestamp() where payment_id = '{payment}';
update payments.reconciler_progress set position = clock_timestamp() where job like 'turn/%';
"""
A_MONTH_AGO = """
update payments.reconciler_progress set position = now() - interval '36 days' where job = 'events';
update payments.reconciler_progress set position = clock_timestamp() where job like 'turn/%';
"""
# Past slices of a month take their time.
CAUGHT_UP = "update payments.reconciler_progress set position = clock_timestamp() where job = 'events'"
CALLED_YESTERDAY = """
update payments.stripe_requests set created_at = created_at - interval '25 hours',
  first_attempt_at = first_attempt_at - interval '25 hours', last_attempt_at = last_attempt_at - interval '25 hours'
where payment_id = '{payment}' and state <> 'answered'
"""
# What a story waits for may have been made needless by a crash: a webhook was quicker than the next attempt.
OR_SETTLED = """
union all select from payments.payments where payment_id = '{payment}' and status <> 'REQUESTED'
and not exists (select from payments.refunds where payment_id = '{payment}' and status = 'REQUESTED')
and not exists (
  select from payments.stripe_requests where payment_id = '{payment}' and state not in ('answered', 'parked')
)
"""
IN_DOUBT = "select from payments.stripe_requests where payment_id = '{payment}' and state = 'in_doubt'" + OR_SETTLED
BURIED = "select from payments.dead_letters where payment_id = '{payment}'" + OR_SETTLED
SETTLED = "update payments.dead_letters set resolved_at = now(), resolution = 'looked at' where resolved_at is null"


async def execute(t: Teller, statements: str) -> None:
    """As an administrator, about this payment."""
    text = statements.format(payment=t.payment["paymentId"])

    def run() -> None:
        with t.system.connect(autocommit=True) as conn:
            conn.execute(text.encode())

    await asyncio.to_thread(run)


async def until(t: Teller, query: str) -> None:
    """Waits until a query about this payment finds something."""
    deadline = time.monotonic() + 60
    text = query.format(payment=t.payment["paymentId"])
    while not await asyncio.to_thread(t.system.rows, text):
        if time.monotonic() > deadline:
            raise TimeoutError(f"nothing found by {text}")
        await asyncio.sleep(0.1)


async def abandon(t: Teller) -> None:
    """The customer never comes back."""
    await t.reach()
    await execute(t, AGED)
    await t.reach("ACTION_REQUIRED")


async def leave_orphan(t: Teller) -> None:
    """No order ever claims the hold."""
    await t.reach()
    await execute(t, AGED)
    await t.reach("AUTHORIZED")


async def read_everything(t: Teller) -> None:
    await capture_all(t)
    await t.reach()
    await t.ask("capture", {"orderId": t.payment["orderId"]})  # under another key
    await t.refund(50)
    payment, cart, customer = t.payment["paymentId"], t.payment["cartId"], str(uuid4())
    _, refunds = await t.system.api("GET", f"/payments/{payment}/refunds")
    for refund in refunds["items"]:
        await t.system.api("GET", f"/refunds/{refund['refundId']}")
    await _refund_and_wait(t)
    for path in (f"/payments/{payment}/history", f"/payments?cartId={cart}", f"/payments?orderId={cart}", "/payments"):
        await t.system.api("GET", path)
    remembered = {"processorCustomer": "cus_123", "paymentMethod": VISA}
    await t.system.api("PUT", f"/customers/{customer}/payment-method", remembered)
    await t.system.api("GET", f"/payments?customerId={customer}")
    body = {"cartId": cart, "amount": 700, "currency": "EUR"}
    await t.system.api("POST", "/payments/authorize", body, {"Idempotency-Key": str(uuid4())})  # the cart has another
    await _measure(t.system)


async def _measure(system: System) -> None:
    """As a scraper does, which comes again when nobody answered."""
    for _ in range(100):
        with contextlib.suppress(aiohttp.ClientError, TimeoutError):
            async with system.http.get(system.env["API_URL"] + "/metrics") as answer:
                await answer.read()
                return
        await asyncio.sleep(0.2)


async def refund_part(t: Teller) -> None:
    """Twice would fit."""
    if await t.reach() == "SUCCEEDED":
        await t.refund(t.payment["amount"] * 2 // 5)


async def _refund_and_wait(t: Teller) -> None:
    path, headers = f"/payments/{t.payment['paymentId']}/refunds", {"Idempotency-Key": str(uuid4()), "Prefer": "wait=3"}
    body = {"amount": 50}
    t.told.hear("refunds", body, *await t.system.api("POST", path, body, headers))


async def hear_hints(t: Teller) -> None:
    """Events of another version are hints: what they tell of is asked for, and one time nobody answers."""
    await t.reach()
    intent = await t.intent()
    await t.system.sandbox("POST", "/webhooks", {"api_version": "2020-08-27"})
    fault = {"fault": "before_executing", "times": 1, "match": {"method": "GET", "path": "/v1/refunds/*"}}
    await t.system.sandbox("POST", "/faults", fault)
    await t.system.sandbox("POST", "/refunds", {"payment_intent": intent, "amount": 60})
    await t.system.sandbox("POST", "/disputes", {"payment_intent": intent})
    found = "select from payments.{} where payment_id = '{{payment}}'"
    await until(t, found.format("refunds"))
    await until(t, found.format("disputes"))
    await t.system.sandbox("POST", "/webhooks", {"api_version": STRIPE_API_VERSION})


async def be_unheard(t: Teller) -> None:
    """What happened more than a month ago, when nobody listened, is found among Stripe's objects."""
    await t.system.sandbox("POST", "/webhooks", {"mode": "drop"})
    await t.reach()
    intent = await t.intent()
    await t.system.sandbox("POST", "/refunds", {"payment_intent": intent, "amount": 60})
    await t.system.sandbox("POST", "/disputes", {"payment_intent": intent})
    await t.system.sandbox("POST", "/clock", {"now": time.time()})
    await t.system.sandbox("POST", "/webhooks", CALM)
    await execute(t, A_MONTH_AGO)
    await until(t, "select from payments.refunds where payment_id = '{payment}'")
    await until(t, "select from payments.disputes where payment_id = '{payment}'")
    await execute(t, CAUGHT_UP)


async def void_first(t: Teller) -> None:
    """Another payment is voided before anybody has asked Stripe for it."""
    await t.reach()
    body = {"cartId": str(uuid4()), "amount": 900, "currency": "EUR", "paymentMethod": VISA}
    with t.system.connect() as conn:  # no worker takes the command before this ends
        conn.execute("lock table pgmq.q_payment_requested in exclusive mode")
        _, made = await t.system.api("POST", "/payments/authorize", body, {"Idempotency-Key": str(uuid4())})
        t.begin(t.life._replace(ends=frozenset({"VOIDED"})), body, made["paymentId"])
        t.told.hear("void", {}, *await t.system.api("POST", f"/payments/{made['paymentId']}/void"))
    await t.reach()


async def lose_webhooks(t: Teller) -> None:
    """The customer pays, the bank refunds, and no webhook comes."""
    await t.reach()
    await t.system.sandbox("POST", "/webhooks", {"mode": "drop"})
    await browser(VISA)(t)
    if await t.reach("ACTION_REQUIRED") == "SUCCEEDED" and (intent := await t.intent()):
        await t.system.sandbox("POST", "/refunds", {"payment_intent": intent, "amount": 60})
        await until(t, "select from payments.refunds where payment_id = '{payment}' and status = 'PROCESSED'")
    await t.system.sandbox("POST", "/webhooks", CALM)


def unheard(story: Story) -> Story:
    """No webhook comes of it, so that what an answer would have said must be asked again: under the same key."""

    async def alone(t: Teller) -> None:
        await t.reach()
        await t.system.sandbox("POST", "/webhooks", {"mode": "drop"})
        await story(t)
        await t.reach()
        if t.told.refunds:
            await until(t, "select from payments.refunds where payment_id = '{payment}' and status = 'PROCESSED'")
        await t.system.sandbox("POST", "/webhooks", CALM)

    return alone


def lose_command(queue: str, begin: Story, wish: str = "") -> Story:
    """Somebody empties a queue of the worker; what stands in it is sent again."""

    async def story(t: Teller) -> None:
        if wish and await t.reach() not in {"AUTHORIZED", "SUCCEEDED"}:
            return
        with t.system.connect() as conn:
            conn.execute(f"lock table pgmq.q_{queue} in exclusive mode".encode())
            await begin(t)
            deadline = time.monotonic() + 20
            while time.monotonic() < deadline:
                row = conn.execute("select payments.dispatch(%s, 100)", (queue,)).fetchone()
                if row is not None and row[0] > 0:
                    break
                await asyncio.sleep(0.02)
            conn.execute(f"delete from pgmq.q_{queue}".encode())
        await execute(t, AGED)
        t.system.send("worker", signal.SIGKILL)  # whoever starts looks at once
        await t.reach()

    return story


def day_later(story: Story) -> Story:
    """Stripe does not answer for a day, and forgets the key meanwhile."""

    async def later(t: Teller) -> None:
        await story(t)
        await until(t, IN_DOUBT)
        await execute(t, CALLED_YESTERDAY)
        await t.system.sandbox("POST", "/clock", {"now": time.time()})
        await t.system.sandbox("DELETE", "/faults")
        await t.reach()

    return later


async def be_parked(t: Teller) -> None:
    """Stripe finds our call wrong: an operator looks."""
    await until(t, BURIED)
    await execute(t, SETTLED)
    await t.reach()


async def deliver(t: Teller, body: Json) -> None:
    """A delivery of Stripe's, as far as anybody can tell."""
    text = json.dumps(body)
    moment = int(time.time())
    secret = t.system.env["STRIPE_WEBHOOK_SECRETS"].split(",")[0]
    word = hmac.new(secret.encode(), f"{moment}.{text}".encode(), sha256).hexdigest()
    headers = {"Stripe-Signature": f"t={moment},v1={word}", "Content-Type": "application/json"}
    for _ in range(100):
        try:
            async with t.system.http.post(
                t.system.env["API_URL"] + "/webhooks/stripe", data=text, headers=headers
            ) as answer:
                if answer.status < 500:
                    return
        except (aiohttp.ClientError, TimeoutError):
            pass
        await asyncio.sleep(0.2)


async def hear_nonsense(t: Teller) -> None:
    """Events of another account, of nothing readable, of an object that is not there; and a row that is no answer."""
    await t.reach()
    intent = await t.intent()
    thing = {
        "id": intent,
        "object": "payment_intent",
        "amount": "many",
        "metadata": {"paymentId": t.payment["paymentId"]},
    }
    event = {"object": "event", "type": "payment_intent.succeeded", "created": int(time.time()), "livemode": False}
    await deliver(t, event | {"id": f"evt_{uuid4().hex}", "data": {"object": thing}})
    await deliver(t, event | {"id": f"evt_{uuid4().hex}", "data": {"object": thing}, "account": "acct_else"})
    await deliver(t, event | {"id": f"evt_{uuid4().hex}", "data": {"object": thing | {"id": "pi_0nobodyknows"}}})
    await execute(
        t,
        "insert into payments.inbox (source, message_id, message_type, payment_id, payload) values "
        f"('stripe-api', 'poison-{uuid4()}', 'api.create_payment_intent', '{{payment}}', '{{{{}}}}')",
    )
    await until(t, "select from payments.dead_letters where payment_id = '{payment}'")
    await execute(t, SETTLED)


async def be_found(t: Teller) -> None:
    """PaymentIntents that we have not made: one names a payment of ours that was lost, one is somebody else's."""
    await t.reach()
    payment_id, cart = str(uuid4()), str(uuid4())
    form = {"amount": "1234", "currency": "eur", "confirm": "true", "payment_method": VISA}
    form |= {"automatic_payment_methods[enabled]": "true", "automatic_payment_methods[allow_redirects]": "never"}
    ours = {"metadata[paymentId]": payment_id, "metadata[cartId]": cart, "metadata[orderId]": cart}
    made = [await _in_dashboard(t.system, "payment_intents", form | more) for more in (ours, {})]
    await t.system.sandbox("POST", "/refunds", {"payment_intent": made[1]["id"], "amount": 34})
    await t.system.sandbox("POST", "/refunds", {"payment_intent": made[0]["id"], "amount": 34})
    await until(t, f"select from payments.refunds where payment_id = '{payment_id}' and status = 'PROCESSED'")


async def _in_dashboard(system: System, path: str, form: dict[str, str]) -> Json:
    key = (system.data_dir / "sandbox" / "api.key").read_text().strip()
    url = f"{system.env['STRIPE_API_BASE']}/v1/{path}"
    async with system.http.post(url, data=form, headers={"Authorization": f"Bearer {key}"}) as answer:
        made: Json = await answer.json()
        return made


async def start_anew(t: Teller) -> None:
    """Every process starts once more."""
    await t.reach()
    for process in ("api", "relay", "worker"):
        t.system.send(process, signal.SIGKILL)
