"""What a refusal of Stripe's means to the consumers of `payment-failed`: four reasons, and which codes come to which.

docs/decline-codes.md shows this table to readers; a test compares the two. Sources: https://docs.stripe.com/declines/codes
and https://docs.stripe.com/error-codes
"""

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType

import msgspec

from payments.domain.facts import ErrorFacts


class FailureReason(StrEnum):
    """The reasons that the contract of `payment-failed` knows."""

    CARD_DECLINED = "CARD_DECLINED"
    INSUFFICIENT_FUNDS = "INSUFFICIENT_FUNDS"
    EXPIRED_CARD = "EXPIRED_CARD"
    PROCESSING_ERROR = "PROCESSING_ERROR"


class Failure(msgspec.Struct, frozen=True):
    """Why a payment failed: our reason, Stripe's more exact code, and its words for the customer."""

    reason: FailureReason
    decline_code: str | None
    message: str | None


_CODES: Mapping[FailureReason, tuple[str, ...]] = {
    FailureReason.INSUFFICIENT_FUNDS: ("insufficient_funds", "withdrawal_count_limit_exceeded"),
    FailureReason.EXPIRED_CARD: ("expired_card",),
    FailureReason.PROCESSING_ERROR: (
        "duplicate_transaction",
        "issuer_not_available",
        "payment_intent_payment_attempt_expired",
        "payment_method_provider_decline",
        "payment_method_provider_timeout",
        "processing_error",
        "reenter_transaction",
        "try_again_later",
    ),
    FailureReason.CARD_DECLINED: (
        "approve_with_id",
        "authentication_not_handled",
        "authentication_required",
        "bank_account_declined",
        "call_issuer",
        "card_declined",
        "card_not_supported",
        "card_velocity_exceeded",
        "currency_not_supported",
        "debit_not_authorized",
        "do_not_honor",
        "do_not_try_again",
        "fraudulent",
        "generic_decline",
        "incorrect_address",
        "incorrect_cvc",
        "incorrect_number",
        "incorrect_pin",
        "incorrect_zip",
        "invalid_account",
        "invalid_amount",
        "invalid_cvc",
        "invalid_expiry_month",
        "invalid_expiry_year",
        "invalid_number",
        "invalid_pin",
        "lost_card",
        "merchant_blacklist",
        "mobile_device_authentication_required",
        "new_account_information_available",
        "no_action_taken",
        "not_permitted",
        "offline_pin_required",
        "online_or_offline_pin_required",
        "payment_intent_authentication_failure",
        "payment_intent_payment_attempt_failed",
        "payment_method_customer_decline",
        "pickup_card",
        "pin_try_exceeded",
        "restricted_card",
        "revocation_of_all_authorizations",
        "revocation_of_authorization",
        "security_violation",
        "service_not_allowed",
        "stolen_card",
        "stop_payment_order",
        "testmode_decline",
        "transaction_not_allowed",
    ),
}
REASONS: Mapping[str, FailureReason] = MappingProxyType(
    {code: reason for reason, codes in _CODES.items() for code in codes}
)
# The customer was asked to prove who they are, and failed: so a browser was at work on the payment.
AUTHENTICATION_FAILED = "payment_intent_authentication_failure"


def read_failure(error: ErrorFacts) -> Failure:
    """Our reason for a decline: the more exact `decline_code` first, then `code`, then what kind of error it is."""
    known = (REASONS[code] for code in (error.decline_code, error.code) if code is not None and code in REASONS)
    is_card_error = error.type == "card_error"
    reason = next(known, FailureReason.CARD_DECLINED if is_card_error else FailureReason.PROCESSING_ERROR)
    return Failure(reason, error.decline_code or error.code, error.message)


# A create call that was refused for one of these says something about this one payment; any other refusal says that the
# call itself is wrong, which would fail every payment alike. https://docs.stripe.com/error-codes
# A method of another customer than the one we name is refused under the name of its predecessor, `source`.
_PARAMETERS_OF_A_PAYMENT = frozenset({"payment_method", "source", "customer", "amount", "currency"})
_CODES_OF_A_PAYMENT = frozenset(
    {
        "amount_too_large",
        "amount_too_small",
        "customer_max_payment_methods",
        "invalid_charge_amount",
        "payment_intent_incompatible_payment_method",
        "payment_method_currency_mismatch",
        "payment_method_customer_decline",
        "payment_method_invalid_parameter",
        "payment_method_not_available",
        "payment_method_provider_decline",
        "payment_method_unactivated",
        "payment_method_unexpected_state",
        "payment_method_unsupported_type",
    }
)
# Of a method that was used up, Stripe says it in words only: neither `code` nor `param`, as many have recorded it, e.g.
# https://github.com/Automattic/woocommerce-payments/issues/323
_USED_UP = "may not be used again"


def is_about_payment(error: ErrorFacts) -> bool:
    """Whether a refused call is at fault for what this payment asked for, not for how we ask."""
    return (
        error.type == "card_error"
        or error.parameter in _PARAMETERS_OF_A_PAYMENT
        or error.code in _CODES_OF_A_PAYMENT
        or _USED_UP in (error.message or "")
    )
