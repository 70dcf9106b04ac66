"""Reading `$PAYMENTS_DATA_DIR/dev.env`, which `payments up` writes once it is ready: where a running system is to be found."""

from pathlib import Path

from payments.errors import ConfigurationError
from payments.settings import Settings

DEV_ENV = "dev.env"


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
