"""The linters, run as tests, so that `make test` ends in one line that covers them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
SQUAWK = ["squawk", "--assume-in-transaction", "--pg-version", "15"]
# Counters and amounts (at most 99,999,999) fit into four bytes, years of payments into the bigint keys.
SQUAWK += ["--exclude", "prefer-bigint-over-int,prefer-bigint-over-smallint"]

pytestmark = [pytest.mark.lint, pytest.mark.timeout(300)]


def check(command: list[str]) -> None:
    environment = {**os.environ, "NO_COLOR": "1"}
    done = subprocess.run(
        [str(BIN / command[0]), *command[1:]], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        pytest.fail(f"{' '.join(command)}\n{done.stdout}{done.stderr}", pytrace=False)


def test_ruff_finds_no_fault() -> None:
    check(["ruff", "check", "--output-format", "concise", "."])


def test_ruff_would_format_nothing_differently() -> None:
    check(["ruff", "format", "--check", "."])


def test_mypy_finds_no_fault() -> None:
    check(["mypy", "payments", "stripe_sandbox"])


def test_rooms_import_only_what_their_contracts_allow() -> None:
    check(["lint-imports", "--no-logo"])


def test_sqlfluff_finds_no_fault() -> None:
    # Of the migrations only the newest: the others were linted when they were, and schema.sql says the same.
    newest = str(max((ROOT / "sql" / "migrations").glob("*.sql")))
    check(["sqlfluff", "lint", "--processes", "2", "--disable-progress-bar", "sql/schema.sql", "sql/queries", newest])


def test_squawk_finds_no_migration_that_blocks_a_running_system() -> None:
    first, *later = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "sql" / "migrations").glob("*.sql"))
    # The first one meets an empty database: there is nobody to block.
    check([*SQUAWK, "--exclude", "require-lock-timeout,require-statement-timeout", first])
    if later:
        check([*SQUAWK, *later])
