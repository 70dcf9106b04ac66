"""The lives that processes die in: those of the soak, and some that meet what is rare (crashes/stories.py)."""

import time
from typing import Any

from crashes.stories import (
    DAY_S,
    abandon,
    be_found,
    be_parked,
    be_unheard,
    day_later,
    hear_hints,
    hear_nonsense,
    leave_orphan,
    lose_command,
    lose_webhooks,
    read_everything,
    refund_part,
    start_anew,
    unheard,
    void_first,
)
from soak.faults import SPOILED
from soak.lives import LIVES, VISA, Life, Story, capture_all, nothing, refund_all, void_hold
from soak.system import Json, System

CREATE, CAPTURE = "/v1/payment_intents", "/v1/payment_intents/*/capture"
CANCEL, REFUND = "/v1/payment_intents/*/cancel", "/v1/refunds"
_PAID, _FAILED, _VOIDED = (frozenset({s}) for s in ("SUCCEEDED", "FAILED", "VOIDED"))


def spoiled(
    name: str, fault: Json, path: str = CREATE, ends: frozenset[str] = _PAID, story: Story = nothing, **more: Any
) -> Life:
    """A life in which Stripe does this to the first call of a kind."""
    FAULTS[name] = {"times": 1, "match": {"method": "POST", "path": path, "metadata": {"soak": name}}} | fault
    return Life(name, VISA, ends, 1, story, metadata={"soak": name}, **more)


FAULTS: dict[str, Json] = {}
HELD: dict[str, Any] = {"capture_method": "manual"}
FAILS: Json = {"fault": "status", "status": 500}

OWN = (
    Life("charged unheard", VISA, _PAID, 1, unheard(nothing)),
    Life("captured unheard", VISA, _PAID, 1, unheard(capture_all), **HELD),
    Life("voided unheard", VISA, _VOIDED, 1, unheard(void_hold), **HELD),
    Life("refunded unheard", VISA, _PAID, 1, unheard(refund_part)),
    Life("started anew", VISA, _PAID, 1, start_anew),
    Life("read", VISA, _PAID, 1, read_everything, **HELD),
    Life("voided first", VISA, _PAID, 1, void_first),
    Life("hints heard", VISA, _PAID, 1, hear_hints),
    Life("unheard for a month", VISA, _PAID, 1, be_unheard),
    Life("abandoned", None, _FAILED, 1, abandon),
    Life("orphan hold", VISA, _VOIDED, 1, leave_orphan, **HELD),
    Life("webhooks lost", None, _PAID, 1, lose_webhooks),
    Life("nonsense heard", VISA, _PAID, 1, hear_nonsense),
    Life("found at Stripe", VISA, _PAID, 1, be_found),
    Life("capture lost", VISA, _PAID, 1, lose_command("capture_requested", capture_all, "capture"), **HELD),
    Life("void lost", VISA, _VOIDED, 1, lose_command("void_requested", void_hold, "void"), **HELD),
    Life("refund lost", VISA, _PAID, 1, lose_command("refund_requested", refund_all, "refund")),
    spoiled("answer lost", {"fault": "after_executing"}),
    spoiled("request lost", {"fault": "before_executing"}),
    spoiled("answer lost for a day", {"fault": "after_executing", "times": None}, story=day_later(nothing)),
    spoiled("request lost for a day", {"fault": "before_executing", "times": None}, story=day_later(nothing)),
    spoiled("refund lost for a day", {"fault": "after_executing", "times": None}, REFUND, story=day_later(refund_all)),
    spoiled("too many calls", {"fault": "status", "status": 429}),
    spoiled("key in use", {"fault": "status", "status": 409}),
    spoiled("call refused", FAILS | {"status": 400, "executed": True}, story=be_parked),
    spoiled("capture kept as a 500", FAILS, CAPTURE, story=capture_all, **HELD),
    spoiled("capture done, a 500", FAILS | {"executed": True}, CAPTURE, story=unheard(capture_all), **HELD),
    spoiled("void kept as a 500", FAILS, CANCEL, _VOIDED, void_hold, **HELD),
    spoiled("refund kept as a 500", FAILS, REFUND, story=refund_all),
    spoiled("refund done, a 500", FAILS | {"executed": True}, REFUND, story=unheard(refund_all)),
)
BY_NAME: dict[str, Life] = {life.name: life for life in (*LIVES, *OWN)}
# How long ago, by Stripe's clock, such a life begins; its story brings the clock back to now.
AGO_S = {name: 25 * 3_600 for name in FAULTS if name.endswith("for a day")} | {"unheard for a month": 35 * DAY_S}
# No webhook comes from their beginning on.
UNHEARD = tuple(life.name for life in OWN if life.name.endswith("unheard"))
# They change Stripe's clock, webhooks or faults for everybody, or stop processes.
ALONE = (
    "voided first",
    "started anew",
    "webhooks lost",
    "hints heard",
    "capture lost",
    "void lost",
    "refund lost",
    "capture done, a 500",
    "refund done, a 500",
    *UNHEARD,
    *AGO_S,
)


async def prepare(system: System, life: Life) -> None:
    """What Stripe has in store for this life."""
    if life.name in UNHEARD:
        await system.sandbox("POST", "/webhooks", {"mode": "drop"})
    if ago_s := AGO_S.get(life.name):
        await system.sandbox("POST", "/clock", {"now": time.time() - ago_s})
    orders = [FAULTS[life.name]] if life.name in FAULTS else []
    times = None if life.name == "altered answer" else 1
    orders += [
        order | {"times": times, "match": {"method": "POST", "path": CREATE} | order["match"]}
        for order in SPOILED
        if life.metadata == order["match"]["metadata"]
    ]
    for order in orders:
        status, answer = await system.sandbox("POST", "/faults", order)
        if status >= 300:
            raise SystemExit(f"the sandbox refuses the fault {order}: {answer}")
