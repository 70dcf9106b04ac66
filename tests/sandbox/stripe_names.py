"""Which class of the `stripe` package describes which object, and which parameters belong to which call."""

from typing import Any

import stripe
import stripe.params.radar
from stripe import params as take

CLASSES: dict[str, Any] = {
    "payment_intent": stripe.PaymentIntent,
    "charge": stripe.Charge,
    "refund": stripe.Refund,
    "dispute": stripe.Dispute,
    "radar.early_fraud_warning": stripe.radar.EarlyFraudWarning,
    "balance_transaction": stripe.BalanceTransaction,
    "customer": stripe.Customer,
    "payment_method": stripe.PaymentMethod,
    "event": stripe.Event,
}
INTENT, PAID, REFUND, DISPUTE = "/v1/payment_intents", "/v1/charges", "/v1/refunds", "/v1/disputes"
WARNING, EVENT, LINE = "/v1/radar/early_fraud_warnings", "/v1/events", "/v1/balance_transactions"
CUSTOMER, METHOD = "/v1/customers", "/v1/payment_methods"
PARAMETERS: dict[tuple[str, str], Any] = {
    ("POST", INTENT): take.PaymentIntentCreateParams,
    ("GET", INTENT): take.PaymentIntentListParams,
    ("GET", f"{INTENT}/x"): take.PaymentIntentRetrieveParams,
    ("POST", f"{INTENT}/x/confirm"): take.PaymentIntentConfirmParams,
    ("POST", f"{INTENT}/x/capture"): take.PaymentIntentCaptureParams,
    ("POST", f"{INTENT}/x/cancel"): take.PaymentIntentCancelParams,
    ("GET", PAID): take.ChargeListParams,
    ("GET", f"{PAID}/x"): take.ChargeRetrieveParams,
    ("POST", REFUND): take.RefundCreateParams,
    ("GET", REFUND): take.RefundListParams,
    ("GET", f"{REFUND}/x"): take.RefundRetrieveParams,
    ("POST", f"{REFUND}/x"): take.RefundUpdateParams,
    ("POST", f"{REFUND}/x/cancel"): take.RefundCancelParams,
    ("GET", DISPUTE): take.DisputeListParams,
    ("GET", f"{DISPUTE}/x"): take.DisputeRetrieveParams,
    ("POST", f"{DISPUTE}/x"): take.DisputeUpdateParams,
    ("POST", f"{DISPUTE}/x/close"): take.DisputeCloseParams,
    ("GET", WARNING): take.radar.EarlyFraudWarningListParams,
    ("GET", f"{WARNING}/x"): take.radar.EarlyFraudWarningRetrieveParams,
    ("GET", EVENT): take.EventListParams,
    ("GET", f"{EVENT}/x"): take.EventRetrieveParams,
    ("GET", LINE): take.BalanceTransactionListParams,
    ("GET", f"{LINE}/x"): take.BalanceTransactionRetrieveParams,
    ("POST", CUSTOMER): take.CustomerCreateParams,
    ("GET", f"{CUSTOMER}/x"): take.CustomerRetrieveParams,
    ("POST", f"{CUSTOMER}/x"): take.CustomerUpdateParams,
    ("GET", f"{CUSTOMER}/x/payment_methods"): take.CustomerPaymentMethodListParams,
    ("GET", METHOD): take.PaymentMethodListParams,
    ("GET", f"{METHOD}/x"): take.PaymentMethodRetrieveParams,
    ("POST", f"{METHOD}/x/attach"): take.PaymentMethodAttachParams,
    ("POST", f"{METHOD}/x/detach"): take.PaymentMethodDetachParams,
}
