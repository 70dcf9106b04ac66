"""House rules that no linter knows: small modules and functions, telling names, one place for SQL and for settings."""

import ast
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MODULES = sorted(path for room in ("payments", "stripe_sandbox") for path in (ROOT / room).rglob("*.py"))
MODULE_LINES_MAX = 400  # aim for 300
FUNCTION_LINES_MAX = 60  # aim for 40
VAGUE_NAMES = {"utils", "util", "helpers", "helper", "common", "manager", "managers", "base", "misc", "shared"}
SQL = re.compile(
    r"\bselect\b.+\bfrom\b|\binsert\s+into\b|\bupdate\s+\S+\s+set\b|\bdelete\s+from\b", re.IGNORECASE | re.DOTALL
)
# Written in pieces, or this file would name them itself.
FOREIGN = re.compile(
    "|".join(
        [
            "py" + r"pi\.org",
            "python" + r"hosted\.org",
            "registry" + r"\.npmjs",
            "deb" + r"\.debian\.org",
            r"(?<![\w.$}/-])/ro" + r"ot/",
            r"(?<![\w.$}/-])/wo" + r"rk/",
            r"(?<![\w.$}/-])/ho" + r"me/\w",
            r"(?<![\w.$}/-])/Us" + r"ers/\w",
        ]
    )
)

Function = ast.FunctionDef | ast.AsyncFunctionDef


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def functions(tree: ast.AST) -> Iterator[Function]:
    return (node for node in ast.walk(tree) if isinstance(node, Function))


def texts(tree: ast.AST) -> Iterator[str]:
    """Every string in the code that is no docstring; the constant parts of f-strings included."""
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    docstrings = {
        id(node.body[0].value) for node in ast.walk(tree) if isinstance(node, documented) and is_text(node.body)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            yield node.value


def is_text(body: list[ast.stmt]) -> bool:
    return bool(body) and isinstance(body[0], ast.Expr) and isinstance(body[0].value, ast.Constant)


@pytest.fixture(scope="module", params=MODULES, ids=name_of)
def path(request: pytest.FixtureRequest) -> Path:
    chosen: Path = request.param
    return chosen


def test_module_is_small_and_named_for_what_it_holds(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= MODULE_LINES_MAX
    assert path.stem not in VAGUE_NAMES


def test_module_has_a_docstring_and_short_functions(path: Path) -> None:
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree), "a module says in a sentence what it promises"
    long = {f.name: f.end_lineno - f.lineno + 1 for f in functions(tree) if f.end_lineno is not None}
    assert {name: lines for name, lines in long.items() if lines > FUNCTION_LINES_MAX} == {}


def test_module_holds_no_sql(path: Path) -> None:
    if path.is_relative_to(ROOT / "stripe_sandbox"):
        return  # it keeps its state in SQLite, a matter of its own
    found = [text for text in texts(ast.parse(path.read_text())) if SQL.search(text)]
    assert found == [], "SQL lives in sql/queries, where it is prepared against the schema by a test"


def test_module_reads_the_environment_only_in_settings(path: Path) -> None:
    if path.name == "settings.py":
        return
    read = [
        node.lineno
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and ast.unparse(node) in {"os.environ", "os.environb", "os.getenv"}
    ]
    assert read == []


def test_module_borrows_connections_only_where_doubtful_commits_are_noticed(path: Path) -> None:
    if path == ROOT / "payments" / "database" / "connections.py":
        return
    lent = [
        node.lineno
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("pool.connection")
    ]
    assert lent == [], "`transaction` and `statements` lend them"


def test_tracked_files_name_no_registry_and_no_path_of_one_machine() -> None:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=False)
    if listed.returncode != 0:
        pytest.skip("not a git checkout")
    found = []
    for name in filter(None, listed.stdout.decode().split("\0")):
        file = ROOT / name
        content = file.read_bytes() if file.is_file() else b""
        if b"\0" in content:
            continue
        lines = enumerate(content.decode(errors="replace").splitlines(), start=1)
        found += [f"{name}:{number}: {match.group()}" for number, line in lines if (match := FOREIGN.search(line))]
    assert found == []
