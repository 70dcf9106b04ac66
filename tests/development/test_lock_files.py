"""The lock files hold, by hash, what pyproject.toml asks for, and agree with each other."""

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
PIN = re.compile(r"^(?P<name>[A-Za-z0-9._-]+)(?:\[[^\]]*\])?==(?P<version>\S+)", re.MULTILINE)
NAME = re.compile(r"^[A-Za-z0-9._-]+")


def pins(name: str) -> dict[str, str]:
    return {found["name"]: found["version"] for found in PIN.finditer((ROOT / name).read_text())}


def wanted(*groups: list[object]) -> set[str]:
    names = {found.group() for group in groups for each in group if (found := NAME.match(str(each)))}
    return {name.lower().replace("_", "-") for name in names}


def test_lock_files_hold_every_dependency_of_the_project() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    groups = project["dependency-groups"]
    run = wanted(project["project"]["dependencies"], groups["build"])
    assert run <= set(pins("requirements.lock")), "run `make lock`"
    assert run | wanted([each for each in groups["dev"] if isinstance(each, str)]) <= set(pins("requirements-dev.lock"))


def test_lock_files_agree_on_every_version() -> None:
    assert pins("requirements.lock").items() <= pins("requirements-dev.lock").items()


def test_lock_files_pin_by_hash_and_name_no_address() -> None:
    for name in ("requirements.lock", "requirements-dev.lock"):
        content = (ROOT / name).read_text()
        entries = re.split(r"\n(?=\S)", content.strip())
        assert all("--hash=sha256:" in entry for entry in entries)
        assert "://" not in content
