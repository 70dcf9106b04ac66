"""The command line: what it lists, how it refuses, and what it exits with."""

import argparse
import os
import subprocess
import sys
from pathlib import Path

import pytest

from payments import commands
from payments.commands import GROUPS, available, main, overview
from payments.development.procfile import default_procfile, read_procfile
from payments.errors import EXIT_USAGE, ConfigurationError, DatabaseUnreachable
from payments.settings import Settings


def test_overview_lists_every_command_that_exists_with_its_help() -> None:
    text = overview()
    for name in available():
        line = next(line for line in text.splitlines() if line.startswith(f"  {name} "))
        assert len(line.split(maxsplit=1)) == 2, f"{name} has no HELP"


def test_every_command_module_is_in_a_group() -> None:
    known = {name.replace("-", "_") for names in GROUPS.values() for name in names}
    there = {path.stem for path in Path(commands.__file__).parent.glob("*.py")} - {"__init__"}
    assert there <= known


@pytest.mark.parametrize("name", available())
def test_command_explains_itself(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([name, "--help"])
    assert stopped.value.code == 0
    assert f"usage: payments {name}" in capsys.readouterr().out


def test_main_without_a_command_shows_the_overview_as_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == EXIT_USAGE
    assert "payments COMMAND" in capsys.readouterr().out
    assert main(["--help"]) == 0


def test_main_suggests_the_command_that_was_meant(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["migarte"]) == EXIT_USAGE
    assert "Did you mean `payments migrate`?" in capsys.readouterr().err


def test_main_tells_its_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("payments 0.")


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> list[Exception]:
    """A list whose exception the command `migrate` will raise."""
    raised: list[Exception] = []

    def run(_args: argparse.Namespace, _settings: Settings) -> int:
        raise raised[0]

    monkeypatch.setattr("payments.commands.migrate.run", run)
    monkeypatch.setattr("payments.commands.configure_logging", lambda *_: None)
    monkeypatch.setattr(Settings, "load", lambda: None)
    return raised


def test_main_turns_an_operating_error_into_words_and_its_exit_code(
    broken: list[Exception], capsys: pytest.CaptureFixture[str]
) -> None:
    broken.append(DatabaseUnreachable("PostgreSQL does not answer.", advice="Start it."))
    assert main(["migrate"]) == DatabaseUnreachable.exit_code
    assert capsys.readouterr().err == "error: PostgreSQL does not answer.\nStart it.\n"


def test_main_lets_a_programmer_error_through(broken: list[Exception]) -> None:
    broken.append(AssertionError("a bug"))
    with pytest.raises(AssertionError):
        main(["migrate"])


def test_module_lists_bad_settings_without_a_stack_trace() -> None:
    finished = subprocess.run(
        [sys.executable, "-m", "payments", "migrate"],
        env={**os.environ, "PORT": "none", "PAYMENTS_LOG_LEVEL": "loud"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == ConfigurationError.exit_code
    assert finished.stderr.startswith("error: 2 setting(s) cannot be used:")
    assert "Traceback" not in finished.stderr


def test_procfile_of_the_project_names_the_three_processes() -> None:
    entries = read_procfile(default_procfile())
    assert {entry.name: entry.command for entry in entries} == {
        name: ("payments", name) for name in ("api", "relay", "worker")
    }


@pytest.mark.parametrize("words", [["inbox", "show", "\udcff"], ["dead-letters", "discard", "1", "--reason", "\udcff"]])
def test_main_takes_bytes_that_are_no_text_for_wrong_usage(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """A terminal of another encoding, say: Python hands them on as lone surrogates."""
    assert main(words) == EXIT_USAGE
    assert capsys.readouterr().err.startswith("error: '\\udcff' is not UTF-8 text.")


@pytest.mark.parametrize("command", [["migrate", "--since"], ["consumers", "add", "fraud", "--from"]])
@pytest.mark.parametrize("moment", ["0001-01-01T00:00:00+05:00", "9999-12-31T23:59:59-05:00", "2026-01-31T12:00:00"])
def test_command_refuses_a_time_that_utc_does_not_know(
    command: list[str], moment: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([*command, moment])
    assert stopped.value.code == EXIT_USAGE
    assert "a time with its zone" in capsys.readouterr().err


def test_procfile_that_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "Procfile").write_bytes(b"api: \xff\n")
    with pytest.raises(ConfigurationError, match="not UTF-8"):
        read_procfile(tmp_path / "Procfile")


@pytest.mark.parametrize("line", ["api", "Api: x", "api:", "api: x\napi: y", "api: 'x"])
def test_procfile_refuses_a_malformed_line(tmp_path: Path, line: str) -> None:
    (tmp_path / "Procfile").write_text(f"# processes\n\n{line}\n")
    with pytest.raises(ConfigurationError, match="line"):
        read_procfile(tmp_path / "Procfile")
