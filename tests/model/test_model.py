"""The model holds, and finds every fault that is put into it; and it still speaks of the code that is there."""

import re
from pathlib import Path

import pytest

from model.checks import BROKEN, CHECKS, RECORDED, SOUND, Check
from model.spin import ENDLESS, find_missing, tell_story, verify

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "model.md").read_text()
FAULT = re.compile(r"^#define ([A-Z_]+) +\d+  /\* ", re.MULTILINE)
# In the page: `path/to/file.py`: `name`, `Class.name`. Every name must stand in that file.
PLACE = re.compile(r"`([a-z_/0-9]+\.(?:py|sql))`: ((?:`[\w.]+`(?:, | and )?)+)")

QUICK = [check for check in CHECKS if not check.is_deep]
missing = find_missing()
# A search takes some ten seconds of an idle core; these machines are seldom idle.
needs_spin = [pytest.mark.skipif(missing is not None, reason=f"{missing}"), pytest.mark.timeout(600)]


def names(checks: list[Check]) -> list[str]:
    return [check.name for check in checks]


def listed(model: str) -> set[str]:
    text = (ROOT / "model" / f"{model}.pml").read_text()
    faults, _, _ = text.partition("#ifndef BROKEN")
    return set(FAULT.findall(faults))


@pytest.mark.parametrize("check", [pytest.param(check, id=check.name, marks=needs_spin) for check in QUICK])
def test_model_comes_to_what_it_must(check: Check, tmp_path: Path) -> None:
    result = verify(check, tmp_path)
    assert check.is_met_by(result.broken), f"{check.name}: {result}"


@pytest.mark.parametrize("check", [pytest.param(check, id=check.name, marks=needs_spin) for check in BROKEN[:4]])
def test_story_ends_in_the_broken_promise(check: Check, tmp_path: Path) -> None:
    told = tell_story(check, tmp_path)
    assert len(told) > 1
    assert check.promise is not None
    assert told[-1].startswith(f"broken: {check.promise}")


def test_check_is_not_met_by_another_fault() -> None:
    sound, broken = SOUND[0], BROKEN[0]
    assert sound.is_met_by(None)
    assert not sound.is_met_by(ENDLESS)
    assert broken.is_met_by(broken.promise)
    assert not broken.is_met_by(None)
    assert not broken.is_met_by(RECORDED)


@pytest.mark.parametrize("model", ["delivery", "charging"])
def test_every_fault_of_a_model_is_checked_and_explained(model: str) -> None:
    faults = listed(model)
    assert len(faults) >= 5
    assert faults == {check.broken for check in CHECKS if check.model == model and check.broken}
    assert {fault for fault in faults if f"`{fault}`" not in PAGE} == set()


def test_checks_have_names_of_their_own() -> None:
    assert len(set(names(CHECKS))) == len(CHECKS)


def test_page_names_code_that_is_there() -> None:
    places = [(path, name) for path, quoted in PLACE.findall(PAGE) for name in re.findall(r"`([\w.]+)`", quoted)]
    assert len(places) > 20
    lost = [
        f"{path}: {name}"
        for path, name in places
        if not (ROOT / path).is_file() or not re.search(rf"\b{name.rpartition('.')[2]}\b", (ROOT / path).read_text())
    ]
    assert lost == []
