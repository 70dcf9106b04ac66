"""Ids that look like Stripe's: a prefix and enough randomness."""

from __future__ import annotations

import secrets


def new_id(prefix: str) -> str:
    """A fresh id, as ``pi_3f0c…``."""
    return f"{prefix}_3{secrets.token_hex(11)}"


def new_secret(owner: str) -> str:
    """The client secret of an intent (https://docs.stripe.com/api/payment_intents/object, client_secret)."""
    return f"{owner}_secret_{secrets.token_hex(12)}"


def new_request_id() -> str:
    """The value of ``Request-Id`` (https://docs.stripe.com/api/request_ids)."""
    return f"req_{secrets.token_hex(7)}"
