"""`payments demo` says plainly what stands in its way, and what it found."""

import io
from argparse import Namespace
from pathlib import Path

import pytest
from rich.console import Console

from payments.commands import demo
from payments.demo.books import Books, Difference
from payments.demo.shop import Outcome
from payments.demo.stories import STORIES
from payments.development.dev_env import write_dev_env
from payments.errors import ConfigurationError
from payments.settings import Settings


def settings(data_dir: Path) -> Settings:
    return Settings.load({"PAYMENTS_DATA_DIR": str(data_dir)})


def verdict(outcomes: list[Outcome], books: Books) -> tuple[int, str]:
    console = Console(width=80, file=io.StringIO())
    with console.capture() as capture:
        code = demo._verdict(outcomes, books, console)
    return code, capture.get()


def test_demo_needs_a_running_up(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="No `payments up` is running") as raised:
        demo.run(Namespace(), settings(tmp_path))
    assert "payments up" in raised.value.advice


def test_demo_never_charges_at_stripe_itself(tmp_path: Path) -> None:
    address = {"API_URL": "http://127.0.0.1:1", "API_KEY": "pay_x", "STRIPE_API_BASE": "https://api.stripe.com"}
    write_dev_env(tmp_path, address)
    with pytest.raises(ConfigurationError, match=r"api\.stripe\.com; the demo needs the Stripe sandbox"):
        demo.run(Namespace(), settings(tmp_path))


def test_demo_stops_in_words_when_nobody_answers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_dev_env(
        tmp_path, {"API_URL": "http://127.0.0.1:1", "API_KEY": "pay_x", "STRIPE_API_BASE": "http://127.0.0.1:1"}
    )
    args = Namespace(checkouts=3, concurrency=2, deadline=0.1)
    assert demo.run(args, settings(tmp_path)) == 1
    assert "The demo stopped:" in capsys.readouterr().out


def test_verdict_names_every_point_of_trouble() -> None:
    told = [Outcome(STORIES[0], {"paymentId": "p1"}, []), Outcome(STORIES[1], {"paymentId": "p2"}, [])]
    assert verdict(told, Books({}, {}, [])) == (0, "Our books and Stripe's agree on all 2 payments.\n")
    code, text = verdict(told, Books({}, {}, [Difference("p1", "SUCCEEDED: we say [card] 1 charged, Stripe 2")]))
    assert code == 1
    assert "p1: SUCCEEDED: we say [card] 1 charged, Stripe 2" in text
    assert "DISAGREE on 1 points" in text
    told[1].astray = "is FAILED, not SUCCEEDED [/red] :bug:"
    code, text = verdict(told, Books({}, {}, []))
    assert code == 1
    assert "p2: charged, sent twice: is FAILED, not SUCCEEDED [/red] :bug:" in text
