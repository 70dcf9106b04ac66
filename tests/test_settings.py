"""Settings: every fault at once, secrets never shown, docs/settings.md complete."""

import re
from pathlib import Path
from typing import get_type_hints

import msgspec
import pytest

from payments.errors import ConfigurationError
from payments.settings import SETTINGS, Settings

DOCUMENT = Path(__file__).parent.parent / "docs" / "settings.md"
DOCUMENT_ROW = re.compile(r"^\| `([A-Z_]+)` \| (?:`([^`]+)`|–) \|", re.MULTILINE)


def faults_of(**environ: str) -> tuple[str, ...]:
    with pytest.raises(ConfigurationError) as raised:
        Settings.load(environ)
    return raised.value.faults


def test_settings_load_without_any_environment() -> None:
    settings = Settings.load({})
    assert settings.database_url is None
    assert settings.stripe_webhook_secrets == ()
    assert (settings.host, settings.port, settings.data_dir) == (
        "127.0.0.1",
        8000,
        Path(".payments"),
    )
    assert settings.stripe_timeout_s < settings.lease_s


def test_settings_defaults_have_the_types_of_their_fields() -> None:
    hints = get_type_hints(Settings)
    settings = Settings.load({})
    assert {setting.field for setting in SETTINGS} == set(hints)
    for field, expected in hints.items():
        assert msgspec.convert(getattr(settings, field), expected) == getattr(settings, field), field


def test_settings_document_lists_exactly_the_settings_with_their_defaults() -> None:
    documented = {name: default or None for name, default in DOCUMENT_ROW.findall(DOCUMENT.read_text())}
    assert documented == {setting.name: setting.default for setting in SETTINGS}


def test_settings_list_every_fault_at_once() -> None:
    faults = faults_of(
        PORT="eighty",
        PAYMENTS_LOG_FORMAT="xml",
        DATABASE_URL="http://db",
        PAYMENTS_LEASE_S="",
    )
    assert len(faults) == 4
    assert any(fault.startswith("PORT must be a whole number from 1 to 65535") for fault in faults)
    assert any("PAYMENTS_LEASE_S is set but empty" in fault for fault in faults)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PORT", "0"),
        ("PORT", "65536"),
        ("PORT", "-1"),
        ("PORT", "8000.5"),
        ("PORT", "٨٠٠٠"),
        ("STRIPE_TIMEOUT_S", "inf"),
        ("STRIPE_TIMEOUT_S", "nan"),
        ("STRIPE_WEBHOOK_SECRETS", "whsec_a,"),
        ("STRIPE_WEBHOOK_SECRETS", ","),
        ("STRIPE_WEBHOOK_SECRETS", "whsec_a, ,whsec_b"),
        ("STRIPE_WEBHOOK_SECRETS", "whsec_"),
        ("STRIPE_WEBHOOK_SECRETS", "   "),
        ("STRIPE_API_KEY", "pk_test_123"),
        ("STRIPE_API_KEY", "sk_live_123"),
        ("STRIPE_LIVEMODE", "yes"),
        ("DATABASE_URL", "mysql://root@db/payments"),
        ("DATABASE_DIRECT_URL", "postgresql://db/payments"),
        ("PAYMENTS_LEASE_S", "20"),
        ("STRIPE_TIMEOUT_S", "29.6"),
        ("HOST", "127.0.0.1\n8000"),
        ("HOST", "127.0.0..1"),
        ("HOST", "a" * 64),
        ("DATABASE_URL", "postgresql://payments@127.0.0..1/payments"),
        ("DATABASE_URL", f"postgresql://payments@db,{'a' * 64}/payments"),
        ("DATABASE_URL", "postgresql://payments\udcff@db/payments"),
    ],
)
def test_settings_refuse_a_bad_value(name: str, value: str) -> None:
    assert len(faults_of(**{name: value})) == 1


@pytest.mark.parametrize(
    "base",
    [
        "http://api.stripe.com",
        "https://api.stripe.com/v1",
        "ftp://localhost",
        "stripe",
        "https://api.stripe.com:99999",
        "https://api.stripe.com:abc",
        "https://api.stripe.com:0",
        "https://api..stripe.com",
        "https://[::1",
    ],
)
def test_settings_refuse_an_unsafe_stripe_address(base: str) -> None:
    (fault,) = faults_of(STRIPE_API_KEY="sk_test_1", STRIPE_API_BASE=base)
    assert fault.startswith("STRIPE_API_BASE must ")


