"""Real PostgreSQL servers for the tests, and fresh migrated databases on them, cheap enough for one a test."""

import contextlib
import itertools
import secrets
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import psycopg
from psycopg import sql

from payments.development.embedded_postgres import EmbeddedPostgres

EMBEDDED = "embedded"
OLDEST = "15"  # the oldest supported version, as Debian 12 ships it
OLDEST_BIN_DIR = Path(f"/usr/lib/postgresql/{OLDEST}/bin")
TEMPLATE = "payments_template"
T = TypeVar("T")


class KeptConnection:
    """A connection for the many short looks of a test that waits; another one, once the server has cut that."""

    def __init__(self, connect: Callable[[], psycopg.Connection[Any]]) -> None:
        self._connect = connect
        self._kept: psycopg.Connection[Any] | None = None

    def ask(self, question: Callable[[psycopg.Connection[Any]], T]) -> T:
        """What the question finds out. It may be asked twice, so it changes nothing."""
        if self._kept is not None and not self._kept.closed:
            try:
                return question(self._kept)
            except psycopg.OperationalError:
                if not self._kept.closed:
                    raise
        self._kept = self._connect()
        self._kept.prepare_threshold = None  # a plan would outlive what tests do to the tables
        return question(self._kept)

    def close(self) -> None:
        if self._kept is not None:
            self._kept.close()


class Database:
    """One database of one test: its addresses, and quick connections for looking inside."""

    def __init__(self, server: "TestServer", name: str) -> None:
        self.server = server
        self.name = name
        self.kept = KeptConnection(self.connect)

    def admin_dsn(self) -> str:
        """Return the address for the superuser."""
        return self.server.admin_dsn(self.name)

    def dsn(self, role: str) -> str:
        """Return the address for the login role `role`, e.g. "payments_api", with a password that works."""
        return self.server.postgres.dsn(role, self.server.role_password(role), self.name)

    def connect(self, role: str | None = None, **options: Any) -> psycopg.Connection[Any]:
        """Connect as `role` (as the superuser without one), in autocommit mode unless told otherwise."""
        dsn = self.dsn(role) if role else self.admin_dsn()
        return psycopg.connect(dsn, **{"autocommit": True, **options})


class TestServer:
    """One running PostgreSQL for the session; `postgres` can stop, kill and restart it, which the test must undo."""

    __test__ = False  # a name that starts with Test, but no test

    def __init__(self, home: Path, *, bin_dir: Path | None = None) -> None:
        self.postgres = EmbeddedPostgres(home, bin_dir=bin_dir, fast=True)
        self._prepare()
        self.postgres.start()
        self._numbers = itertools.count(1)
        self._role_passwords: dict[str, str] = {}
        self._lasting_roles: set[str] | None = None

    def _prepare(self) -> None:
        """Change the cluster's files before its first start, in a server that is not like the others."""

    def admin_dsn(self, dbname: str = "postgres") -> str:
        """Return the address of `dbname` for the superuser."""
        return self.postgres.admin_dsn(dbname)

    def role_password(self, role: str) -> str:
        """Return the password of a login role, setting one at the first call."""
        from payments.database.migrate import set_role_passwords  # noqa: PLC0415 - only tests with roles need it

        if role not in self._role_passwords:
            password = secrets.token_urlsafe(12)
            set_role_passwords(self.admin_dsn(), {role: password})
            self._role_passwords[role] = password
        return self._role_passwords[role]

    @contextlib.contextmanager
    def fresh_database(self, *, migrated: bool = True) -> Iterator[Database]:
        """Lend a database that nobody else uses; drop it afterwards, with the roles that were made meanwhile."""
        if migrated and self._lasting_roles is None:
            self._make_template()
        name = f"test_{next(self._numbers)}"
        template = TEMPLATE if migrated else "template0"
        self._execute("CREATE DATABASE {} TEMPLATE {}", name, template)
        database = Database(self, name)
        try:
            yield database
        finally:
            database.kept.close()
            self.drop_database(name)

    def drop_database(self, name: str) -> None:
        """Drop a database, and the roles that were made for it."""
        self._execute("DROP DATABASE IF EXISTS {} WITH (FORCE)", name)
        self._drop_passing_roles()

    def _make_template(self) -> None:
        from payments.database.migrate import migrate  # noqa: PLC0415 - see role_password

        self._execute("CREATE DATABASE {}", TEMPLATE)
        migrate(self.admin_dsn(TEMPLATE))
        self._execute("ALTER DATABASE {} WITH IS_TEMPLATE true ALLOW_CONNECTIONS false", TEMPLATE)
        self._lasting_roles = self._roles()

    def _roles(self) -> set[str]:
        with psycopg.connect(self.admin_dsn()) as conn:
            return {str(row[0]) for row in conn.execute("SELECT rolname FROM pg_roles")}

    def _drop_passing_roles(self) -> None:
        """Drop the consumers' roles of the last test: roles belong to the server, not to its databases."""
        if self._lasting_roles is None:
            return
        for role in self._roles() - self._lasting_roles:
            with contextlib.suppress(psycopg.errors.DependentObjectsStillExist):  # another open database uses it
                self._execute("DROP ROLE {}", role)
                self._role_passwords.pop(role, None)

    def _execute(self, statement: str, *names: str) -> None:
        with psycopg.connect(self.admin_dsn(), autocommit=True) as conn:
            conn.execute(sql.SQL(statement).format(*map(sql.Identifier, names)))


class TestServers:
    """The servers of a session, each started when the first test asks for it."""

    __test__ = False

    def __init__(self) -> None:
        self._stack = contextlib.ExitStack()
        self._running: dict[str, TestServer] = {}

    def get(self, version: str) -> TestServer:
        """Return the server of `version` (`embedded` or `15`), started if need be."""
        if version not in self._running:
            # Not pytest's tmp_path: its parents are closed to others, and as root PostgreSQL runs as another user.
            home = self._stack.enter_context(tempfile.TemporaryDirectory(prefix="payments-test-"))
            server = TestServer(Path(home), bin_dir=OLDEST_BIN_DIR if version == OLDEST else None)
            self._stack.callback(server.postgres.kill)  # its data goes anyway: no orderly shutdown needed
            self._running[version] = server
        return self._running[version]

    def close(self) -> None:
        """Stop every server and remove its data."""
        self._stack.close()
