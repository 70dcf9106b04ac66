"""Stripe's test payment methods as data (https://docs.stripe.com/testing).

Each ``pm_card_…`` names a behaviour, never a card number. Whenever one is used, Stripe makes a fresh PaymentMethod.
"""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Decline:
    """A refusal, with the strings of https://docs.stripe.com/testing#declined-payments."""

    code: str
    decline_code: str | None
    message: str
    param: str | None = None
    blocked: bool = False


@dataclass(frozen=True)
class Behaviour:
    """What a test payment method does."""

    brand: str = "visa"
    last4: str = "4242"
    kind: str = "card"
    decline: Decline | None = None
    # 3D Secure (https://docs.stripe.com/testing#regulatory-cards): asked for before the charge.
    asks_authentication: bool = False
    # https://docs.stripe.com/testing#refunds: "succeeded", "pending" (then succeeds), "fails" (after succeeding).
    refund: str = "succeeded"
    # https://docs.stripe.com/testing#disputes: the reason of the dispute it opens.
    dispute: str | None = None
    inquiry: bool = False
    # https://docs.stripe.com/testing#disputes: the issuer warns of fraud before anybody disputes.
    fraud_warning: bool = False
    # https://docs.stripe.com/payments/paymentintents/lifecycle, processing: None, "succeeds", "fails", "stays".
    processing: str | None = None


_GENERIC = Decline("card_declined", "generic_decline", "Your card was declined.")
_FUNDS = Decline("card_declined", "insufficient_funds", "Your card has insufficient funds.")
_LOST = Decline("card_declined", "lost_card", "Your card was declined.")
_STOLEN = Decline("card_declined", "stolen_card", "Your card was declined.")
_FRAUDULENT = Decline("card_declined", "fraudulent", "Your card was declined.")
_BLOCKED = Decline("card_declined", "fraudulent", "Your card was declined.", blocked=True)
_VELOCITY = Decline(
    "card_declined",
    "card_velocity_exceeded",
    "Your card was declined for making repeated attempts too frequently or exceeding its amount limit.",
)
# The table of test cards gives these three a code and no decline code.
_EXPIRED = Decline("expired_card", None, "Your card has expired.", param="exp_month")
_CVC = Decline("incorrect_cvc", None, "Your card's security code is incorrect.", param="cvc")
_PROCESSING = Decline(
    "processing_error", None, "An error occurred while processing your card. Try again in a little bit."
)
_BANK_FUNDS = Decline(
    "payment_intent_payment_attempt_failed",
    "insufficient_funds",
    "The customer's bank account could not be debited: the account has insufficient funds.",
)

_VISA = Behaviour()
_ASKS = Behaviour(asks_authentication=True, last4="3184")
_BANK = Behaviour(kind="us_bank_account", brand="", last4="6789", processing="succeeds")

TOKENS: dict[str, Behaviour] = {
    # https://docs.stripe.com/testing#cards
    "pm_card_visa": _VISA,
    "pm_card_visa_debit": replace(_VISA, last4="5556"),
    "pm_card_us": _VISA,
    "pm_card_mastercard": Behaviour(brand="mastercard", last4="4444"),
    "pm_card_mastercard_debit": Behaviour(brand="mastercard", last4="8210"),
    "pm_card_amex": Behaviour(brand="amex", last4="8431"),
    "pm_card_discover": Behaviour(brand="discover", last4="9424"),
    # https://docs.stripe.com/testing#declined-payments
    "pm_card_visa_chargeDeclined": replace(_VISA, decline=_GENERIC, last4="0002"),
    "pm_card_chargeDeclined": replace(_VISA, decline=_GENERIC, last4="0002"),
    "pm_card_visa_chargeDeclinedInsufficientFunds": replace(_VISA, decline=_FUNDS, last4="9995"),
    "pm_card_chargeDeclinedInsufficientFunds": replace(_VISA, decline=_FUNDS, last4="9995"),
    "pm_card_visa_chargeDeclinedLostCard": replace(_VISA, decline=_LOST, last4="9987"),
    "pm_card_visa_chargeDeclinedStolenCard": replace(_VISA, decline=_STOLEN, last4="9979"),
    "pm_card_visa_chargeDeclinedFraudulent": replace(_VISA, decline=_FRAUDULENT, last4="0019"),
    "pm_card_chargeDeclinedFraudulent": replace(_VISA, decline=_FRAUDULENT, last4="0019"),
    "pm_card_chargeDeclinedExpiredCard": replace(_VISA, decline=_EXPIRED, last4="0069"),
    "pm_card_chargeDeclinedIncorrectCvc": replace(_VISA, decline=_CVC, last4="0127"),
    "pm_card_chargeDeclinedProcessingError": replace(_VISA, decline=_PROCESSING, last4="0119"),
    "pm_card_visa_chargeDeclinedVelocityLimitExceeded": replace(_VISA, decline=_VELOCITY, last4="6975"),
    "pm_card_chargeCustomerFail": replace(_VISA, decline=_GENERIC, last4="0341"),
    "pm_card_radarBlock": replace(_VISA, decline=_BLOCKED, last4="0019"),
    # https://docs.stripe.com/testing#regulatory-cards and #three-ds-cards
    "pm_card_authenticationRequired": _ASKS,
    "pm_card_authenticationRequiredOnSetup": replace(_ASKS, last4="3155"),
    "pm_card_threeDSecure2Required": replace(_ASKS, last4="3220"),
    "pm_card_threeDSecureRequired": replace(_ASKS, last4="3063"),
    "pm_card_authenticationRequiredChargeDeclinedInsufficientFunds": replace(_ASKS, decline=_FUNDS, last4="3178"),
    "pm_card_threeDSecureRequiredChargeDeclined": replace(_ASKS, decline=_GENERIC, last4="1629"),
    # https://docs.stripe.com/testing#refunds
    "pm_card_pendingRefund": replace(_VISA, refund="pending", last4="7726"),
    "pm_card_refundFail": replace(_VISA, refund="fails", last4="5126"),
    # https://docs.stripe.com/testing#disputes
    "pm_card_createDispute": replace(_VISA, dispute="fraudulent", last4="0259"),
    "pm_card_createDisputeProductNotReceived": replace(_VISA, dispute="product_not_received", last4="2685"),
    "pm_card_createIssuerFraudRecord": replace(_VISA, fraud_warning=True, last4="5423"),
    "pm_card_createDisputeInquiry": replace(_VISA, dispute="fraudulent", inquiry=True, last4="1976"),
    # https://docs.stripe.com/payments/ach-direct-debit/accept-a-payment#test-your-integration
    "pm_usBankAccount_success": _BANK,
    "pm_usBankAccount_insufficientFunds": replace(_BANK, processing="fails", decline=_BANK_FUNDS),
    "pm_usBankAccount_processing": replace(_BANK, processing="stays"),
}
