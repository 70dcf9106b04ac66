"""The files of an embedded PostgreSQL: made once by initdb, whole or not at all, and configured anew at every start."""

import os
import secrets
import shutil
import subprocess
from pathlib import Path

from payments.development.atomic_file import write_atomically
from payments.development.system_user import SystemUser
from payments.errors import EmbeddedPostgresFailed

SUPERUSER = "postgres"
HOST = "127.0.0.1"
INITDB_TIMEOUT_S = 120
BARE_ENVIRONMENT = {"PATH": os.defpath, "LC_ALL": "C"}  # PGDATA, PGPORT or a locale of the caller must not steer it

ACCESS_RULES = f"""\
# TYPE  DATABASE     USER  ADDRESS          METHOD
host    all          all   {HOST}/32     scram-sha-256
host    replication  all   {HOST}/32     scram-sha-256
"""
CONFIGURATION = """\
max_connections = 200
timezone = 'UTC'
log_timezone = 'UTC'
password_encryption = 'scram-sha-256'
log_checkpoints = off
log_line_prefix = '%m [%p] %q%u@%d '
log_min_error_statement = panic         # statements may hold customers' data
log_parameter_max_length_on_error = 0
log_error_verbosity = terse             # DETAIL quotes whole rows
"""
# For tests: they kill processes, never the power, so the page cache keeps what was committed.
CONFIGURATION_FAST = """\
fsync = off
full_page_writes = off
shared_buffers = 64MB
max_wal_size = 256MB
max_prepared_transactions = 8            # a prepared transaction is the sturdiest way to hold one open
dynamic_shared_memory_type = mmap        # files that go with the data; a killed server leaves POSIX segments
"""


def prepare_cluster(home: Path, bin_dir: Path, user: SystemUser | None, *, fast: bool) -> None:
    """Make `home/data` a configured cluster of the superuser, owned by `user`; keep one that is there.

    Raises `EmbeddedPostgresFailed` when initdb fails or the data belong to another major version.
    """
    data = home / "data"
    if not (data / "PG_VERSION").exists():
        _initialise(home, bin_dir, user, fast=fast)
    _refuse_other_version(data, bin_dir)
    write_atomically(data / "payments.conf", CONFIGURATION + (CONFIGURATION_FAST if fast else ""), mode=0o644)


def _initialise(home: Path, bin_dir: Path, user: SystemUser | None, *, fast: bool) -> None:
    password = secrets.token_urlsafe(24)
    write_atomically(home / "superuser.password", password + "\n", mode=0o600)
    unfinished = home / "data.unfinished"  # renamed when whole: a killed initdb leaves no half a cluster
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(mode=0o700)
    copy = home / "initdb.password"  # initdb, running as the ordinary user, must read it
    write_atomically(copy, password, mode=0o600)
    try:
        if user is not None:
            os.chown(unfinished, user.uid, user.gid)
            os.chown(copy, user.uid, user.gid)
        _run_initdb(unfinished, copy, bin_dir, user, fast=fast)
    finally:
        copy.unlink()
    (unfinished / "pg_hba.conf").write_text(ACCESS_RULES)
    with (unfinished / "postgresql.conf").open("a") as file:
        file.write("\ninclude 'payments.conf'\n")
    unfinished.rename(home / "data")


def _run_initdb(target: Path, password_file: Path, bin_dir: Path, user: SystemUser | None, *, fast: bool) -> None:
    command = [str(bin_dir / "initdb"), "-D", str(target), "-U", SUPERUSER, f"--pwfile={password_file}"]
    command += ["--auth=scram-sha-256", "--encoding=UTF8", "--locale=C", "--data-checksums"]
    command += ["--no-sync"] if fast else []
    try:
        subprocess.run(
            command,
            check=True,
            capture_output=True,
            timeout=INITDB_TIMEOUT_S,
            cwd="/",
            env=BARE_ENVIRONMENT,
            user=user and user.uid,
            group=user and user.gid,
            extra_groups=user and [],
        )
    except (OSError, subprocess.SubprocessError) as error:
        said = getattr(error, "stderr", None) or b""
        raise EmbeddedPostgresFailed(
            f"initdb could not create the embedded PostgreSQL: {said.decode(errors='replace').strip() or error}",
            advice="Check that PAYMENTS_DATA_DIR is on a writable disk with 100 MB to spare, or set DATABASE_URL.",
        ) from error


def _refuse_other_version(data: Path, bin_dir: Path) -> None:
    kept = (data / "PG_VERSION").read_text().strip()
    said = subprocess.run([str(bin_dir / "postgres"), "--version"], check=True, capture_output=True, text=True)
    ours = said.stdout.split()[2]
    if ours.split(".")[0] != kept:
        raise EmbeddedPostgresFailed(
            f"The data in {data} was written by PostgreSQL {kept}; this program brings {ours}.",
            advice=f"Dump it with the release that wrote it, or delete {data.parent} to begin anew.",
        )
