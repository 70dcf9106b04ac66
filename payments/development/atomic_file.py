"""Files that a reader finds whole or not at all."""

import os
from pathlib import Path


def write_atomically(path: Path, content: str, *, mode: int) -> None:
    """Replace `path` by `content` with exactly the permissions `mode`, from its first instant on."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.unlink(missing_ok=True)
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        os.fchmod(descriptor, mode)  # the umask may have taken bits away
        file.write(content)
    draft.replace(path)
