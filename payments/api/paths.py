"""The ids in paths: whatever is no UUID leads nowhere."""

from uuid import UUID

from payments.api.problems import Refusal
from payments.api.query_parameters import uuid
from payments.api.request_record import record_of
from payments.api.services import ApiRequest


def payment_id_of(request: ApiRequest) -> UUID:
    """The payment that the path names. Raises Refusal payment_not_found."""
    try:
        payment_id = uuid(request.path_params["paymentId"])
    except ValueError:
        raise payment_not_found() from None
    record_of(request.scope).payment_id = str(payment_id)
    return payment_id


def refund_id_of(request: ApiRequest) -> UUID:
    """The refund that the path names. Raises Refusal refund_not_found."""
    try:
        return uuid(request.path_params["refundId"])
    except ValueError:
        raise refund_not_found() from None


def payment_not_found() -> Refusal:
    """The answer to a payment's path that leads nowhere."""
    return Refusal("payment_not_found", "No payment has this id; ids are UUIDs.")


def refund_not_found() -> Refusal:
    """The answer to a refund's path that leads nowhere."""
    return Refusal("refund_not_found", "No refund has this id; ids are UUIDs.")
