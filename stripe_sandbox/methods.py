"""PaymentMethods and Customers (https://docs.stripe.com/api/payment_methods, https://docs.stripe.com/api/customers)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stripe_sandbox import objects
from stripe_sandbox.errors import missing, refused
from stripe_sandbox.events import emit
from stripe_sandbox.store import Record
from stripe_sandbox.tokens import TOKENS, Behaviour

if TYPE_CHECKING:
    from stripe_sandbox.call import Call
    from stripe_sandbox.errors import Json

# Said in words only (https://github.com/Automattic/woocommerce-payments/issues/323 has such a body whole).
_USED = (
    "The provided PaymentMethod was previously used with a PaymentIntent without Customer attachment, shared with a "
    "connected account without Customer attachment, or was detached from a Customer. It may not be used "
    "again. To use a "
    "PaymentMethod multiple times, you must attach it to a Customer first."
)


def resolve(call: Call, identifier: str, param: str = "payment_method") -> Record:
    """The PaymentMethod of an id; a test token makes a fresh one each time (https://docs.stripe.com/testing).

    Raises StripeError (400 ``resource_missing``) for an unknown one.
    """
    behaviour = TOKENS.get(identifier)
    if behaviour is not None:
        body = objects.payment_method(behaviour, call.at)
        return call.store.insert(Record("payment_method", body, tag=body["type"], inner={"token": identifier}))
    record_or_none = call.store.find("payment_method", identifier)
    if record_or_none is None:
        raise missing("PaymentMethod", identifier, param)
    return record_or_none


def behaviour_of(method: Record) -> Behaviour:
    """What the test payment method does."""
    return TOKENS[method.inner["token"]]


def require_usable(method: Record, customer: str | None) -> None:
    """Raise StripeError for a used-up PaymentMethod or one of another customer.

    https://docs.stripe.com/payments/payment-methods#reusability: without a customer it serves one payment.
    """
    owner = method.body["customer"]
    if owner is not None and owner != customer:
        text = (
            f"The customer does not have a payment method with the ID {method.id}. The payment method "
            "supplied belongs to "
            f"the customer {owner}. Please include the customer in the `customer` parameter on the PaymentIntent."
        )
        raise refused(text, param="payment_method")
    if owner is None and method.inner.get("used"):
        raise refused(_USED)


def retrieve_method(call: Call, ids: tuple[str, ...], _given: Json) -> Json:
    """``GET /v1/payment_methods/{id}``; a test token resolves to a fresh object, as with Stripe."""
    identifier = ids[0]
    if identifier not in TOKENS and call.store.find("payment_method", identifier) is None:
        raise missing("PaymentMethod", identifier, "payment_method", status=404)
    return resolve(call, identifier).body


def attach(call: Call, ids: tuple[str, ...], given: Json) -> Json:
    """``POST /v1/payment_methods/{id}/attach`` (https://docs.stripe.com/api/payment_methods/attach)."""
    method = resolve(call, ids[0])
    customer = _customer(call, given["customer"], "customer", 400)
    if method.inner.get("used"):
        raise refused(_USED)
    own(call, method, customer.id)
    return method.body


def detach(call: Call, ids: tuple[str, ...], _given: Json) -> Json:
    """``POST /v1/payment_methods/{id}/detach``: never to be used again (https://docs.stripe.com/api/payment_methods/detach)."""
    method = call.store.find("payment_method", ids[0])
    if method is None:
        raise missing("PaymentMethod", ids[0], "payment_method", status=404)
    owner = method.body["customer"]
    if owner is None:
        text = "The payment method you provided is not attached to a customer so detachment is impossible."
        raise refused(text, param="payment_method")
    method.body["customer"] = None
    method.inner["used"] = True
    call.store.adopt(method, "")
    emit(call, "payment_method.detached", method, {"customer": owner})
    return method.body


def own(call: Call, method: Record, customer: str) -> None:
    """Attach the method to a customer and say so."""
    method.body["customer"] = customer
    call.store.adopt(method, customer)
    emit(call, "payment_method.attached", method)


def create_customer(call: Call, _ids: tuple[str, ...], given: Json) -> Json:
    """``POST /v1/customers``; ``payment_method`` attaches it (https://docs.stripe.com/api/customers/create)."""
    body = objects.customer(call.at)
    for name in ("description", "email", "name", "phone"):
        body[name] = given.get(name)
    body["metadata"] = given.get("metadata") or {}
    settings = given.get("invoice_settings") or {}
    record = call.store.insert(Record("customer", body))
    attached = given.get("payment_method")
    if attached is not None:
        method = resolve(call, attached)
        own(call, method, record.id)
        if settings.get("default_payment_method") in (attached, method.id):
            body["invoice_settings"]["default_payment_method"] = method.id
            call.store.save(record)
    emit(call, "customer.created", record)
    return body


def update_customer(call: Call, ids: tuple[str, ...], given: Json) -> Json:
    """``POST /v1/customers/{id}``: the few fields a payment needs."""
    record = _customer(call, ids[0], "id", 404)
    for name in ("description", "email", "name", "phone"):
        if name in given:
            record.body[name] = given[name]
    if given.get("metadata"):
        record.body["metadata"].update(given["metadata"])
    default = (given.get("invoice_settings") or {}).get("default_payment_method")
    if default is not None:
        method = resolve(call, default, "invoice_settings[default_payment_method]")
        record.body["invoice_settings"]["default_payment_method"] = method.id
    call.store.save(record)
    emit(call, "customer.updated", record, {})
    return record.body


def retrieve_customer(call: Call, ids: tuple[str, ...], _given: Json) -> Json:
    """``GET /v1/customers/{id}``."""
    return _customer(call, ids[0], "id", 404).body


def _customer(call: Call, identifier: str, param: str, status: int) -> Record:
    record = call.store.find("customer", identifier)
    if record is None:
        raise missing("customer", identifier, param, status=status)
    return record
