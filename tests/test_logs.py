"""The log: one form for everything, and no secret in it whatever is logged."""

import json
import logging
import os
import subprocess
import sys
import textwrap
import uuid
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from payments.logs import MASK, mask, redact

SECRETS = {
    "sk_test_51Hx" + "a" * 20: "sk_test_",
    "rk_live_abcdef123456": "rk_live_",
    "whsec_c3VwZXIvc2VjcmV0+=": "whsec_",
    "pi_3Mtw_secret_YrKJUKribcBjcG8HVhfZluoGH": "pi_3Mtw_secret_",
    "pay_" + "Ab-_9" * 8: "pay_",
    "Bearer abc.def-ghi": "Bearer ",
    "Basic c2VjcmV0Og==": "Basic ",
    "postgresql://owner:hunter2@db:5432/payments": "postgresql://owner:",
    "host=db password='hunter 2' user=x": "host=db password=",
    "4242 4242 4242 4242": "",
}


@pytest.mark.parametrize(("secret", "kept"), SECRETS.items())
def test_mask_hides_a_secret_and_keeps_its_kind(secret: str, kept: str) -> None:
    masked = mask(f"before {secret} after")
    assert secret not in masked
    assert kept + MASK in masked


@given(
    st.recursive(st.sampled_from(sorted(SECRETS)), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner))
)
def test_redact_reaches_secrets_at_any_depth(value: object) -> None:
    shown = str(redact(None, "", {"event": "x.happened", "value": value}))
    assert not any(secret in shown for secret in SECRETS)


def test_redact_hides_what_a_name_gives_away_and_numbers_that_are_cards() -> None:
    event = {"password": "hunter2", "client_secret": "x", "number": 4242424242424242, "headers": {"Authorization": "x"}}
    assert redact(None, "", event) == {
        "password": MASK,
        "client_secret": MASK,
        "number": MASK,
        "headers": {"Authorization": MASK},
    }
    for card in (378282246310005, 30569309025904, 4222222222222):  # fewer digits: American Express, Diners, an old Visa
        assert redact(None, "", {"number": card}) == {"number": MASK}


@pytest.mark.parametrize("secret", SECRETS)
def test_redact_hides_a_secret_that_stands_as_a_name(secret: str) -> None:
    assert secret not in str(redact(None, "", {"event": "x.happened", "headers": {secret: 1}}))


def test_redact_leaves_ordinary_fields_alone() -> None:
    payment_id = str(uuid.uuid4())
    event = {"event": "payment.settled", "payment_id": payment_id, "amount": 1999, "reference": "ch_3Mtw", "ok": True}
    assert redact(None, "", event) == event


def lines_of(program: str, log_format: str = "json") -> list[str]:
    prelude = f"""
        import logging, structlog, warnings
        from payments.logs import configure_logging
        from payments.settings import Settings
        configure_logging(Settings.load({{"PAYMENTS_LOG_FORMAT": "{log_format}"}}), "api")
        log = structlog.get_logger()
    """
    code = textwrap.dedent(prelude) + textwrap.dedent(program)
    finished = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=dict(os.environ)
    )
    assert finished.stdout == ""
    return finished.stderr.splitlines()


def events_of(program: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in lines_of(program)]


def test_log_writes_one_json_object_a_line_with_context() -> None:
    [event] = events_of("""
        structlog.contextvars.bind_contextvars(request_id="r1")
        log.debug("cache.missed")
        log.info("payment.created", payment_id="p1", amount=5)
    """)
    assert event.pop("timestamp").endswith("Z")
    assert event == {
        "level": "info",
        "event": "payment.created",
        "payment_id": "p1",
        "amount": 5,
        "request_id": "r1",
        "process": "api",
    }


def test_log_shows_the_standard_librarys_records_masked_in_the_same_form() -> None:
    events = events_of("""
        logging.getLogger("uvicorn.error").info("Started %s", "sk_test_123")
        logging.getLogger("stripe").info("Request body: number=1")
        logging.getLogger("stripe").warning("slow")
        warnings.warn("whsec_abc")
    """)
    assert [event["event"] for event in events[:2]] == [f"Started sk_test_{MASK}", "slow"]
    assert events[0]["logger"] == "uvicorn.error"
    assert len(events) == 3
    assert "whsec_abc" not in str(events)


def test_log_masks_secrets_inside_tracebacks() -> None:
    [event] = events_of("""
        try:
            raise ValueError("cannot reach postgresql://u:hunter2@db/x")
        except ValueError:
            log.exception("database.connection_failed")
    """)
    assert "ValueError" in event["exception"]
    assert "hunter2" not in str(event)


def test_log_for_people_is_masked_too() -> None:
    [line] = lines_of("log.info('key.used', value='sk_test_123')", "console")
    assert "key.used" in line
    assert "sk_test_123" not in line


def test_redact_survives_what_cannot_be_shown_as_json() -> None:
    event = redact(None, "", {"event": "x.happened", "thing": object(), "raw": b"\xff", "level": logging.INFO})
    assert json.dumps(event)
