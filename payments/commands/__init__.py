"""The command line: `payments COMMAND`; each command is a module here, listed once its module exists.

A command's module has `HELP` (one line), `add_arguments(parser)` and `run(args, settings) -> exit code`. It is imported
only when called. An `OperatingError` becomes `error: …` with advice and its exit code, never a stack trace.
"""

import argparse
import ast
import difflib
import importlib
import importlib.metadata
import importlib.util
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from payments.errors import EXIT_INTERRUPTED, EXIT_USAGE, OperatingError
from payments.logs import configure_logging
from payments.settings import Settings

GROUPS = {
    "Try it": ("up", "demo"),
    "Processes (the Procfile's; each may run in many copies)": ("api", "relay", "worker"),
    "Set up": ("migrate", "keys", "consumers"),
    "Look and mend": ("doctor", "outbox", "inbox", "dead-letters", "reconcile"),
}
EXIT_BROKEN_PIPE = 141  # 128 + SIGPIPE, what a shell reports for a reader such as `head` that left early
USAGE = "usage: payments COMMAND [options]      payments COMMAND --help      payments --version"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; `payments/errors.py` lists them."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or words[0] in {"-h", "--help", "help"}:
        print(overview())
        return 0 if words else EXIT_USAGE
    if words[0] in {"-V", "--version"}:
        print(f"payments {importlib.metadata.version('payment-processing-system')}")
        return 0
    garbled = [word for word in words if not _is_text(word)]
    if garbled:
        print(f"error: {garbled[0]!r} is not UTF-8 text.\nType it anew, in a terminal of UTF-8.", file=sys.stderr)
        return EXIT_USAGE
    if words[0] not in available():
        near = difflib.get_close_matches(words[0], available(), n=1)
        hint = f"Did you mean `payments {near[0]}`?" if near else "`payments --help` lists the commands."
        print(f"error: there is no command {words[0]!r}.\n{hint}", file=sys.stderr)
        return EXIT_USAGE
    return _run(words[0], words[1:])


def available() -> list[str]:
    """Return the commands whose modules exist, in the order of the overview."""
    return [name for names in GROUPS.values() for name in names if _source(name) is not None]


def overview() -> str:
    """Return the text of `payments --help`."""
    lines = [USAGE]
    for title, names in GROUPS.items():
        there = [(name, source) for name in names if (source := _source(name)) is not None]
        if there:
            lines += ["", f"{title}:", *(f"  {name:<13} {_help(source)}" for name, source in there)]
    return "\n".join([*lines, "", "docs/settings.md describes the settings, all read from the environment."])


def _is_text(word: str) -> bool:
    """Bytes that are no text arrive as lone surrogates, which no database takes and no terminal shows."""
    try:
        word.encode()
    except UnicodeEncodeError:
        return False
    return True


def _run(name: str, words: list[str]) -> int:
    module = importlib.import_module(_module(name))
    parser = argparse.ArgumentParser(prog=f"payments {name}", description=module.HELP)
    module.add_arguments(parser)
    args = parser.parse_args(words)
    try:
        settings = Settings.load()
        configure_logging(settings, name)
        code: int = module.run(args, settings)
        sys.stdout.flush()
    except OperatingError as error:
        print(f"error: {error.message}\n{error.advice}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else the interpreter's last flush complains
        return EXIT_BROKEN_PIPE
    return code


def _module(name: str) -> str:
    return f"{__name__}.{name.replace('-', '_')}"


def _source(name: str) -> Path | None:
    spec = importlib.util.find_spec(_module(name))
    return Path(spec.origin) if spec is not None and spec.origin is not None else None


def _help(source: Path) -> str:
    """Return a command's `HELP` without importing it: the overview must not wait for litestar and stripe."""
    for node in ast.parse(source.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "HELP":
            return str(ast.literal_eval(node.value))
    return ""
