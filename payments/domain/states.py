"""The payment's states and the ways between them, as data.

SQL knows the same table as `payments.may_change`, docs/state-machines.md draws it; tests compare all three.
"""

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType


class PaymentStatus(StrEnum):
    """Where a payment is in its life."""

    REQUESTED = "REQUESTED"
    ACTION_REQUIRED = "ACTION_REQUIRED"
    PROCESSING = "PROCESSING"
    AUTHORIZED = "AUTHORIZED"
    CAPTURING = "CAPTURING"
    VOIDING = "VOIDING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    VOIDED = "VOIDED"
    EXPIRED = "EXPIRED"
    CONFLICTED = "CONFLICTED"


class EventType(StrEnum):
    """The events of the outbox; the routing key has a dot for the first hyphen."""

    PAYMENT_REQUESTED = "payment-requested"
    PAYMENT_AUTHORIZED = "payment-authorized"
    PAYMENT_SUCCEEDED = "payment-succeeded"
    PAYMENT_FAILED = "payment-failed"
    PAYMENT_VOIDED = "payment-voided"
    PAYMENT_EXPIRED = "payment-expired"
    PAYMENT_ACTION_REQUIRED = "payment-action-required"
    CAPTURE_REQUESTED = "capture-requested"
    VOID_REQUESTED = "void-requested"
    REFUND_REQUESTED = "refund-requested"
    REFUND_PROCESSED = "refund-processed"
    REFUND_FAILED = "refund-failed"
    DISPUTE_OPENED = "dispute-opened"
    DISPUTE_CLOSED = "dispute-closed"

    @property
    def routing_key(self) -> str:
        """The key that pgmq's topic bindings match."""
        return self.replace("-", ".", 1)


_S = PaymentStatus
_E = EventType

# From each state: where it may go, and what is published on the way (None: nothing). Any state may become CONFLICTED as
# well: Stripe's facts contradict ours; nothing is published and only an operator leaves it.
TRANSITIONS: Mapping[PaymentStatus, Mapping[PaymentStatus, EventType | None]] = MappingProxyType(
    {
        _S.REQUESTED: {
            _S.AUTHORIZED: _E.PAYMENT_AUTHORIZED,
            _S.SUCCEEDED: _E.PAYMENT_SUCCEEDED,
            _S.FAILED: _E.PAYMENT_FAILED,
            _S.ACTION_REQUIRED: _E.PAYMENT_ACTION_REQUIRED,
            _S.PROCESSING: None,
            _S.VOIDING: None,
            _S.VOIDED: _E.PAYMENT_VOIDED,
            _S.EXPIRED: _E.PAYMENT_EXPIRED,
        },
        _S.ACTION_REQUIRED: {
            _S.AUTHORIZED: _E.PAYMENT_AUTHORIZED,
            _S.SUCCEEDED: _E.PAYMENT_SUCCEEDED,
            _S.PROCESSING: None,
            _S.FAILED: _E.PAYMENT_FAILED,
            _S.VOIDING: _E.VOID_REQUESTED,
            _S.VOIDED: _E.PAYMENT_VOIDED,
            _S.EXPIRED: _E.PAYMENT_EXPIRED,
        },
        _S.PROCESSING: {
            _S.AUTHORIZED: _E.PAYMENT_AUTHORIZED,
            _S.SUCCEEDED: _E.PAYMENT_SUCCEEDED,
            _S.FAILED: _E.PAYMENT_FAILED,
            _S.ACTION_REQUIRED: _E.PAYMENT_ACTION_REQUIRED,
            _S.VOIDING: _E.VOID_REQUESTED,
            _S.VOIDED: _E.PAYMENT_VOIDED,
            _S.EXPIRED: _E.PAYMENT_EXPIRED,
        },
        _S.AUTHORIZED: {
            _S.CAPTURING: _E.CAPTURE_REQUESTED,
            _S.VOIDING: _E.VOID_REQUESTED,
            _S.EXPIRED: _E.PAYMENT_EXPIRED,
            _S.VOIDED: _E.PAYMENT_VOIDED,
            _S.SUCCEEDED: _E.PAYMENT_SUCCEEDED,
        },
        _S.CAPTURING: {
            _S.SUCCEEDED: _E.PAYMENT_SUCCEEDED,
            _S.AUTHORIZED: None,
            _S.EXPIRED: _E.PAYMENT_EXPIRED,
            _S.VOIDED: _E.PAYMENT_VOIDED,
        },
        _S.VOIDING: {
            _S.VOIDED: _E.PAYMENT_VOIDED,
            _S.SUCCEEDED: _E.PAYMENT_SUCCEEDED,
            _S.FAILED: _E.PAYMENT_FAILED,
            _S.EXPIRED: _E.PAYMENT_EXPIRED,
        },
        _S.SUCCEEDED: {},
        _S.FAILED: {},
        _S.VOIDED: {},
        _S.EXPIRED: {},
        _S.CONFLICTED: {},
    }
)

# A caller that waits is answered once the payment is in none of these.
UNSETTLED = frozenset({_S.REQUESTED, _S.PROCESSING, _S.CAPTURING, _S.VOIDING})

# While a payment is in none of these, its cart takes no second one.
ENDED_WITHOUT_MONEY = frozenset({_S.FAILED, _S.VOIDED, _S.EXPIRED})


def may_change(old: PaymentStatus, new: PaymentStatus) -> bool:
    """Whether the service may take a payment from one state to the other."""
    return new is _S.CONFLICTED or new in TRANSITIONS[old]
