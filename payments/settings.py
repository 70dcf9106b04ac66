"""All settings of all processes, read once from the environment; the only module that reads `os.environ`.

Each setting `NAME` may be given as `NAME_FILE` instead, the path of a file that holds the value (for secrets mounted by
Docker, Kubernetes or systemd). docs/settings.md says what each one means and why its bounds are where they are;
tests/test_settings.py keeps that table and this module equal.
"""

import os
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple, Self
from urllib.parse import urlsplit

import msgspec
from psycopg import ProgrammingError
from psycopg.conninfo import conninfo_to_dict

from payments.errors import ConfigurationError

LOOPBACK_HOSTS = frozenset({"127.0.0.1", "localhost", "::1"})
LEASE_MARGIN_S = 0.5  # for the commits before and after a call
RETENTION_DAYS_MIN = 35  # Stripe's 30 days of events, its 3 of webhook retries, and two for clocks and slowness
IDEMPOTENCY_DAYS_MIN = 7  # longer than any client may retry; the API promises it
STRIPE_API_BASE_DEFAULT = "https://api.stripe.com"
SECRET_FILE_BYTES_MAX = 65_536  # a secret is a line; a path to something big is a mistake


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Every setting, parsed and checked; secrets never show in its `repr`."""

    database_url: str | None
    database_direct_url: str | None
    stripe_api_key: str | None
    stripe_api_base: str | None
    stripe_webhook_secrets: tuple[str, ...]
    stripe_livemode: bool
    stripe_account: str | None
    stripe_timeout_s: float
    stripe_calls_per_s: int
    host: str
    port: int
    data_dir: Path
    log_level: str
    log_format: str
    api_connections_max: int
    body_bytes_max: int
    webhook_bytes_max: int
    poll_interval_ms: int
    worker_concurrency: int
    lease_s: int
    shutdown_grace_s: int
    reconcile_after_s: float
    action_required_hours: float
    orphan_hold_hours: float
    events_backfill_s: float
    retention_days: int
    idempotency_days: int

    @classmethod
    def load(cls, environ: Mapping[str, str] | None = None) -> Self:
        """Read and check every setting; raise `ConfigurationError` that lists all faults at once."""
        source = os.environ if environ is None else environ
        faults: list[str] = []
        values = {setting.field: _read(setting, source, faults) for setting in SETTINGS}
        if "STRIPE_LOG" in source:  # read by the stripe library itself, past our log and its masking
            faults.append("STRIPE_LOG makes the stripe library print request bodies; unset it.")
        if not faults:
            settings = cls(**values)  # type: ignore[arg-type]  # each parser yields its field's type (tested)
            faults.extend(_contradictions(settings))
            if not faults:
                return settings
        raise ConfigurationError(tuple(faults))

    @property
    def listen_dsn(self) -> str | None:
        """Where LISTEN and migrations connect: past any pooler."""
        return self.database_direct_url or self.database_url

    @property
    def is_pooled(self) -> bool:
        """Whether DATABASE_URL leads to a pooler, past which another address leads."""
        return self.database_direct_url is not None

    def __repr__(self) -> str:
        shown = ", ".join(f"{field}={value!r}" for field, value in self.__rich_repr__())
        return f"Settings({shown})"

    def __rich_repr__(self) -> list[tuple[str, object]]:
        """Show every field, secrets as '***', to `rich` and to `repr`."""
        values = [(setting, getattr(self, setting.field)) for setting in SETTINGS]
        return [(setting.field, "***" if setting.secret and value else value) for setting, value in values]


class Setting(NamedTuple):
    """One setting: its environment variable, its field, its default as one would write it, its parser."""

    name: str
    field: str
    default: str | None
    parse: Callable[[str], object]
    secret: bool = False


def inherited_environment() -> dict[str, str]:
    """Return a copy of this process's environment, for a child process to start from."""
    return dict(os.environ)


def _read(setting: Setting, source: Mapping[str, str], faults: list[str]) -> object:
    text, where = source.get(setting.name), setting.name
    path = source.get(f"{setting.name}_FILE")
    if path is not None:
        where = f"{setting.name}_FILE"
        if text is not None:
            faults.append(f"{setting.name} and {where} are both set; keep one of them.")
            return None
        try:
            text = _read_secret_file(Path(path))
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else str(error)
            faults.append(
                f"{where} names the file {path!r}, which cannot be used ({reason}); mend the path or the file."
            )
            return None
    if text is None:
        text = setting.default
    if text is None:
        return () if setting.parse is _webhook_secrets else None
    if not text.strip():
        # Empty is never 'absent': an unset variable in a compose file must not start an embedded database.
        faults.append(f"{where} is set but empty; give it a value or unset it.")
        return None
    try:
        return setting.parse(text.strip())
    except ValueError as error:
        got = "" if setting.secret else f" (it is {text!r})"
        faults.append(f"{where} {error}{got}.")
        return None


