"""Refused requests: https://docs.stripe.com/error-codes, https://docs.stripe.com/api/errors."""

from functools import partial

import pytest
import stripe

from tests.sandbox.documented import documented
from tests.sandbox.driver import Driver, error_of, is_a

VALID = "amount=1000&currency=usd"


@pytest.mark.parametrize(
    ("form", "param", "code"),
    [
        ("currency=usd", "amount", "parameter_missing"),
        ("amount=1000", "currency", "parameter_missing"),
        (f"{VALID}&no_such_parameter=1", "no_such_parameter", "parameter_unknown"),
        ("amount=abc&currency=usd", "amount", "parameter_invalid_integer"),
        ("amount=10.5&currency=usd", "amount", "parameter_invalid_integer"),
        ("amount=1e3&currency=usd", "amount", "parameter_invalid_integer"),
        ("amount=-1000&currency=usd", "amount", "parameter_invalid_integer"),
        ("amount=0&currency=usd", "amount", "parameter_invalid_integer"),
        ("amount=1000&currency=", "currency", "parameter_invalid_empty"),
    ],
)
@documented(
    "https://docs.stripe.com/error-codes#parameter-missing",
    "https://docs.stripe.com/error-codes#parameter-unknown",
    "https://docs.stripe.com/error-codes#parameter-invalid-integer",
    lines=(11,),
)
def test_bad_parameter_is_named(api: Driver, form: str, param: str, code: str) -> None:
    reply = api.raw("POST", "/v1/payment_intents", form)
    error = reply.body["error"]
    assert (reply.status, error["type"]) == (400, "invalid_request_error")
    assert (error["param"], error["code"]) == (param, code)
    assert error["message"]
    assert error["doc_url"].startswith("https://")


@pytest.mark.parametrize(
    ("amount", "currency", "code"),
    [
        (49, "usd", "amount_too_small"),
        (29, "gbp", "amount_too_small"),
        (49, "jpy", "amount_too_small"),
        (100_000_000, "usd", "amount_too_large"),
    ],
)
@documented("https://docs.stripe.com/currencies#minimum-and-maximum-charge-amounts", lines=(49,))
def test_amount_has_limits(api: Driver, amount: int, currency: str, code: str) -> None:
    error = error_of(lambda: api.pay(confirm=False, amount=amount, currency=currency))
    assert is_a(error, stripe.InvalidRequestError)
    assert (error.http_status, error.error.code, error.error.param) == (400, code, "amount")


@pytest.mark.parametrize(
    ("amount", "currency"), [(50, "usd"), (30, "gbp"), (50, "jpy"), (1010, "kwd"), (99_999_999, "usd")]
)
@documented("https://docs.stripe.com/currencies", lines=(49,))
def test_amounts_at_the_limits_are_taken(api: Driver, amount: int, currency: str) -> None:
    assert api.pay(confirm=False, amount=amount, currency=currency).amount == amount


@pytest.mark.parametrize(("amount", "currency"), [(1001, "kwd"), (10_050, "isk")])
@documented(
    "https://docs.stripe.com/currencies#three-decimal", "https://docs.stripe.com/currencies#special-cases", lines=(49,)
)
def test_amounts_must_fit_the_currency(api: Driver, amount: int, currency: str) -> None:
    assert error_of(lambda: api.pay(confirm=False, amount=amount, currency=currency)).error.param == "amount"


@documented("https://docs.stripe.com/currencies#presentment-currencies", lines=(49,))
def test_unknown_currency_is_refused(api: Driver) -> None:
    error = error_of(lambda: api.pay(confirm=False, currency="xyz"))
    assert (error.http_status, error.error.param) == (400, "currency")
    assert "Invalid currency: xyz" in str(error)


@documented("https://docs.stripe.com/error-codes#resource-missing")
def test_unknown_payment_method_is_resource_missing(api: Driver) -> None:
    error = error_of(lambda: api.pay(payment_method="pm_unknown"))
    assert (error.http_status, error.error.code, error.error.param) == (400, "resource_missing", "payment_method")
    assert "No such PaymentMethod: 'pm_unknown'" in str(error)


@documented("https://docs.stripe.com/error-codes#resource-missing")
def test_unknown_customer_is_resource_missing(api: Driver) -> None:
    error = error_of(lambda: api.pay(customer="cus_unknown"))
    assert (error.http_status, error.error.code, error.error.param) == (400, "resource_missing", "customer")


