"""Scenarios 52 and 53: a pooler in transaction mode between everything but LISTEN, and in one process before that, too.

The API logs in as its own role. Relay and worker share a login, and so the pooler's sessions: what one would leave in
them, the other would meet.
"""

import secrets
import subprocess
import sys
from collections.abc import Iterator

import pytest

from payments.database.migrate import migrate, set_role_passwords
from tests.conftest import wait_until
from tests.postgres_faults.customers import shopping
from tests.postgres_faults.pooler import POOL_SIZE, Pooler, pooler, sessions
from tests.postgres_faults.running import system_on
from tests.postgres_faults.servers import Server, server
from tests.scenarios.world import World
from tests.system.running import System, surroundings

API, COMMON, ADMIN = "payments_api", "shop", "postgres"
# The worker does not know of the pooler; it notices.
PROCFILE = """
api: env DATABASE_URL={api} DATABASE_DIRECT_URL={api_direct} payments api
relay: env DATABASE_URL={common} DATABASE_DIRECT_URL={common_direct} payments relay
worker: env -u DATABASE_DIRECT_URL DATABASE_URL={common} payments worker
"""


@pytest.fixture(scope="module")
def postgres() -> Iterator[Server]:
    with server() as running:
        migrate(running.admin_dsn())
        running.execute(f"create role {COMMON} in role payments_api, payments_relay, payments_worker")
        yield running


@pytest.fixture(scope="module")
def bouncer(postgres: Server) -> Iterator[Pooler]:
    passwords = {login: secrets.token_urlsafe(12) for login in (API, COMMON)}
    set_role_passwords(postgres.admin_dsn(), passwords)
    with pooler(postgres, passwords | {ADMIN: postgres.postgres.password}) as running:
        yield running


@pytest.fixture(scope="module")
def system(postgres: Server, bouncer: Pooler) -> Iterator[System]:
    def direct(login: str) -> str:
        return bouncer.dsn(login).replace(f":{bouncer.port}/", f":{postgres.postgres.port}/")

    ways = {"api": bouncer.dsn(API), "api_direct": direct(API)}
    ways |= {"common": bouncer.dsn(COMMON), "common_direct": direct(COMMON)}
    procfile = postgres.home.parent / "Procfile"
    procfile.write_text(PROCFILE.format(**ways))
    environment = {"DATABASE_DIRECT_URL": postgres.admin_dsn()}
    with system_on(bouncer.dsn(ADMIN), "--procfile", str(procfile), **environment) as running:
        yield running


def test_52_pooler_in_transaction_mode(world: World, bouncer: Pooler) -> None:
    with shopping(world) as customers:
        customers.see_more(20)
    assert customers.answers.keys() <= {200, 201, 202}, "nobody had to come again"
    for login in (API, COMMON):
        found = sessions(bouncer.dsn(login))
        assert len({pid for pid, *_ in found}) == POOL_SIZE
        assert {tuple(rest) for _, *rest in found} == {(login, "none", "0", "0", "0", "on", 0, 0)}


def test_53_pooler_between_listener_and_server(world: World, postgres: Server) -> None:
    """The workers hear nothing at all, and find all that they do by looking."""
    wait_until(lambda: world.logged("listener.disconnected", "pooler"))
    with shopping(world):
        pass
    listening = postgres.listeners()
    assert listening["payments api"]
    assert "payments worker" not in listening


@pytest.mark.parametrize(
    "command",
    ["outbox status", "inbox status", "dead-letters list", "consumers list", "keys list", "doctor"],
)
def test_command_works_through_a_pooler(system: System, bouncer: Pooler, command: str) -> None:
    """Also where nobody says that it is one."""
    done = subprocess.run(
        [sys.executable, "-m", "payments", *command.split()],
        env=surroundings() | {"DATABASE_URL": bouncer.dsn(ADMIN)},
        capture_output=True,
        text=True,
        check=False,
    )
    if command == "doctor":
        assert "a pooler stands before the server" in done.stdout
        assert "no lane is behind" in done.stdout
    else:
        assert (done.returncode, done.stderr) == (0, "")
