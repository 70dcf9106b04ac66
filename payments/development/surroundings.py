"""What the processes of `payments up` are given: a database to log in to, Stripe or its sandbox, a key for people."""

import secrets
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import msgspec

from payments.development.atomic_file import write_atomically
from payments.development.child import MARK
from payments.development.dev_env import read_dev_env
from payments.development.embedded_postgres import EmbeddedPostgres
from payments.development.free_port import is_free, pick_free_port
from payments.settings import STRIPE_API_BASE_DEFAULT, Settings, inherited_environment

DATABASE_NAME = "payments"
ROLES = ("payments_api", "payments_relay", "payments_worker")
LOCAL = "127.0.0.1"
ANY_ADDRESS = {"0.0.0.0": LOCAL, "::": "[::1]"}  # noqa: S104 - a comparison, nothing is bound here


class Stripe(NamedTuple):
    """Where the processes find Stripe, real or sandbox, and the secrets between them."""

    api_base: str
    api_key: str
    webhook_secrets: tuple[str, ...]
    sandbox_port: int | None


class Databases(NamedTuple):
    """The administrator's address, and each role's own (empty when DATABASE_URL serves for all)."""

    admin_dsn: str
    role_dsns: Mapping[str, str]


def api_url(settings: Settings) -> str:
    """Return the address under which this machine reaches the API."""
    host = ANY_ADDRESS.get(settings.host, f"[{settings.host}]" if ":" in settings.host else settings.host)
    return f"http://{host}:{settings.port}"


def prepare_databases(settings: Settings, postgres: EmbeddedPostgres | None) -> Databases:
    """Migrate the database, and with an embedded one give each process's role a password of its own.

    Raises what `migrate` and `told_in_words` raise.
    """
    # `--help` needs no database
    from payments.database.migrate import migrate, set_role_passwords  # noqa: PLC0415
    from payments.database.operator_connection import told_in_words  # noqa: PLC0415

    if postgres is None:
        assert settings.listen_dsn is not None
        with told_in_words():
            migrate(settings.listen_dsn)
        return Databases(settings.listen_dsn, {})
    postgres.ensure_database(DATABASE_NAME)
    admin_dsn = postgres.admin_dsn(DATABASE_NAME)
    passwords = {role: secrets.token_urlsafe(24) for role in ROLES}
    with told_in_words():
        migrate(admin_dsn)
        set_role_passwords(admin_dsn, passwords)
    return Databases(admin_dsn, {role: postgres.dsn(role, word, DATABASE_NAME) for role, word in passwords.items()})


def find_stripe(settings: Settings, data_dir: Path) -> Stripe:
    """Return Stripe as the settings name it, else a sandbox with a port and secrets that are kept between starts."""
    if settings.stripe_api_key is not None:
        base = settings.stripe_api_base or STRIPE_API_BASE_DEFAULT
        return Stripe(base, settings.stripe_api_key, settings.stripe_webhook_secrets, None)
    home = data_dir / "sandbox"
    home.mkdir(exist_ok=True)
    key = _kept(home / "api.key", "sk_test_sandbox" + secrets.token_hex(12))
    secret = _kept(home / "webhook.secret", "whsec_" + secrets.token_hex(24))
    port = int(_kept(home / "port", str(pick_free_port(LOCAL))))
    if not is_free(LOCAL, port):
        (home / "port").unlink()
        port = int(_kept(home / "port", str(pick_free_port(LOCAL))))
    return Stripe(f"http://{LOCAL}:{port}", key, settings.stripe_webhook_secrets or (secret,), port)


def stripe_of_running_up(settings: Settings) -> Settings:
    """Return the settings with the sandbox of the `payments up` that runs here, unless they name a key themselves.

    Only together with its database: another's payments must never be looked for in this sandbox.
    """
    found = read_dev_env(settings.data_dir)
    base, key = found.get("STRIPE_API_BASE"), settings.data_dir / "sandbox" / "api.key"
    is_its_database = settings.listen_dsn in {None, found.get("DATABASE_URL")}
    if settings.stripe_api_key is not None or base is None or not is_its_database or not key.is_file():
        return settings
    return msgspec.structs.replace(settings, stripe_api_key=key.read_text().strip(), stripe_api_base=base)


def sandbox_command(settings: Settings, stripe: Stripe, data_dir: Path) -> list[str]:
    """Return the command that starts the sandbox."""
    options = {
        "host": LOCAL,
        "port": str(stripe.sandbox_port),
        "state": str(data_dir / "sandbox" / "state.db"),
        "webhook-url": f"{api_url(settings)}/webhooks/stripe",
        "webhook-secret": stripe.webhook_secrets[0],
        "api-key": stripe.api_key,
    }
    return [
        sys.executable,
        "-m",
        "stripe_sandbox",
        *(part for name in options for part in (f"--{name}", options[name])),
    ]


def process_environment(
    name: str, settings: Settings, databases: Databases, stripe: Stripe, data_dir: Path
) -> dict[str, str]:
    """Return the environment of the process `name`: ours, with what `payments up` knows better."""
    environment = inherited_environment()
    given = {
        "HOST": settings.host,
        "PORT": str(settings.port),
        "PAYMENTS_DATA_DIR": str(data_dir),
        "STRIPE_API_BASE": stripe.api_base,
        "STRIPE_API_KEY": stripe.api_key,
        "STRIPE_WEBHOOK_SECRETS": ",".join(stripe.webhook_secrets),
        MARK: str(data_dir),
        # The pipe between us is no terminal; people read it all the same.
        "PAYMENTS_LOG_FORMAT": environment.get("PAYMENTS_LOG_FORMAT", "console"),
        "PYTHONUNBUFFERED": "1",
        # `payments` in the Procfile is the one of this virtual environment, activated or not.
        "PATH": f"{Path(sys.executable).parent}:{environment.get('PATH', '')}",
    }
    if settings.database_url is None:
        given["DATABASE_URL"] = databases.role_dsns.get(f"payments_{name}", databases.admin_dsn)
    if not stripe.webhook_secrets:
        del given["STRIPE_WEBHOOK_SECRETS"]
    for variable, value in given.items():
        environment.pop(f"{variable}_FILE", None)
        environment[variable] = value
    return environment


def development_key(admin_dsn: str) -> str:
    """Return a fresh API key with all scopes for the person at the terminal. Raises what `told_in_words` raises."""
    # `--help` needs no database
    from payments.database.api_keys import ensure_development_key  # noqa: PLC0415
    from payments.database.operator_connection import told_in_words  # noqa: PLC0415

    with told_in_words():
        return ensure_development_key(admin_dsn)


def _kept(path: Path, fresh: str) -> str:
    if not path.exists():
        write_atomically(path, fresh + "\n", mode=0o600)
    return path.read_text().strip()
