"""pgbouncer in transaction mode, as Debian packages it: each session of the server's is lent for one transaction."""

import shutil
import socket
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import psycopg
import pytest

from payments.development.system_user import ordinary_user
from tests.conftest import wait_until
from tests.postgres_faults.servers import DATABASE, READY_S, Server
from tests.system.running import free_port

POOL_SIZE = 4  # for each login: fewer than any process would take
# No `ignore_startup_parameters`: nothing that we say at the beginning needs to be ignored.
CONFIGURATION = """
[databases]
{database} = host=127.0.0.1 port={server_port}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = scram-sha-256
auth_file = {users}
pool_mode = transaction
default_pool_size = {pool_size}
"""


class Pooler:
    """One that runs, and the passwords of those who may log in."""

    def __init__(self, port: int, passwords: Mapping[str, str]) -> None:
        self.port = port
        self._passwords = passwords

    def dsn(self, login: str) -> str:
        return f"postgresql://{login}:{self._passwords[login]}@127.0.0.1:{self.port}/{DATABASE}"


@contextmanager
def pooler(server: Server, passwords: Mapping[str, str]) -> Iterator[Pooler]:
    """A pooler before the server, for these logins; skips the test where pgbouncer is not installed."""
    program = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin")
    if program is None:
        pytest.skip("pgbouncer is not installed (on Debian: apt-get install pgbouncer)")
    user = ordinary_user(server.postgres.data)  # it refuses to run as root
    home = server.home.parent / "pooler"
    home.mkdir()
    one = Pooler(free_port(), passwords)
    users = home / "users"
    users.write_text("".join(f'"{login}" "{password}"\n' for login, password in passwords.items()))
    configuration = home / "pgbouncer.ini"
    values = {"database": DATABASE, "server_port": server.postgres.port, "port": one.port, "pool_size": POOL_SIZE}
    configuration.write_text(CONFIGURATION.format(users=users, **values))
    with (home / "log").open("wb") as log:
        process = subprocess.Popen(
            [program, configuration],
            stdout=log,
            stderr=log,
            user=user and user.uid,
            group=user and user.gid,
            extra_groups=user and [],
        )
    try:
        wait_until(lambda: _listens(one.port), READY_S)
        yield one
    finally:
        process.terminate()
        process.wait()


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1.0).close()
    except OSError:
        return False
    return True


def sessions(dsn: str) -> list[tuple[object, ...]]:
    """What each session that the pooler has for a login knows about itself, asked by a client of the plainest kind."""
    query = """select
        pg_backend_pid(), current_user::text, current_setting('role'), current_setting('statement_timeout'),
        current_setting('idle_in_transaction_session_timeout'), current_setting('lock_timeout'),
        current_setting('enable_seqscan'), (select count(*) from pg_prepared_statements),
        (select count(*) from pg_listening_channels())"""
    clients = [psycopg.connect(dsn, prepare_threshold=None) for _ in range(POOL_SIZE)]
    try:  # each in a transaction of its own, and so in a session of its own
        return [row for client in clients for row in client.execute(query).fetchall()]
    finally:
        for client in clients:
            client.close()
