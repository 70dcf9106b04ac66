"""The sandbox against the types of the `stripe` package: what it answers, what it takes, what it announces.

The package is generated from Stripe's own description of the API version that the sandbox models; nothing here was read
off the sandbox.
"""

import ast
from collections.abc import Iterator
from pathlib import Path
from types import GenericAlias
from typing import Any

import pytest
import stripe

from stripe_sandbox import routes
from stripe_sandbox.params import Param
from stripe_sandbox.routes import ROUTES, find_route
from stripe_sandbox.settings import API_VERSION
from stripe_sandbox.tokens import TOKENS
from tests.sandbox.every_life import KINDS, EveryLife, pattern
from tests.sandbox.stripe_names import CLASSES, CUSTOMER, INTENT, METHOD, PARAMETERS, REFUND
from tests.sandbox.stripe_types import fields, is_required, literals, misfits

CALLS = [pytest.param(call, id=" ".join(call)) for call in PARAMETERS]

# Which annotation a kind of parameter must have; `any` has any.
KINDS_OF: dict[str, tuple[Any, ...]] = {"int": (3, 0), "bool": (True,), "list": (["card"],), "metadata": ({"a": "b"},)}
# Parameters that the package leaves optional and the sandbox asks for, because it knows no `customer_account`.
ASKED_FOR = {("GET", METHOD, "customer"), ("POST", f"{METHOD}/x/attach", "customer")}
# Filters that take any type of payment method; one that the sandbox doesn't have finds nothing.
ANY_VALUE = {("GET", METHOD, "type"), ("GET", f"{CUSTOMER}/x/payment_methods", "type")}


@pytest.fixture(scope="module")
def life() -> Iterator[EveryLife]:
    life = EveryLife()
    life.live()
    yield life
    life.sandbox.store.close()


def test_package_describes_the_version_that_the_sandbox_models() -> None:
    assert stripe.api_version == API_VERSION


def test_every_object_fits_the_package(life: EveryLife) -> None:
    found = list(life.objects())
    assert {one["object"] for one in found} == set(KINDS) == set(CLASSES)
    wrong = {fault for one in found for fault in misfits(CLASSES[one["object"]], one, one["object"])}
    assert sorted(wrong)[:10] == []


def test_every_status_of_an_object_was_looked_at(life: EveryLife) -> None:
    """Or the check above would be blind for what only shows in some states."""
    found = list(life.objects())

    def seen(kind: str, name: str) -> set[Any]:
        return {one.get(name) for one in found if one["object"] == kind}

    # A refund of a card never asks for an action; the package knows states of disputes that are new since.
    assert seen("payment_intent", "status") == literals(fields(stripe.PaymentIntent)["status"])
    assert seen("charge", "status") == literals(fields(stripe.Charge)["status"])
    assert seen("refund", "status") == {"pending", "succeeded", "failed"}
    assert seen("dispute", "status") >= {"needs_response", "under_review", "won", "lost", "warning_needs_response"}
    assert seen("dispute", "status") >= {"warning_under_review", "warning_closed"}


def test_every_answer_fits_the_package(life: EveryLife) -> None:
    """Lists and expanded objects, which are not stored as they are shown."""
    wrong = set()
    for answer in life.answers:
        if answer.status == 200:
            listed = answer.body["object"] == "list"
            one = answer.body["data"][0] if listed else answer.body
            kind = CLASSES[one["object"]]
            kind = GenericAlias(stripe.ListObject, kind) if listed else kind
            wrong |= set(misfits(kind, answer.body, answer.path))
    assert sorted(wrong)[:10] == []


def test_every_call_was_made(life: EveryLife) -> None:
    answered = {answer.path for answer in life.answers if answer.status == 200}
    # A refund of a card never waits for an action, and so it can never be canceled.
    assert {pattern(route) for route in ROUTES} - answered == {pattern(find_route("POST", f"{REFUND}/x/cancel")[0])}


def test_every_error_fits_the_package(life: EveryLife) -> None:
    errors = [answer.body["error"] for answer in life.answers if answer.status != 200]
    assert {answer.status for answer in life.answers} == {200, 400, 402, 404}
    wrong = {fault for error in errors for fault in misfits(stripe.ErrorObject, error, "error")}
    known = fields(stripe.PaymentIntent.LastPaymentError)
    wrong |= {error["type"] for error in errors} - literals(known["type"])
    assert sorted(wrong)[:10] == []


# Stripe's changelog names it; the package's list of codes is of errors that a payment can end with.
CHANGELOG_CODES = {"payment_method_types_no_longer_supported"}


