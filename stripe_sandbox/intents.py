"""PaymentIntents: create, confirm, capture, cancel (https://docs.stripe.com/api/payment_intents)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stripe_sandbox import attempts, charges, disputes, objects
from stripe_sandbox.currencies import check_amount, check_currency
from stripe_sandbox.errors import invalid, missing, refused
from stripe_sandbox.events import emit
from stripe_sandbox.methods import require_usable, resolve
from stripe_sandbox.states import (
    move,
    require_cancelable,
    require_capturable,
    require_payable,
    unexpected_state,
)
from stripe_sandbox.store import Record

if TYPE_CHECKING:
    from stripe_sandbox.call import Call
    from stripe_sandbox.errors import Json

_COPIED = (
    "description",
    "receipt_email",
    "setup_future_usage",
    "shipping",
    "statement_descriptor",
    "statement_descriptor_suffix",
    "transfer_group",
    "on_behalf_of",
    "confirmation_method",
)

_EXCLUDED_BY_ALLOWED = (
    "automatic_payment_methods",
    "excluded_payment_method_types",
    "payment_method_configuration",
)

_NEEDS_RETURN_URL = (
    "This PaymentIntent is configured to accept payment methods enabled in your Dashboard. Because some "
    "of these payment "
    "methods might redirect your customer off of your page, you must provide a `return_url`. If you don't "
    "want to accept "
    "redirect-based payment methods, set `automatic_payment_methods[enabled]` to `true` and "
    "`automatic_payment_methods[allow_redirects]` to `never` when creating Setup Intents and Payment Intents."
)
_NO_METHOD = (
    "You cannot confirm this PaymentIntent because it's missing a payment method. You can either update "
    "the PaymentIntent "
    "with a payment method and then confirm it again, or confirm it again directly with a payment method or "
    "ConfirmationToken."
)


def create(call: Call, _ids: tuple[str, ...], given: Json) -> Json:
    """``POST /v1/payment_intents`` (https://docs.stripe.com/api/payment_intents/create), also with ``confirm``."""
    currency = check_currency(given["currency"])
    check_amount(given["amount"], currency)
    _check_confirmation_only(given)
    body = objects.payment_intent(call.at, given["amount"], currency)
    body["metadata"] = {key: value for key, value in (given.get("metadata") or {}).items() if value != ""}
    body["capture_method"] = given.get("capture_method", "automatic_async")
    _choose_types(body, given)
    _require_return_url(body, given, confirms=bool(given.get("confirm")))
    for name in _COPIED:
        if given.get(name) is not None:
            body[name] = given[name]
    if given.get("customer") is not None:
        if call.store.find("customer", given["customer"]) is None:
            raise missing("customer", given["customer"], "customer")
        body["customer"] = given["customer"]
    record = Record("payment_intent", body, parent=body["customer"], tag=body["metadata"].get("paymentId"))
    if given.get("payment_method") is not None:
        _set_method(call, record, given["payment_method"])
    call.store.insert(record)
    emit(call, "payment_intent.created", record)
    if given.get("confirm"):
        _confirm(call, record, given)
    return record.body


def _check_confirmation_only(given: Json) -> None:
    """Some parameters are only allowed with ``confirm=true``, as the create page says of each."""
    if given.get("confirm"):
        return
    for name in ("off_session", "error_on_requires_action", "return_url", "mandate_data", "mandate"):
        if name in given:
            raise invalid(
                f"You can only pass {name} if you pass confirm=true when creating a PaymentIntent.", param=name
            )


def _choose_types(body: Json, given: Json) -> None:
    """The Dashboard's methods apply, redirects included, unless the call allows some types only.

    https://docs.stripe.com/api/payment_intents/create#create_payment_intent-automatic_payment_methods,
    https://docs.stripe.com/changelog/dahlia/2026-07-29/allowed-payment-method-types-parameter
    """
    automatic = given.get("automatic_payment_methods")
    allowed = given.get("allowed_payment_method_types")
    compatible = ["card", "us_bank_account"] if body["currency"] == "usd" else ["card"]
    body["payment_method_types"] = [kind for kind in compatible if not allowed or kind in allowed]
    if allowed:
        for other in _EXCLUDED_BY_ALLOWED:
            if other in given:
                text = f"You may only specify one of these parameters: allowed_payment_method_types, {other}."
                raise invalid(text, code="parameters_exclusive", param=other)
        body["allowed_payment_method_types"] = allowed
        return
    redirects = (automatic or {}).get("allow_redirects", "always")
    body["automatic_payment_methods"] = {"allow_redirects": redirects, "enabled": True}


def _require_return_url(body: Json, given: Json, *, confirms: bool) -> None:
    automatic = body["automatic_payment_methods"]
    may_redirect = automatic is not None and automatic["allow_redirects"] == "always"
    if confirms and may_redirect and not given.get("return_url") and not _off_session(given):
        raise invalid(_NEEDS_RETURN_URL, param="return_url")


def _off_session(given: Json) -> bool:
    return given.get("off_session") not in (None, "false")


def _set_method(call: Call, intent: Record, identifier: str) -> None:
    method = resolve(call, identifier)
    require_usable(method, intent.body["customer"])
    kind = method.body["type"]
    if kind not in intent.body["payment_method_types"]:
        listed = ", ".join(intent.body["payment_method_types"])
        text = (
            f"The PaymentMethod provided ({kind}) is not allowed for this PaymentIntent. Please attach a "
            "PaymentMethod of "
            f"one of the following types: {listed}."
        )
        raise refused(text, code="payment_intent_incompatible_payment_method", param="payment_method")
    intent.body["payment_method"] = method.id
    if intent.body["status"] == "requires_payment_method":
        move(intent, "requires_confirmation")


def confirm(call: Call, ids: tuple[str, ...], given: Json) -> Json:
    """``POST /v1/payment_intents/{id}/confirm`` (https://docs.stripe.com/api/payment_intents/confirm)."""
    intent = load(call, ids[0])
    require_payable(intent)
    _require_return_url(intent.body, given, confirms=True)
    if given.get("capture_method") is not None:
        intent.body["capture_method"] = given["capture_method"]
    if given.get("payment_method") is not None:
        _set_method(call, intent, given["payment_method"])
    _confirm(call, intent, given)
    return intent.body


def _confirm(call: Call, intent: Record, given: Json) -> None:
    if intent.body["payment_method"] is None:
        raise unexpected_state(intent, _NO_METHOD)
    method = call.store.must("payment_method", intent.body["payment_method"])
    options = attempts.Options(
        off_session=_off_session(given),
        fails_on_action=bool(given.get("error_on_requires_action")),
        return_url=given.get("return_url"),
    )
    attempts.attempt(call, intent, method, options)


def capture(call: Call, ids: tuple[str, ...], given: Json) -> Json:
    """``POST /v1/payment_intents/{id}/capture`` (https://docs.stripe.com/api/payment_intents/capture)."""
    intent = load(call, ids[0])
    require_capturable(intent)
    capturable: int = intent.body["amount_capturable"]
    amount: int = given.get("amount_to_capture", capturable)
    if amount < 1:
        text = "This value must be greater than or equal to 1."
        raise invalid(text, code="parameter_invalid_integer", param="amount_to_capture")
    if amount > capturable:
        text = f"The amount to capture ({amount}) is more than the amount that can be captured ({capturable})."
        raise refused(text, code="amount_too_large", param="amount_to_capture", payment_intent=intent.body)
    if given.get("metadata"):
        intent.body["metadata"].update(given["metadata"])
    charges.capture(call, intent, amount)
    disputes.expect(call, call.store.must("charge", intent.body["latest_charge"]))
    return intent.body


def cancel(call: Call, ids: tuple[str, ...], given: Json) -> Json:
    """``POST /v1/payment_intents/{id}/cancel`` (https://docs.stripe.com/api/payment_intents/cancel)."""
    intent = load(call, ids[0])
    require_cancelable(intent)
    if intent.body["status"] == "processing" and not call.behaviours.processing_cancelable:
        text = "You cannot cancel this PaymentIntent because its payment is already being processed."
        raise unexpected_state(intent, text)
    withdraw(call, intent, given.get("cancellation_reason"))
    return intent.body


def withdraw(call: Call, intent: Record, reason: str | None) -> None:
    """Cancel, giving back what is held."""
    status = intent.body["status"]
    intent.body.update(
        canceled_at=call.at, cancellation_reason=reason, amount_capturable=0, next_action=None, processing=None
    )
    move(intent, "canceled")
    call.store.save(intent)
    if status == "requires_capture":
        charge = call.store.must("charge", intent.body["latest_charge"])
        charges.release(call, charge, charge.body["amount"])
    emit(call, "payment_intent.canceled", intent)


def expire(call: Call, intent_id: str) -> None:
    """``capture_before`` has passed (https://docs.stripe.com/payments/place-a-hold-on-a-payment-method): released."""
    intent = call.store.must("payment_intent", intent_id)
    if intent.body["status"] != "requires_capture":
        return
    emit(call, "charge.expired", call.store.must("charge", intent.body["latest_charge"]))
    withdraw(call, intent, "automatic")


def retrieve(call: Call, ids: tuple[str, ...], given: Json) -> Json:
    """``GET /v1/payment_intents/{id}``."""
    intent = load(call, ids[0])
    if given.get("client_secret") not in (None, intent.body["client_secret"]):
        text = "The client_secret provided does not match any associated PaymentIntent on this account."
        raise refused(text, code="payment_intent_invalid_parameter", param="client_secret")
    return intent.body


def load(call: Call, identifier: str) -> Record:
    """The intent; raises StripeError (404 ``resource_missing``)."""
    record = call.store.find("payment_intent", identifier)
    if record is None:
        raise missing("payment_intent", identifier, "intent", status=404)
    return record
