"""For a Python with this folder on its PYTHONPATH: the first process of each kind has a wall clock that is hours off.

Only the wall clock: time that is measured (`time.monotonic`) goes on as ever, as on a host whose date is wrong.
"""

import datetime as dt
import os
import sys
import time
from pathlib import Path

SKEW_S = {"worker": 30 * 3_600, "relay": -30 * 3_600, "api": -2 * 3_600}


def _is_first(kind: str) -> bool:
    try:
        (Path(os.environ["SKEWED_DIR"]) / kind).touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def _shift(by_s: int) -> None:
    real_time, real_time_ns = time.time, time.time_ns
    time.time = lambda: real_time() + by_s
    time.time_ns = lambda: real_time_ns() + by_s * 1_000_000_000


def _shift_webhooks(by_s: int) -> None:
    from payments.api import stripe_webhook  # noqa: PLC0415 - in the API only

    class Skewed(dt.datetime):
        @classmethod
        def now(cls, tz: dt.tzinfo | None = None) -> dt.datetime:  # type: ignore[override]
            return dt.datetime.now(tz) + dt.timedelta(seconds=by_s)

    stripe_webhook.datetime = Skewed  # type: ignore[attr-defined]


_kind = sys.orig_argv[-1]  # `payments worker`
if _kind in SKEW_S and _is_first(_kind):
    _shift(SKEW_S[_kind])
    if _kind == "api":
        _shift_webhooks(SKEW_S[_kind])