def test_every_error_code_is_one_of_stripes() -> None:
    known = literals(fields(stripe.PaymentIntent.LastPaymentError)["code"])
    sources = [ast.parse(path.read_text()) for path in Path(routes.__file__).parent.glob("*.py")]
    named = {
        str(word.value.value)
        for tree in sources
        for call in ast.walk(tree)
        if isinstance(call, ast.Call)
        for word in call.keywords
        if word.arg == "code" and isinstance(word.value, ast.Constant) and word.value.value is not None
    }
    named |= {one.decline.code for one in TOKENS.values() if one.decline is not None}
    assert len(named) > 20
    assert named - known - CHANGELOG_CODES == set()


def test_every_event_type_is_one_of_stripes_and_was_emitted(life: EveryLife) -> None:
    known = literals(fields(stripe.Event)["type"])
    named = set()
    for path in Path(routes.__file__).parent.glob("*.py"):
        for call in ast.walk(ast.parse(path.read_text())):
            if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == "emit":
                kind = call.args[1]
                assert isinstance(kind, ast.Constant), f"{path.name}: the type of an event stands where it is emitted"
                named.add(kind.value)
    assert named - known == set()
    assert named - {one["type"] for one in life.objects() if one["object"] == "event"} == set()


def test_what_an_event_says_has_changed_are_fields_of_its_object(life: EveryLife) -> None:
    said = 0
    for event in life.objects():
        if event["object"] == "event":
            known = fields(CLASSES[event["data"]["object"]["object"]])
            for name, value in event["data"].get("previous_attributes", {}).items():
                assert name in known
                assert list(misfits(known[name], value, name)) == []
                said += 1
    assert said > 100


def test_every_call_has_its_parameters_in_the_package() -> None:
    assert {pattern(find_route(*call)[0]) for call in PARAMETERS} == {pattern(route) for route in ROUTES}


@pytest.mark.parametrize("call", CALLS)
def test_every_parameter_taken_is_known_to_the_package(call: tuple[str, str]) -> None:
    kind, spec = PARAMETERS[call], find_route(*call)[0].spec
    known = fields(kind)
    for name, param in spec.items():
        if param.kind == "removed":
            assert name not in known
            continue
        assert name in known
        if (*call, name) not in ASKED_FOR:
            assert param.required is is_required(kind, name), name
        if (*call, name) not in ANY_VALUE:
            assert list(disagreements(known[name], param)) == [], name


def disagreements(kind: Any, param: Param) -> Iterator[str]:
    """How a parameter differs from its annotation: its type, and the values it may have."""
    for value in KINDS_OF.get(param.kind, ()):
        yield from misfits(kind, value, param.kind)
    if param.kind == "range":
        yield from misfits(kind, {"gte": 1, "lt": 2}, "range")
    if param.kind == "str":
        meant = set(param.choices or ()) - {"true", "false", ""}
        if meant != literals(kind) - {""}:
            yield f"takes {sorted(meant)}, the package {sorted(literals(kind))}"
        if not meant and not literals(kind):
            yield from misfits(kind, "text", "str")


def test_checker_sees_what_is_wrong() -> None:
    """Each kind of fault, made by hand in an object that fits."""
    life = EveryLife()
    intent = life.call("POST", INTENT, amount=1000, currency="usd")
    assert list(misfits(stripe.PaymentIntent, intent, "intent")) == []
    faults: list[tuple[dict[str, Any], str]] = [
        ({**intent, "amount": "1000"}, "intent.amount: '1000' is no <class 'int'>"),
        ({**intent, "livemode": 0}, "intent.livemode: 0 is no <class 'bool'>"),
        ({**intent, "amount": None}, "intent.amount: None is no <class 'int'>"),
        ({**intent, "surprise": 1}, "intent.surprise: no field of PaymentIntent"),
        ({**intent, "status": "paid"}, "intent.status: 'paid' is none of"),
        ({**intent, "payment_method_types": [3]}, "intent.payment_method_types[0]: 3 is no <class 'str'>"),
        ({**intent, "metadata": {"a": 1}}, "intent.metadata.a: 1 is no <class 'str'>"),
        ({**intent, "amount_details": {"tip": {"amout": 1}}}, "intent.amount_details.tip.amout: no field of"),
        ({**intent, "latest_charge": {"object": "refund"}}, "intent.latest_charge: {'object': 'refund'} is no"),
        ({name: one for name, one in intent.items() if name != "created"}, "intent: lacks PaymentIntent.created"),
    ]
    for broken, expected in faults:
        (fault,) = misfits(stripe.PaymentIntent, broken, "intent")
        assert fault.startswith(expected)
    life.sandbox.store.close()
