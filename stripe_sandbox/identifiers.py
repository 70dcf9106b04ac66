"""Ids that look like Stripe's: a prefix, the time, and enough randomness.

The time comes first so that new rows stand at the end of their index; with random ids every insert met a cold page.
"""

from __future__ import annotations

import secrets
import time


def new_id(prefix: str) -> str:
    """A fresh id, as ``pi_319a4…``."""
    return f"{prefix}_3{time.time_ns() // 1_000_000:011x}{secrets.token_hex(6)}"


def new_secret(owner: str) -> str:
    """The client secret of an intent (https://docs.stripe.com/api/payment_intents/object, client_secret)."""
    return f"{owner}_secret_{secrets.token_hex(12)}"


def new_request_id() -> str:
    """The value of ``Request-Id`` (https://docs.stripe.com/api/request_ids)."""
    return f"req_{secrets.token_hex(7)}"
