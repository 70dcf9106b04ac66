"""Whether a webhook was signed by Stripe: https://docs.stripe.com/webhooks#verify-manually.

Our own check: the stripe library's raises TypeError, UnicodeDecodeError and others on hostile input, takes one secret,
and lets timestamps lie far in the future.
"""

import hmac
import re
from collections.abc import Sequence
from hashlib import sha256

TOLERANCE_S = 300  # Stripe's default, both ways: clocks differ, replays end
HEADER_BYTES_MAX = 2_048  # a header of ten signatures has 800
SIGNATURES_MAX = 16  # a rotation has two

_TIMESTAMP = re.compile(r"[0-9]{1,12}")
_SIGNATURE = re.compile(r"[0-9a-f]{64}")


def find_fault(  # noqa: PLR0911 - a way out for each fault
    header: bytes | None, body: bytes, secrets: Sequence[str], now_s: float
) -> str | None:
    """What is wrong with a Stripe-Signature header for this body, None when it is right; never raises.

    Cheap faults are found first: no body is hashed for a header that cannot be right.
    """
    usable = [secret for secret in secrets if secret.strip()]
    if not usable:
        return "no signing secret is configured"
    if header is None:
        return "there is no Stripe-Signature header"
    if len(header) > HEADER_BYTES_MAX or not header.isascii():
        return "the Stripe-Signature header is too long or not ASCII"
    pairs = [item.strip().partition("=") for item in header.decode("ascii").split(",")]
    timestamps = [value for name, _, value in pairs if name == "t"]
    signatures = [value for name, _, value in pairs if name == "v1" and _SIGNATURE.fullmatch(value)]
    if len(timestamps) != 1 or not _TIMESTAMP.fullmatch(timestamps[0]):
        return "the Stripe-Signature header has not one timestamp"
    if not 0 < len(signatures) <= SIGNATURES_MAX:
        return "the Stripe-Signature header has no v1 signature, or too many"
    if abs(now_s - int(timestamps[0])) > TOLERANCE_S:
        return f"the timestamp is more than {TOLERANCE_S} s away from now"
    signed = timestamps[0].encode() + b"." + body
    expected = [hmac.new(secret.encode(), signed, sha256).hexdigest() for secret in usable]
    matches = [hmac.compare_digest(ours, theirs) for ours in expected for theirs in signatures]
    return None if any(matches) else "no signature matches"
