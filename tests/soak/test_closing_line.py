"""The closing line counts what it names, and its command does the same again."""

import shlex

import pytest

from soak.__main__ import again, arguments, report
from soak.books import LOST, Fault

COUNTS = {"lives": 9, "SIGKILL api": 2, "SIGSTOP worker": 3, "SIGTERM relay": 1, "lock_rows": 4, "fault slow": 1}
COUNTS |= {"webhooks calm": 5, "webhooks mode": 2}


def test_closing_line_counts_kills_other_signals_and_faults_apart(capsys: pytest.CaptureFixture[str]) -> None:
    args = arguments().parse_args([])
    assert report(COUNTS, [], [], args) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == (
        "AGREE: 9 payments, 2 kills, 4 other signals, 7 faults; 0 lost, 0 doubled, 0 unbalanced, 0 other problems"
    )


def test_closing_line_says_how_to_do_it_again(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--minutes", "0.5", "--seed", "7", "--customers", "3", "--think", "0.25", "--gap", "2.0", "9.0"]
    words += ["--only", "stripe,webhooks"]
    args = arguments().parse_args(words)
    assert report(COUNTS, [], [Fault(LOST, "a refund")], args) == 1
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.endswith(f"1 lost, 0 doubled, 0 unbalanced, 0 other problems; again: {again(args)}")
    assert again(args) == shlex.join(["python", "-m", "soak", *words])
    assert arguments().parse_args(shlex.split(again(args))[3:]) == args


def test_command_leaves_out_what_goes_without_saying() -> None:
    assert again(arguments().parse_args(["--only", "", "--seed", "1"])) == "python -m soak --only ''"
