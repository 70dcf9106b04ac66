"""docs/scenarios.md names every scenario test, and only tests that exist."""

import ast
import re
from collections import Counter
from pathlib import Path

HERE = Path(__file__).parent
ROOMS = (HERE, *(HERE.parent / room for room in ("crashes", "postgres_faults", "restore")))
PAGE = (HERE.parents[1] / "docs" / "scenarios.md").read_text()
ROW = re.compile(r"^\| (\d+) \|.*\| (`[^|]+`) \|$", re.MULTILINE)
LAST = 60


def scenario_tests() -> set[str]:
    """Every test named after a line, as the page writes it: those of another room with the room's name."""
    return {
        f"{path.name if room == HERE else path.relative_to(HERE.parent)}::{node.name}"
        for room in ROOMS
        for path in room.glob("test_*.py")
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and re.match(r"test_\d\d_", node.name)
    }


def test_page_names_each_test_once_in_its_own_line() -> None:
    named = [(int(line), test) for line, tests in ROW.findall(PAGE) for test in re.findall(r"`([^`]+)`", tests)]
    assert Counter(test for _, test in named) == Counter(scenario_tests())
    assert [test for line, test in named if f"::test_{line:02}_" not in test] == []


def test_page_has_every_line_in_order() -> None:
    lines = [int(line) for line, _ in ROW.findall(PAGE)]
    assert lines == list(range(1, LAST + 1))
