"""`$PAYMENTS_DATA_DIR/dev.env`: where a running `payments up` is to be found; there exactly while all is ready."""

from collections.abc import Mapping
from pathlib import Path

from payments.development.atomic_file import write_atomically
from payments.errors import ConfigurationError
from payments.settings import Settings

DEV_ENV = "dev.env"


def write_dev_env(data_dir: Path, values: Mapping[str, str]) -> None:
    """Write dev.env for those who wait for it: whole or not at all, readable by its owner alone."""
    content = "".join(f"{name}={value}\n" for name, value in values.items())
    write_atomically(data_dir / DEV_ENV, content, mode=0o600)


def remove_dev_env(data_dir: Path) -> None:
    """Remove dev.env: what it names is not ready any more."""
    (data_dir / DEV_ENV).unlink(missing_ok=True)


def read_dev_env(data_dir: Path) -> dict[str, str]:
    """The KEY=value lines of dev.env; empty when no `payments up` is running on this data directory."""
    path = data_dir / DEV_ENV
    if not path.is_file():
        return {}
    lines = path.read_text(encoding="utf-8").splitlines()
    return dict(line.split("=", 1) for line in lines if "=" in line)


def admin_dsn(settings: Settings) -> str:
    """Where an administrator's command connects: the settings' database, else the one of a running `payments up`."""
    dsn = settings.listen_dsn or read_dev_env(settings.data_dir).get("DATABASE_URL")
    if dsn is None:
        raise ConfigurationError(
            ("DATABASE_URL is not set, and no `payments up` is running here.",),
            advice="Set DATABASE_URL to an administrator's address of the database, or start `payments up`.",
        )
    return dsn
