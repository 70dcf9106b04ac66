"""Which page of Stripe's documents the behaviour that a test states, and the table of it all in docs/stripe-sandbox.md.

`python -m tests.sandbox.documented` writes the table anew.
"""

import inspect
import re
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest

HERE = Path(__file__).parent
PAGE = HERE.parents[1] / "docs" / "stripe-sandbox.md"
TABLE = re.compile(r"(?<=<!-- written by tests/sandbox/documented.py -->\n).*?(?=<!-- end -->)", re.DOTALL)
SITE = "https://docs.stripe.com/"
# Modules whose tests are about the sandbox itself: its process, its steering, and whether it is like Stripe at all.
OWN = ("documented", "forms", "money", "process", "shapes", "steering", "stripe_types")
# What a test asks for that only the sandbox has.
SANDBOX_ONLY = {"steer", "receiver", "state"}


def documented(*pages: str, lines: Collection[int] = ()) -> pytest.MarkDecorator:
    """Marks a test of the conformance suite: `pages` of Stripe's state the behaviour; scenario `lines` lean on it."""
    return pytest.mark.documented(pages, tuple(lines))


@dataclass(frozen=True)
class Behaviour:
    """Something Stripe does, as a test states it."""

    module: str
    test: str
    says: str
    pages: tuple[str, ...]
    lines: tuple[int, ...]
    on_stripe: bool


def modules() -> Iterator[ModuleType]:
    """The modules of the conformance suite."""
    for path in sorted(HERE.glob("test_*.py")):
        if path.stem.removeprefix("test_") not in OWN:
            yield import_module(f"tests.sandbox.{path.stem}")


def stated_in(module: ModuleType) -> Iterator[tuple[str, Callable[..., object]]]:
    """The tests of a module, by name."""
    return ((name, one) for name, one in vars(module).items() if name.startswith("test_"))


def asked_for(test: Callable[..., object]) -> set[str]:
    """The fixtures and parameters of a test."""
    return set(inspect.signature(test).parameters)


def behaviours() -> list[Behaviour]:
    """Every behaviour that the suite states with a page."""
    return [
        Behaviour(
            module=module.__name__.rpartition(".")[2],
            test=name,
            says=_prose(name, test),
            pages=mark.args[0],
            lines=mark.args[1],
            on_stripe=not SANDBOX_ONLY & asked_for(test),
        )
        for module in modules()
        for name, test in stated_in(module)
        for mark in getattr(test, "pytestmark", [])
        if mark.name == "documented"
    ]


def _prose(name: str, test: object) -> str:
    said = name.removeprefix("test_").replace("_", " ").capitalize()
    more = " ".join((getattr(test, "__doc__", None) or "").split())
    return f"{said}. {more}" if more else f"{said}."


def table() -> str:
    """The table as it must stand on the page."""
    lines: list[str] = []
    module = ""
    for one in behaviours():
        if one.module != module:
            module = one.module
            lines += ["", f"`tests/sandbox/{module}.py`", ""]
            lines += ["| what Stripe does (the name of its test) | page | scenarios | on Stripe |", "|---|---|---|---|"]
        pages = ", ".join(f"[{_short(page)}]({page})" for page in one.pages)
        scenarios = ", ".join(str(number) for number in one.lines)
        lines.append(f"| {one.says.replace('|', '/')} | {pages} | {scenarios} | {'yes' if one.on_stripe else 'no'} |")
    return "\n".join([*lines, "", ""])


def _short(page: str) -> str:
    path = page.removeprefix(SITE).partition("#")[0]
    return path.rpartition("/")[2] if path.startswith("changelog/") else path


def main() -> None:
    """Write the table anew."""
    text = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(TABLE.sub(lambda _found: table(), text), encoding="utf-8")


if __name__ == "__main__":
    main()
