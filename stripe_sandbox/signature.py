"""``Stripe-Signature`` (https://docs.stripe.com/webhooks#verify-manually): HMAC-SHA256 over ``<t>.<body>``."""

from __future__ import annotations

import hashlib
import hmac
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


def sign(body: bytes, secrets: Iterable[str], at: int) -> str:
    """The header's value; one ``v1`` per secret, as while a secret is being rolled."""
    signed = str(at).encode() + b"." + body
    digests = (hmac.new(secret.encode(), signed, hashlib.sha256).hexdigest() for secret in secrets)
    return ",".join([f"t={at}", *(f"v1={digest}" for digest in digests)])