def _read_secret_file(path: Path) -> str:
    with path.open("rb") as file:
        content = file.read(SECRET_FILE_BYTES_MAX + 1)
    if len(content) > SECRET_FILE_BYTES_MAX:
        raise ValueError(f"it is larger than {SECRET_FILE_BYTES_MAX} bytes")
    try:
        return content.decode()
    except UnicodeDecodeError:
        raise ValueError("it is not UTF-8 text") from None


def _contradictions(settings: Settings) -> Iterator[str]:
    """Yield what is wrong between settings that are each right alone."""
    if settings.stripe_timeout_s > settings.lease_s - LEASE_MARGIN_S:
        yield (
            f"STRIPE_TIMEOUT_S ({settings.stripe_timeout_s:g}) must be below PAYMENTS_LEASE_S ({settings.lease_s}), "
            f"by {LEASE_MARGIN_S:g} or more for what is written before and after, else a second worker starts the call "
            "while the first still waits, or nobody may start it; lower the one or raise the other."
        )
    if settings.database_direct_url and not settings.database_url:
        yield "DATABASE_DIRECT_URL is set without DATABASE_URL; set both, or neither for the embedded PostgreSQL."
    yield from _retention_contradictions(settings)
    yield from _stripe_contradictions(settings)


def _retention_contradictions(settings: Settings) -> Iterator[str]:
    if settings.retention_days < RETENTION_DAYS_MIN:
        yield (
            f"PAYMENTS_RETENTION_DAYS ({settings.retention_days}) must be {RETENTION_DAYS_MIN} or more: Stripe lists "
            "events for 30 days and repeats webhooks for 3, and one that came again would be taken for new; raise it."
        )
    if settings.idempotency_days < IDEMPOTENCY_DAYS_MIN:
        yield (
            f"PAYMENTS_IDEMPOTENCY_DAYS ({settings.idempotency_days}) must be {IDEMPOTENCY_DAYS_MIN} or more: a client "
            "that repeats a refund under its key after that gets a second one; raise it."
        )
    if settings.idempotency_days > settings.retention_days:
        yield (
            f"PAYMENTS_IDEMPOTENCY_DAYS ({settings.idempotency_days}) must not exceed PAYMENTS_RETENTION_DAYS "
            f"({settings.retention_days}): an answer would outlive all memory of how it came about; lower the one or "
            "raise the other."
        )


def _stripe_contradictions(settings: Settings) -> Iterator[str]:
    key, base = settings.stripe_api_key, settings.stripe_api_base
    if key is None:
        if settings.stripe_livemode:
            yield "STRIPE_LIVEMODE is true without STRIPE_API_KEY; set a live key, or leave STRIPE_LIVEMODE away."
        return
    live = "_live_" in key
    if live and not settings.stripe_livemode:
        yield "STRIPE_API_KEY is a live key: it moves real money. Set STRIPE_LIVEMODE=true if that is meant."
    if settings.stripe_livemode and not live:
        yield "STRIPE_LIVEMODE is true but STRIPE_API_KEY is a test key; unset STRIPE_LIVEMODE or use a live key."
    if live and base is not None and not base.startswith("https://"):
        yield "STRIPE_API_BASE must start with https:// for a live STRIPE_API_KEY, which would travel in the clear."


def _whole(low: int, high: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not re.fullmatch(r"[0-9]{1,12}", text) or not low <= int(text) <= high:
            raise ValueError(f"must be a whole number from {low} to {high}")
        return int(text)

    return parse


def _seconds(low: float, high: float) -> Callable[[str], float]:
    def parse(text: str) -> float:
        if not re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,6})?", text) or not low <= float(text) <= high:
            raise ValueError(f"must be a number of seconds from {low:g} to {high:g}")
        return float(text)

    return parse


def _hours(low: float, high: float) -> Callable[[str], float]:
    def parse(text: str) -> float:
        if not re.fullmatch(r"[0-9]{1,6}(\.[0-9]{1,6})?", text) or not low <= float(text) <= high:
            raise ValueError(f"must be a number of hours from {low:g} to {high:g}")
        return float(text)

    return parse


