"""API keys (https://docs.stripe.com/api/authentication): checked, never stored, never echoed whole."""

from __future__ import annotations

import base64
import binascii

from stripe_sandbox.errors import StripeError

_NONE = (
    "You did not provide an API key. You need to provide your API key in the Authorization header, using "
    "Bearer auth (e.g. "
    "'Authorization: Bearer YOUR_SECRET_KEY'). See https://stripe.com/docs/api#authentication for "
    "details, or we can help "
    "at https://support.stripe.com/."
)
_PUBLISHABLE = "This API call cannot be made with a publishable API key. Please use a secret API key."


def check_key(header: str | None, expected: str | None) -> None:
    """Raise StripeError (401) unless the header carries a secret test key; Bearer and Basic both serve."""
    key = _key(header)
    if not key:
        raise StripeError(401, _NONE)
    if key.startswith("pk_"):
        raise StripeError(401, _PUBLISHABLE, code="secret_key_required")
    valid = key == expected if expected is not None else key.startswith(("sk_test_", "rk_test_"))
    if not valid:
        raise StripeError(401, f"Invalid API Key provided: {masked(key)}")


def _key(header: str | None) -> str:
    scheme, _, value = (header or "").partition(" ")
    if scheme.lower() == "bearer":
        return value.strip()
    if scheme.lower() == "basic":
        try:
            return base64.b64decode(value).decode("ascii").partition(":")[0]
        except (binascii.Error, UnicodeDecodeError):
            return ""
    return ""


def masked(key: str) -> str:
    """As Stripe shows it: the kind and the last four."""
    prefix = next((one for one in ("sk_test_", "sk_live_", "rk_test_", "rk_live_") if key.startswith(one)), "")
    hidden = key[len(prefix) :]
    tail = hidden[-4:] if len(hidden) > 12 else ""
    return f"{prefix}{'*' * 8}{tail}"
