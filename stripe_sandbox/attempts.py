"""Confirming: what the payment method decides (https://docs.stripe.com/payments/paymentintents/lifecycle)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from stripe_sandbox import charges, disputes, jobs
from stripe_sandbox.errors import doc_url
from stripe_sandbox.events import emit
from stripe_sandbox.methods import behaviour_of, own
from stripe_sandbox.states import move
from stripe_sandbox.tokens import Decline

if TYPE_CHECKING:
    from stripe_sandbox.call import Call
    from stripe_sandbox.errors import Json
    from stripe_sandbox.store import Record

# https://docs.stripe.com/declines/codes: the issuer wants 3D Secure and nobody is there to do it.
AUTHENTICATION_REQUIRED = Decline(
    "authentication_required",
    "authentication_required",
    "Your card was declined. This transaction requires authentication.",
)
# https://docs.stripe.com/error-codes#payment-intent-authentication-failure
_NOT_AUTHENTICATED = (
    "We are unable to authenticate your payment method. Please choose a different payment method and try again."
)


@dataclass(frozen=True)
class Options:
    """How the caller confirms."""

    off_session: bool = False
    fails_on_action: bool = False
    return_url: str | None = None


def attempt(call: Call, intent: Record, method: Record, options: Options) -> None:
    """Try to pay; raises StripeError (402) on a decline, whose effects are to be kept."""
    behaviour = behaviour_of(method)
    intent.inner["off_session"] = options.off_session
    if not behaviour.asks_authentication:
        pay(call, intent, method)
    elif options.off_session or options.fails_on_action:
        charge = charges.open_charge(call, intent, method)
        raise charges.fail(call, intent, charge, method, AUTHENTICATION_REQUIRED)
    else:
        _ask(call, intent, options.return_url)


def pay(call: Call, intent: Record, method: Record) -> None:
    """The attempt itself, once nobody needs to be asked."""
    behaviour = behaviour_of(method)
    charge = charges.open_charge(call, intent, method)
    if behaviour.processing is not None:
        _process(call, intent, charge, behaviour.processing)
    elif behaviour.decline is not None:
        raise charges.fail(call, intent, charge, method, behaviour.decline)
    else:
        _succeed(call, intent, charge, method)


def _succeed(call: Call, intent: Record, charge: Record, method: Record) -> None:
    charges.authorize(call, intent, charge, off_session=bool(intent.inner.get("off_session")))
    method.inner["used"] = True
    call.store.save(method)
    if intent.body["customer"] and intent.body["setup_future_usage"] and method.body["customer"] is None:
        own(call, method, intent.body["customer"])
    disputes.expect(call, charge)


def _ask(call: Call, intent: Record, return_url: str | None) -> None:
    """``requires_action`` (https://docs.stripe.com/api/payment_intents/object#payment_intent_object-next_action)."""
    url = f"https://hooks.stripe.com/3d_secure_2/hosted?payment_intent={intent.id}"
    action: Json
    if return_url:
        action = {"redirect_to_url": {"return_url": return_url, "url": url}, "type": "redirect_to_url"}
    else:
        action = {
            "type": "use_stripe_sdk",
            "use_stripe_sdk": {"source": f"src_{intent.id[3:]}", "stripe_js": url, "type": "three_d_secure_redirect"},
        }
    intent.body["next_action"] = action
    move(intent, "requires_action")
    call.store.save(intent)
    emit(call, "payment_intent.requires_action", intent)


def authenticated(call: Call, intent: Record, *, succeeds: bool) -> None:
    """The customer has been asked; raises StripeError (402) when the charge is then declined."""
    method = call.store.must("payment_method", intent.body["payment_method"])
    if succeeds:
        pay(call, intent, method)
        return
    code = "payment_intent_authentication_failure"
    error = {
        "code": code,
        "doc_url": doc_url(code),
        "message": _NOT_AUTHENTICATED,
        "payment_method": method.body,
        "type": "invalid_request_error",
    }
    charges.refuse(intent, error)
    call.store.save(intent)
    emit(call, "payment_intent.payment_failed", intent)


def _process(call: Call, intent: Record, charge: Record, how: str) -> None:
    """A delayed-notification method (https://docs.stripe.com/payments/payment-methods#payment-notification)."""
    intent.body.update(
        last_payment_error=None,
        next_action=None,
        processing={"type": "card"} if "card" in charge.body["payment_method_details"] else None,
    )
    move(intent, "processing")
    call.store.save(intent)
    call.store.save(charge)
    emit(call, "payment_intent.processing", intent)
    emit(call, "charge.pending", charge)
    if how != "stays":
        jobs.add(call, "finish_processing", intent.id, call.now + call.behaviours.processing_delay_s)


def finish_processing(call: Call, intent_id: str) -> None:
    """The bank has answered, days later."""
    intent = call.store.must("payment_intent", intent_id)
    if intent.body["status"] != "processing":
        return
    charge = call.store.must("charge", intent.body["latest_charge"])
    method = call.store.must("payment_method", intent.body["payment_method"])
    decline = behaviour_of(method).decline
    if decline is None:
        _succeed(call, intent, charge, method)
    else:
        charges.fail(call, intent, charge, method, decline)