@pytest.mark.parametrize("host", ["%2Fvar%2Frun%2F" + "a" * 64, "[::1]:5432", "db.", ""])
def test_settings_accept_sockets_and_addresses(host: str) -> None:
    url = f"postgresql://payments@{host}/payments"
    assert Settings.load({"DATABASE_URL": url, "HOST": "::ffff:127.0.0.1"}).database_url == url


def test_settings_refuse_a_live_key_over_plain_http() -> None:
    faults = faults_of(
        STRIPE_API_KEY="sk_live_1",
        STRIPE_LIVEMODE="true",
        STRIPE_API_BASE="http://127.0.0.1:9",
    )
    assert "https" in faults[0]


def test_settings_accept_several_database_hosts_and_webhook_secrets() -> None:
    settings = Settings.load(
        {
            "DATABASE_URL": "postgresql://a:1,b:2/payments?target_session_attrs=read-write",
            "STRIPE_WEBHOOK_SECRETS": "whsec_old, whsec_new",
        }
    )
    assert settings.stripe_webhook_secrets == ("whsec_old", "whsec_new")
    assert settings.listen_dsn == settings.database_url


def test_settings_read_a_secret_from_its_file(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_text("sk_test_fromfile\n")
    assert Settings.load({"STRIPE_API_KEY_FILE": str(path)}).stripe_api_key == "sk_test_fromfile"
    assert "both set" in faults_of(STRIPE_API_KEY="sk_test_1", STRIPE_API_KEY_FILE=str(path))[0]
    assert "No such file" in faults_of(STRIPE_API_KEY_FILE=str(path) + ".gone")[0]
    path.write_bytes(b"\xff\xfe")
    assert "UTF-8" in faults_of(STRIPE_API_KEY_FILE=str(path))[0]
    path.write_bytes(b"x" * 100_000)
    assert "larger" in faults_of(STRIPE_API_KEY_FILE=str(path))[0]


def test_settings_never_show_a_secret() -> None:
    settings = Settings.load(
        {
            "DATABASE_URL": "postgresql://u:hunter2@db/payments",
            "DATABASE_DIRECT_URL": "postgresql://admin:hunter2@db/payments",
            "STRIPE_API_KEY": "sk_test_hidden",
            "STRIPE_WEBHOOK_SECRETS": "whsec_hidden",
        }
    )
    shown = repr(settings) + str(settings) + "".join(str(pair) for pair in settings.__rich_repr__())
    assert "hidden" not in shown
    assert "hunter2" not in shown
    faults = faults_of(
        DATABASE_URL="hunter2@db",
        DATABASE_DIRECT_URL="hunter2@db",
        STRIPE_API_KEY="hunter2",
        STRIPE_WEBHOOK_SECRETS="hunter2",
    )
    assert "hunter2" not in "".join(faults)


@pytest.mark.parametrize(
    ("environment", "why"),
    [
        ({"PAYMENTS_RETENTION_DAYS": "34"}, "30 days"),
        ({"PAYMENTS_IDEMPOTENCY_DAYS": "6"}, "second one"),
        ({"PAYMENTS_RETENTION_DAYS": "40", "PAYMENTS_IDEMPOTENCY_DAYS": "41"}, "outlive"),
    ],
)
def test_settings_refuse_to_forget_what_could_come_again_and_say_why(environment: dict[str, str], why: str) -> None:
    (fault,) = faults_of(**environment)
    assert why in fault


def test_settings_refuse_a_test_key_where_live_mode_is_meant() -> None:
    (fault,) = faults_of(STRIPE_API_KEY="sk_test_1", STRIPE_LIVEMODE="true")
    assert "test key" in fault


def test_settings_refuse_a_log_of_stripes_own() -> None:
    """It is written past ours, and masks nothing."""
    (fault,) = faults_of(STRIPE_LOG="debug")
    assert "STRIPE_LOG" in fault


def test_settings_listen_past_the_pooler() -> None:
    pooled = {"DATABASE_URL": "postgresql://pooler/payments", "DATABASE_DIRECT_URL": "postgresql://db/payments"}
    assert Settings.load(pooled).listen_dsn == pooled["DATABASE_DIRECT_URL"]
    assert Settings.load({"DATABASE_URL": "postgresql://db/payments"}).listen_dsn == "postgresql://db/payments"
