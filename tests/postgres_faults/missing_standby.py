"""Commits that wait for a synchronous standby which is not there, and the end of such waits."""

import contextlib
from collections.abc import Iterator

from tests.conftest import wait_until
from tests.development.databases import Database


@contextlib.contextmanager
def missing_standby(database: Database) -> Iterator[None]:
    """Commits of this database wait for a standby that does not exist, as after the loss of one."""
    with database.connect(dbname="postgres") as conn:
        conn.execute(f'alter database "{database.name}" set synchronous_commit = on')
        conn.execute("alter system set synchronous_standby_names = 'nobody'")
        conn.execute("select pg_reload_conf()")
    try:
        wait_until(lambda: _standby_names(database) == "nobody")
        yield
    finally:
        with database.connect(dbname="postgres") as conn:
            conn.execute("set synchronous_commit = off")
            conn.execute("alter system reset synchronous_standby_names")
            conn.execute("select pg_reload_conf()")
        wait_until(lambda: not _standby_names(database))


def _standby_names(database: Database) -> str:
    with database.connect() as conn:
        row = conn.execute("show synchronous_standby_names").fetchone()
    assert row is not None
    return str(row[0])


def cancel_waits(database: Database, role: str) -> int:
    """Cancel each commit of a role that waits for its standby; how many there were."""
    with database.connect() as conn:
        return conn.execute(
            "select pg_cancel_backend(pid) from pg_stat_activity where wait_event = 'SyncRep' and usename = %s", (role,)
        ).rowcount
