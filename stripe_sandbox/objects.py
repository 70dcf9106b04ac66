"""The shapes of Stripe's objects at API version 2026-10-28.endive (https://docs.stripe.com/api)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stripe_sandbox.identifiers import new_id, new_secret

if TYPE_CHECKING:
    from stripe_sandbox.errors import Json
    from stripe_sandbox.tokens import Behaviour

_NO_ADDRESS: Json = {"city": None, "country": None, "line1": None, "line2": None, "postal_code": None, "state": None}
_CARD_EXPIRY = {"exp_month": 12, "exp_year": 2034}


def billing_details() -> Json:
    """Empty billing details."""
    return {"address": dict(_NO_ADDRESS), "email": None, "name": None, "phone": None, "tax_id": None}


def payment_method(behaviour: Behaviour, created: int) -> Json:
    """https://docs.stripe.com/api/payment_methods/object."""
    body: Json = {
        "id": new_id("pm"),
        "object": "payment_method",
        "allow_redisplay": "unspecified",
        "billing_details": billing_details(),
        "created": created,
        "customer": None,
        "customer_account": None,
        "livemode": False,
        "metadata": {},
        "type": behaviour.kind,
    }
    if behaviour.kind == "card":
        body["card"] = _card(behaviour)
    else:
        body[behaviour.kind] = {"bank_name": "STRIPE TEST BANK", "last4": behaviour.last4, "account_type": "checking"}
    return body


def _card(behaviour: Behaviour) -> Json:
    return {
        "brand": behaviour.brand,
        "checks": {"address_line1_check": None, "address_postal_code_check": None, "cvc_check": "pass"},
        "country": "US",
        "display_brand": behaviour.brand,
        **_CARD_EXPIRY,
        "fingerprint": f"sandbox{behaviour.brand}{behaviour.last4}",
        "funding": "credit",
        "generated_from": None,
        "last4": behaviour.last4,
        "networks": {"available": [behaviour.brand], "preferred": None},
        "regulated_status": "unregulated",
        "three_d_secure_usage": {"supported": True},
        "wallet": None,
    }


def customer(created: int) -> Json:
    """https://docs.stripe.com/api/customers/object."""
    identifier = new_id("cus")
    return {
        "id": identifier,
        "object": "customer",
        "address": None,
        "balance": 0,
        "created": created,
        "currency": None,
        "customer_account": None,
        "default_source": None,
        "delinquent": False,
        "description": None,
        "discount": None,
        "email": None,
        "invoice_prefix": identifier[-8:].upper(),
        "invoice_settings": {
            "custom_fields": None,
            "default_payment_method": None,
            "footer": None,
            "rendering_options": None,
        },
        "livemode": False,
        "metadata": {},
        "name": None,
        "next_invoice_sequence": 1,
        "phone": None,
        "preferred_locales": [],
        "shipping": None,
        "tax_exempt": "none",
        "test_clock": None,
    }


def payment_intent(created: int, amount: int, currency: str) -> Json:
    """https://docs.stripe.com/api/payment_intents/object."""
    identifier = new_id("pi")
    return {
        "id": identifier,
        "object": "payment_intent",
        "amount": amount,
        "amount_capturable": 0,
        "amount_details": {"tip": {}},
        "amount_received": 0,
        "application": None,
        "application_fee_amount": None,
        "automatic_payment_methods": None,
        "canceled_at": None,
        "cancellation_reason": None,
        "capture_method": "automatic_async",
        "client_secret": new_secret(identifier),
        "confirmation_method": "automatic",
        "created": created,
        "currency": currency,
        "customer": None,
        "customer_account": None,
        "description": None,
        "excluded_payment_method_types": None,
        "last_payment_error": None,
        "latest_charge": None,
        "livemode": False,
        "managed_payments": {"enabled": False},
        "metadata": {},
        "next_action": None,
        "on_behalf_of": None,
        "payment_method": None,
        "payment_method_configuration_details": None,
        "payment_method_options": {
            "card": {
                "installments": None,
                "mandate_options": None,
                "network": None,
                "request_three_d_secure": "automatic",
            }
        },
        "payment_method_types": ["card"],
        "processing": None,
        "receipt_email": None,
        "review": None,
        "setup_future_usage": None,
        "shipping": None,
        "source": None,
        "statement_descriptor": None,
        "statement_descriptor_suffix": None,
        "status": "requires_payment_method",
        "transfer_data": None,
        "transfer_group": None,
    }