def _one_of(*words: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text.lower() not in words:
            raise ValueError(f"must be one of {', '.join(words)}")
        return text.lower()

    return parse


def _yes_or_no(text: str) -> bool:
    if text.lower() not in {"true", "false"}:
        raise ValueError("must be true or false")
    return text.lower() == "true"


def _database_url(text: str) -> str:
    try:
        parts = conninfo_to_dict(text)
    except (ProgrammingError, UnicodeEncodeError):
        parts = {}
    if not parts:  # libpq's own message may quote the password: say it in our words
        raise ValueError("must be a PostgreSQL address, e.g. postgresql://user:password@host:5432/database")
    hosts = str(parts.get("host", "")).split(",")
    if not all(host.startswith("/") or _can_be_resolved(host) for host in hosts):
        raise ValueError("names a host that cannot be: between two dots stand 1 to 63 characters")
    return text


def _stripe_key(text: str) -> str:
    if not re.fullmatch(r"(sk|rk)_(test|live)_[A-Za-z0-9_]{1,250}", text):
        raise ValueError("must be a secret or restricted Stripe key (sk_test_…, rk_live_…); pk_… keys are for browsers")
    return text


def _can_be_resolved(host: str) -> bool:
    """Whether it may be asked for at all: a name whose parts have 1 to 63 characters, or an address."""
    try:
        host.encode("idna")  # as the resolver does
    except UnicodeError:
        return False
    return True


def _stripe_base(text: str) -> str:
    fault = ValueError(f"must be a plain address such as {STRIPE_API_BASE_DEFAULT} (with a port: 1 to 65535)")
    try:
        url = urlsplit(text)
        host, port = url.hostname, url.port
    except ValueError:  # a bracket that is not closed, or a port that is none
        raise fault from None
    if not host or port == 0 or not _can_be_resolved(host) or url.path not in {"", "/"} or url.query or url.fragment:
        raise fault
    if url.scheme != "https" and not (url.scheme == "http" and url.hostname in LOOPBACK_HOSTS):
        raise ValueError("must start with https:// (http:// only for this very machine)")
    return text.rstrip("/")


def _webhook_secrets(text: str) -> tuple[str, ...]:
    secrets = tuple(entry.strip() for entry in text.split(","))
    if not all(secrets):
        raise ValueError("has a blank entry, which anyone could sign with; remove the stray comma")
    if not all(re.fullmatch(r"whsec_[\x21-\x7e]{1,250}", secret) for secret in secrets):
        raise ValueError("must be signing secrets (whsec_…) with commas between")
    return secrets


def _account(text: str) -> str:
    if not re.fullmatch(r"acct_[A-Za-z0-9]{1,64}", text):
        raise ValueError("must be a Stripe account id, acct_…")
    return text


def _host(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9.:_-]{1,253}", text) or not _can_be_resolved(text):
        raise ValueError("must be a host name or address to listen on, e.g. 127.0.0.1 or 0.0.0.0")
    return text


SETTINGS = (
    Setting("DATABASE_URL", "database_url", None, _database_url, secret=True),
    Setting("DATABASE_DIRECT_URL", "database_direct_url", None, _database_url, secret=True),
    Setting("STRIPE_API_KEY", "stripe_api_key", None, _stripe_key, secret=True),
    Setting("STRIPE_API_BASE", "stripe_api_base", None, _stripe_base),
    Setting(
        "STRIPE_WEBHOOK_SECRETS",
        "stripe_webhook_secrets",
        None,
        _webhook_secrets,
        secret=True,
    ),
    Setting("STRIPE_LIVEMODE", "stripe_livemode", "false", _yes_or_no),
    Setting("STRIPE_ACCOUNT", "stripe_account", None, _account),
    Setting("STRIPE_TIMEOUT_S", "stripe_timeout_s", "20", _seconds(0.1, 600)),
    Setting("STRIPE_CALLS_PER_S", "stripe_calls_per_s", "80", _whole(1, 10_000)),
    Setting("HOST", "host", "127.0.0.1", _host),
    Setting("PORT", "port", "8000", _whole(1, 65_535)),
    Setting("PAYMENTS_DATA_DIR", "data_dir", ".payments", Path),
    Setting(
        "PAYMENTS_LOG_LEVEL",
        "log_level",
        "info",
        _one_of("debug", "info", "warning", "error"),
    ),
    Setting("PAYMENTS_LOG_FORMAT", "log_format", "json", _one_of("json", "console")),
    Setting("PAYMENTS_API_CONNECTIONS_MAX", "api_connections_max", "8", _whole(2, 200)),
    Setting("PAYMENTS_BODY_BYTES_MAX", "body_bytes_max", "65536", _whole(1_024, 1_048_576)),
    Setting(
        "PAYMENTS_WEBHOOK_BYTES_MAX",
        "webhook_bytes_max",
        "524288",
        _whole(65_536, 4_194_304),
    ),
    Setting("PAYMENTS_POLL_INTERVAL_MS", "poll_interval_ms", "500", _whole(10, 60_000)),
    Setting("PAYMENTS_WORKER_CONCURRENCY", "worker_concurrency", "16", _whole(1, 256)),
    Setting("PAYMENTS_LEASE_S", "lease_s", "30", _whole(1, 3_600)),
    Setting("PAYMENTS_SHUTDOWN_GRACE_S", "shutdown_grace_s", "10", _whole(1, 300)),
    Setting("PAYMENTS_RECONCILE_AFTER_S", "reconcile_after_s", "15", _seconds(0.1, 3_600)),
    Setting("PAYMENTS_ACTION_REQUIRED_HOURS", "action_required_hours", "24", _hours(0.0001, 8_760)),
    Setting("PAYMENTS_ORPHAN_HOLD_HOURS", "orphan_hold_hours", "24", _hours(0.0001, 8_760)),
    Setting("PAYMENTS_EVENTS_BACKFILL_S", "events_backfill_s", "30", _seconds(0.1, 86_400)),
    Setting("PAYMENTS_RETENTION_DAYS", "retention_days", "90", _whole(1, 36_500)),
    Setting("PAYMENTS_IDEMPOTENCY_DAYS", "idempotency_days", "7", _whole(1, 36_500)),
)
