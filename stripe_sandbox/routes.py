"""Which call does what, and what it takes (https://docs.stripe.com/api)."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from stripe_sandbox import charges, disputes, fraud_warnings, intents, lists, methods, refunds
from stripe_sandbox.call import Call
from stripe_sandbox.errors import Json, StripeError
from stripe_sandbox.params import CURSORS, EXPAND, PAGE, Param, Spec

Handler = Callable[[Call, tuple[str, ...], Json], Json]


@dataclass(frozen=True)
class Route:
    """One call of the API."""

    method: str
    pattern: re.Pattern[str]
    spec: Spec
    handler: Handler


_CAPTURE = ("automatic", "automatic_async", "manual")
_USAGE = ("off_session", "on_session")
_METADATA: Spec = {"metadata": Param("metadata")}
# Accepted with any value and without effect: what they steer, the sandbox doesn't model.
_INERT_CONFIRM: Spec = {
    name: Param("any")
    for name in (
        "amount_details", "confirmation_token", "excluded_payment_method_types", "hooks", "mandate", "mandate_data",
        "payment_details", "payment_method_data", "payment_method_options", "radar_options", "use_stripe_sdk",
    )
}  # fmt: skip

_CONFIRM: Spec = {
    **EXPAND,
    **_INERT_CONFIRM,
    "allowed_payment_method_types": Param("list"),
    "capture_method": Param(choices=_CAPTURE),
    "error_on_requires_action": Param("bool"),
    "off_session": Param(choices=("true", "false", "one_off", "recurring")),
    "payment_method": Param(),
    # https://docs.stripe.com/changelog/endive/2026-09-30/removes-the-payment-method-types-parameter-from-payment-intents-and-setup-intents
    "payment_method_types": Param("removed"),
    "receipt_email": Param(),
    "return_url": Param(),
    "setup_future_usage": Param(choices=(*_USAGE, "")),
    "shipping": Param("hash"),
}
_CREATE: Spec = {
    **_CONFIRM,
    **_METADATA,
    "amount": Param("int", required=True),
    "application_fee_amount": Param("int"),
    "automatic_payment_methods": Param("hash"),
    "confirm": Param("bool"),
    "confirmation_method": Param(choices=("automatic", "manual")),
    "currency": Param(required=True),
    "customer": Param(),
    "description": Param(),
    "on_behalf_of": Param(),
    "payment_method_configuration": Param(),
    "setup_future_usage": Param(choices=_USAGE),
    "statement_descriptor": Param(),
    "statement_descriptor_suffix": Param(),
    "transfer_data": Param("hash"),
    "transfer_group": Param(),
}
_CAPTURE_CALL: Spec = {
    **EXPAND,
    **_METADATA,
    "amount_details": Param("any"),
    "amount_to_capture": Param("int"),
    "application_fee_amount": Param("int"),
    "final_capture": Param("bool"),
    "hooks": Param("any"),
    "payment_details": Param("any"),
    "statement_descriptor": Param(),
    "statement_descriptor_suffix": Param(),
    "transfer_data": Param("hash"),
}
_REASONS = ("duplicate", "fraudulent", "requested_by_customer")
_CANCEL: Spec = {**EXPAND, "cancellation_reason": Param(choices=("abandoned", *_REASONS))}
_REFUND: Spec = {
    **EXPAND,
    **_METADATA,
    "amount": Param("int"),
    "charge": Param(),
    "instructions_email": Param(),
    "payment_intent": Param(),
    "reason": Param(choices=_REASONS),
    "refund_application_fee": Param("bool"),
    "reverse_transfer": Param("bool"),
}
_CUSTOMER: Spec = {
    **EXPAND,
    **_METADATA,
    "description": Param(),
    "email": Param(),
    "name": Param(),
    "phone": Param(),
    "invoice_settings": Param("hash"),
}
_OF_PAYMENT: Spec = {**PAGE, "charge": Param(), "payment_intent": Param()}
_EVIDENCE: Spec = {**EXPAND, **_METADATA, "evidence": Param("hash"), "submit": Param("bool")}
_EVENTS: Spec = {**PAGE, "type": Param(), "types": Param("list"), "delivery_success": Param("bool")}

_TABLE: tuple[tuple[str, str, Spec, Handler], ...] = (
    ("POST", "/v1/payment_intents", _CREATE, intents.create),
    ("GET", "/v1/payment_intents", {**PAGE, "customer": Param()}, lists.payment_intents),
    ("GET", "/v1/payment_intents/{}", {**EXPAND, "client_secret": Param()}, intents.retrieve),
    ("POST", "/v1/payment_intents/{}/confirm", _CONFIRM, intents.confirm),
    ("POST", "/v1/payment_intents/{}/capture", _CAPTURE_CALL, intents.capture),
    ("POST", "/v1/payment_intents/{}/cancel", _CANCEL, intents.cancel),
    ("GET", "/v1/charges", {**PAGE, "payment_intent": Param()}, lists.charges),
    ("GET", "/v1/charges/{}", EXPAND, charges.retrieve),
    ("POST", "/v1/refunds", _REFUND, refunds.create),
    ("GET", "/v1/refunds", _OF_PAYMENT, lists.refunds),
    ("GET", "/v1/refunds/{}", EXPAND, refunds.retrieve),
    ("POST", "/v1/refunds/{}", {**EXPAND, **_METADATA}, refunds.update),
    ("POST", "/v1/refunds/{}/cancel", EXPAND, refunds.cancel),
    ("GET", "/v1/disputes", _OF_PAYMENT, lists.disputes),
    ("GET", "/v1/disputes/{}", EXPAND, disputes.retrieve),
    ("POST", "/v1/disputes/{}", _EVIDENCE, disputes.update),
    ("POST", "/v1/disputes/{}/close", EXPAND, disputes.close_by_api),
    ("GET", "/v1/radar/early_fraud_warnings", _OF_PAYMENT, lists.early_fraud_warnings),
    ("GET", "/v1/radar/early_fraud_warnings/{}", EXPAND, fraud_warnings.retrieve),
    ("GET", "/v1/events", _EVENTS, lists.all_events),
    ("GET", "/v1/events/{}", EXPAND, lists.event),
    ("GET", "/v1/balance_transactions", {**PAGE, "source": Param(), "type": Param()}, lists.balance_transactions),
    ("GET", "/v1/balance_transactions/{}", EXPAND, lists.balance_transaction),
    ("POST", "/v1/customers", {**_CUSTOMER, "payment_method": Param()}, methods.create_customer),
    ("GET", "/v1/customers/{}", EXPAND, methods.retrieve_customer),
    ("POST", "/v1/customers/{}", _CUSTOMER, methods.update_customer),
    ("GET", "/v1/customers/{}/payment_methods", {**CURSORS, "type": Param()}, lists.payment_methods),
    (
        "GET",
        "/v1/payment_methods",
        {**CURSORS, "type": Param(), "customer": Param(required=True)},
        lists.payment_methods,
    ),
    ("GET", "/v1/payment_methods/{}", EXPAND, methods.retrieve_method),
    ("POST", "/v1/payment_methods/{}/attach", {**EXPAND, "customer": Param(required=True)}, methods.attach),
    ("POST", "/v1/payment_methods/{}/detach", EXPAND, methods.detach),
)

ROUTES = tuple(
    Route(method, re.compile(path.replace("{}", r"([A-Za-z0-9_]{1,255})") + "$"), spec, handler)
    for method, path, spec, handler in _TABLE
)


def find_route(method: str, path: str) -> tuple[Route, tuple[str, ...]]:
    """The route and the ids in the path; raises StripeError (404) as Stripe does for an unknown URL."""
    for route in ROUTES:
        if route.method == method:
            match = route.pattern.match(path)
            if match is not None:
                return route, match.groups()
    text = (
        f"Unrecognized request URL ({method}: {path[:200]}). Please see https://stripe.com/docs or we can help at "
        "https://support.stripe.com/."
    )
    raise StripeError(404, text)
