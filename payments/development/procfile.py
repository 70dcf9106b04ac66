"""The Procfile: which processes make up the system, one `name: command` a line."""

import re
import shlex
from pathlib import Path
from typing import NamedTuple

from payments.errors import ConfigurationError

_LINE = re.compile(r"(?P<name>[a-z][a-z0-9_-]*)\s*:\s*(?P<command>\S.*)")


class ProcfileEntry(NamedTuple):
    """One process: its name and its command, run without a shell."""

    name: str
    command: tuple[str, ...]


def default_procfile() -> Path:
    """Return the Procfile of this checkout, wherever the command was called."""
    return Path(__file__).parents[2] / "Procfile"


def read_procfile(path: Path) -> list[ProcfileEntry]:
    """Read every entry; raise `ConfigurationError` for an unreadable file, a malformed line or a name used twice."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise ConfigurationError(
            (f"The Procfile {path} cannot be read ({why}).",), advice="Name one with --procfile."
        ) from error
    entries: list[ProcfileEntry] = []
    for number, line in enumerate(lines, start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        found = _LINE.fullmatch(line.strip())
        command = () if found is None else _split(found["command"])
        if found is None or not command or found["name"] in {entry.name for entry in entries}:
            raise ConfigurationError(
                (f"{path}, line {number}: expected `name: command`, each name once, each quote closed, got {line!r}.",),
                advice="For example: worker: payments worker",
            )
        entries.append(ProcfileEntry(found["name"], command))
    return entries


def _split(command: str) -> tuple[str, ...]:
    """Its words; none when a quote is not closed."""
    try:
        return tuple(shlex.split(command))
    except ValueError:
        return ()
