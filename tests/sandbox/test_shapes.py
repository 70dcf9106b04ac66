"""Objects have at least the fields, with the types, of Stripe's published fixtures, at every depth.

`STRIPE_FIXTURES` names a JSON file cut from github.com/stripe/openapi (fixtures3.json), unless one stands beside the
checkout; without it these are skipped, for the file is not ours to ship.
"""

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.sandbox.every_life import EveryLife
from tests.sandbox.stripe_names import CLASSES
from tests.sandbox.stripe_types import misfits

PATH = Path(os.environ.get("STRIPE_FIXTURES") or Path(__file__).parents[3] / "shared" / "stripe" / "fixtures.json")
# What an example shows and not every object has, with the reason; where it is there, it must be alike.
ABSENT = {
    "charge.payment_method_details.card": "a bank debit has none",
    "charge.refunds": "only when expanded",
    "payment_method.card": "a bank account has none",
    "payment_method.metadata.order_id": "the merchant's own",
}
# Where the example names an object of another kind than ours do: a charge of before PaymentMethods, one line of many.
OF_ANOTHER_KIND = ("event.data.object", "balance_transaction.source", "charge.payment_method")
ID = re.compile(r"([a-z]+)_\w+")


@pytest.fixture(scope="module")
def fixtures() -> Any:
    if not PATH.exists():
        pytest.skip("STRIPE_FIXTURES names no file")
    return json.loads(PATH.read_text())


@pytest.fixture(scope="module")
def objects(fixtures: Any) -> Iterator[dict[str, list[Any]]]:
    """Every object of a sandbox that went through everything, by kind."""
    life = EveryLife()
    life.live()
    found: dict[str, list[Any]] = {kind: [] for kind in CLASSES}
    for one in life.objects():
        found[one["object"]].append(one)
    yield found
    life.sandbox.store.close()


def differences(theirs: Any, ours: Any, where: str) -> Iterator[str]:
    """What the example has and ours lacks, or has of another type; null may stand for anything."""
    if where in OF_ANOTHER_KIND or theirs is None or ours is None:
        return
    if type(ours) is not type(theirs):
        yield f"{where}: {ours!r} instead of something like {theirs!r}"
    elif isinstance(theirs, dict):
        for name, example in theirs.items():
            if name in ours:
                yield from differences(example, ours[name], f"{where}.{name}")
            elif f"{where}.{name}" not in ABSENT:
                yield f"{where}.{name}: missing"
    elif isinstance(theirs, list) and theirs:
        for one in ours:
            yield from differences(theirs[0], one, f"{where}[]")


def test_every_object_has_the_published_fields_at_every_depth(objects: dict[str, list[Any]], fixtures: Any) -> None:
    compared = [kind for kind in objects if kind in fixtures]
    assert len(compared) == 8
    found = {
        difference
        for kind in compared
        for one in objects[kind]
        for difference in differences(fixtures[kind], one, kind)
    }
    assert sorted(found)[:10] == []


def test_ids_have_the_published_form(objects: dict[str, list[Any]], fixtures: Any) -> None:
    """Their prefix tells what they name, wherever they stand."""
    for kind, found in objects.items():
        for name, example in fixtures.get(kind, {}).items():
            shown = {ID.fullmatch(one[name]) for one in found if isinstance(one.get(name), str)}
            prefix = ID.fullmatch(example) if isinstance(example, str) and re.search(r"\d", example) else None
            if prefix and f"{kind}.{name}" not in OF_ANOTHER_KIND:
                assert {match and match[1] for match in shown} == {prefix[1]}, f"{kind}.{name}"


def test_fixtures_fit_the_types_of_the_package(fixtures: Any) -> None:
    """The two sources agree with each other, and so the check by types takes what Stripe really sends.

    The fixtures are of August 2026; the package knows a field more of a dispute's evidence.
    """
    newer = {"dispute.evidence_details: lacks Dispute.EvidenceDetails.submission_method"}
    found = {fault for kind in CLASSES if kind in fixtures for fault in misfits(CLASSES[kind], fixtures[kind], kind)}
    assert found == newer


def test_comparison_sees_what_is_missing_deep_inside(objects: dict[str, list[Any]], fixtures: Any) -> None:
    charge = next(one for one in objects["charge"] if "card" in one["payment_method_details"])
    assert list(differences(fixtures["charge"], charge, "charge")) == []
    card = dict(charge["payment_method_details"]["card"], checks={"cvc_check": 1})
    del card["last4"]
    broken = {**charge, "payment_method_details": {"type": "card", "card": card}}
    where = "charge.payment_method_details.card"
    assert sorted(differences(fixtures["charge"], broken, "charge")) == [
        f"{where}.checks.address_line1_check: missing",
        f"{where}.checks.address_postal_code_check: missing",
        f"{where}.checks.cvc_check: 1 instead of something like 'pass'",
        f"{where}.last4: missing",
    ]