@documented("https://docs.stripe.com/api/errors")
def test_refused_creation_leaves_nothing_behind(api: Driver) -> None:
    """A 400 changed nothing."""
    customer = api.customer()
    error_of(lambda: api.pay(customer=customer.id, payment_method="pm_unknown"))
    assert api.run(api.intents.list_async({"customer": customer.id})).data == []


@documented("https://docs.stripe.com/api/metadata")
def test_metadata_has_limits(api: Driver) -> None:
    """50 keys, 40 and 500 characters."""
    fits = {f"key{number}": "v" * 500 for number in range(50)}
    assert api.pay(confirm=False, metadata=fits).metadata["key49"] == "v" * 500
    for wrong in ({"k" * 41: "v"}, {"k": "v" * 501}, {f"k{number}": "v" for number in range(51)}):
        assert error_of(partial(api.pay, confirm=False, metadata=wrong)).http_status == 400


@documented("https://docs.stripe.com/api/payment_intents/create#create_payment_intent-off_session")
def test_confirmation_parameters_need_confirm(api: Driver) -> None:
    error = error_of(lambda: api.pay(confirm=False, off_session=True))
    assert (error.http_status, error.error.param) == (400, "off_session")


@documented(
    "https://docs.stripe.com/changelog/dahlia/2026-07-29/allowed-payment-method-types-parameter",
    "https://docs.stripe.com/error-codes#parameters-exclusive",
)
def test_allowed_types_and_automatic_methods_exclude_each_other(api: Driver) -> None:
    both = {"allowed_payment_method_types": ["card"], "automatic_payment_methods": {"enabled": True}}
    error = error_of(lambda: api.pay(confirm=False, **both))
    assert (error.http_status, error.error.code) == (400, "parameters_exclusive")


@documented("https://docs.stripe.com/api/authentication", lines=(10,))
def test_wrong_key_is_401_and_not_echoed(api: Driver) -> None:
    key = "sk_wrong_123456789012345678901234"
    reply = api.raw("GET", "/v1/payment_intents", Authorization=f"Bearer {key}")
    assert (reply.status, reply.body["error"]["type"]) == (401, "invalid_request_error")
    assert key not in str(reply.body)
    missing = api.raw("GET", "/v1/payment_intents", Authorization="")
    assert missing.status == 401
    assert "You did not provide an API key" in missing.body["error"]["message"]


@documented("https://docs.stripe.com/api/errors")
def test_unknown_url_is_404(api: Driver) -> None:
    reply = api.raw("GET", "/v1/no_such_thing")
    assert (reply.status, reply.body["error"]["type"]) == (404, "invalid_request_error")
    assert "Unrecognized request URL" in reply.body["error"]["message"]


@documented("https://docs.stripe.com/api/request_ids")
def test_every_answer_has_a_request_id(api: Driver) -> None:
    seen = {api.raw(*call).headers["request-id"] for call in (("GET", "/v1/events"), ("GET", "/v1/charges/ch_none"))}
    assert len(seen) == 2
    assert all(one.startswith("req_") for one in seen)
    assert api.raw("GET", "/v1/events").headers["stripe-version"] == "2026-10-28.endive"


@documented("https://docs.stripe.com/api/versioning")
def test_malformed_version_is_refused(api: Driver) -> None:
    assert api.raw("GET", "/v1/events", Stripe_Version="nonsense").status == 400


@pytest.mark.parametrize(
    "form", ["amount=%FF%FE&currency=usd", "a[b=1", "=1", "[x]=1", "amount[a]=1&amount=2&currency=usd"]
)
@documented("https://docs.stripe.com/api/errors")
def test_malformed_bodies_are_400(api: Driver, form: str) -> None:
    """Never a 500 for what a client sent."""
    assert api.raw("POST", "/v1/payment_intents", form).status == 400


@documented(
    "https://docs.stripe.com/changelog/endive/2026-09-30/removes-the-payment-method-types-parameter-from-payment-intents-and-setup-intents"
)
def test_payment_method_types_are_no_longer_taken(api: Driver) -> None:
    error = error_of(lambda: api.pay(confirm=False, payment_method_types=["card"]))
    assert (error.http_status, error.error.param) == (400, "payment_method_types")
    assert error.error.code == "payment_method_types_no_longer_supported"


@documented("https://docs.stripe.com/changelog/dahlia/2026-07-29/allowed-payment-method-types-parameter")
def test_allowed_types_narrow_what_is_compatible(api: Driver) -> None:
    intent = api.pay(confirm=False, allowed_payment_method_types=["card", "sepa_debit"])
    assert intent.payment_method_types == ["card"], "what is not compatible with the currency is filtered out"
