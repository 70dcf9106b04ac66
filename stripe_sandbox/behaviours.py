"""How fast the sandbox's own processes run; tests change these while it runs (``POST /_sandbox/behaviours``)."""

from __future__ import annotations

import msgspec


class Behaviours(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Delays by the sandbox's clock, in seconds."""

    # https://docs.stripe.com/payments/payment-intents/asynchronous-capture: Stripe allows itself an hour.
    balance_delay_s: float = 1.0
    refund_delay_s: float = 5.0
    processing_delay_s: float = 3.0
    dispute_delay_s: float = 0.0
    # Whether releasing a hold also makes a Refund object and refund.created. Integrators report both; the documentation
    # says only that the rest is "automatically refunded".
    release_makes_refund: bool = False
    # https://docs.stripe.com/api/payment_intents/cancel: "or, in rare cases, processing".
    processing_cancelable: bool = False
