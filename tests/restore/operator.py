"""The commands of docs/operations.md, word by word as an operator types them."""

import os
import re
import subprocess
import sys
from pathlib import Path

from tests.restore.clusters import PROJECT

PAGE = PROJECT / "docs" / "operations.md"


def commands(name: str) -> str:
    """The block of the page that stands under this name."""
    found = re.search(rf"<!-- run by tests/restore: {name} -->\n```sh\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert found is not None, name
    return found[1]


def carry_out(name: str, bin_dir: Path, directory: Path, **variables: str) -> str:
    """Runs the block in a directory that has what the project's has; what it printed."""
    for entry in ("sql", ".venv"):
        if not (directory / entry).exists():
            (directory / entry).symlink_to(Path(sys.prefix) if entry == ".venv" else PROJECT / entry)
    done = subprocess.run(
        ["bash", "-euc", commands(name)],
        env={**os.environ, "PATH": f"{bin_dir}{os.pathsep}{os.environ['PATH']}", **variables},
        cwd=directory,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
