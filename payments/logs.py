"""One log for everything: structured events to stderr, secrets masked as the last safety net.

Events are named `noun.verb_past` and carry ids as fields; never arguments, bodies or secrets. The masking below is for
the day when someone forgets that, not a licence to log more. uvicorn, stripe, psycopg and every other user of the
standard library's logging come out in the same form. Start uvicorn with `log_config=None`, or it installs its own.
"""

import logging
import re
import sys
from collections.abc import Callable, Mapping
from typing import Any

import msgspec
import structlog
from structlog.typing import EventDict, Processor

from payments.domain.card_numbers import find_card_number
from payments.settings import Settings

STRING_CHARACTERS_MAX = 16_384  # a deep traceback fits; a body that slipped in does not fill the disk
DEPTH_MAX = 6
MASK = "***"

# Libraries that say too much below these levels: the stripe client logs request bodies, others each connection.
LIBRARY_LEVELS = {"stripe": logging.WARNING, "aiohttp": logging.WARNING, "asyncio": logging.WARNING}

# The first group of each pattern is kept: it says what was masked.
_SECRETS = re.compile(
    r"""
      ((?:sk|rk)_(?:test|live)_)[\w-]+           # Stripe's API keys
    | (whsec_)[^\s"',}\]]+                       # webhook signing secrets
    | ((?:pi|seti)_[A-Za-z0-9]+_secret_)[\w-]+   # what lets a browser finish a payment
    | (\bpay_)[\w-]{16,}                         # our own API keys
    | (\b(?:Bearer|Basic)\s+)[\w.~+/=-]+         # Authorization headers
    | (\bpostgres(?:ql)?://[^\s:@/]*:)[^\s@]+(?=@)  # passwords in database addresses
    | (\bpassword\s*=\s*)(?:'[^']*'|[^\s'"]+)    # and in keyword form
    """,
    re.VERBOSE | re.IGNORECASE,
)
_SECRET_NAMES = re.compile(
    r"passw|secret|authorization|api_?key$|credential|card_?number|\bcvc\b|(?:^|_)token$", re.IGNORECASE
)


def configure_logging(settings: Settings, process: str) -> None:
    """Send this process's log to stderr as the settings say; every line carries `process`."""
    level = logging.getLevelNamesMapping()[settings.log_level.upper()]
    json = settings.log_format == "json"
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
        _naming(process),
        redact,
    ]
    structlog.configure(
        processors=[*shared, _as_json if json else _console()],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.BytesLoggerFactory(sys.stderr.buffer)
        if json
        else structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )
    _route_standard_logging(level, shared, json=json)


def redact(_logger: object, _method: str, event: EventDict) -> EventDict:
    """Mask whatever looks like a secret or a card number, in values at any depth and under telling names."""
    return {name: _masked_field(str(name), value, 0) for name, value in event.items()}


def mask(text: str) -> str:
    """Return `text` with secrets masked, or a single mask when a card number stands in it."""
    masked = _SECRETS.sub(lambda found: next(filter(None, found.groups()), "") + MASK, text)
    if find_card_number(masked):
        return f"{MASK} (held a card number)"
    return masked if len(masked) <= STRING_CHARACTERS_MAX else masked[:STRING_CHARACTERS_MAX] + "…"


def _masked_field(name: str, value: object, depth: int) -> object:
    if _SECRET_NAMES.search(name) and value is not None and not isinstance(value, bool):
        return MASK
    return _masked(value, depth)


def _masked(value: object, depth: int) -> object:
    match value:
        case None | bool() | float():
            return value
        case str():
            return mask(value)
        case int():
            return value if abs(value) < 10**11 else _masked_number(value)
        case Mapping() if depth < DEPTH_MAX:
            return {mask(str(name)): _masked_field(str(name), each, depth + 1) for name, each in value.items()}
        case list() | tuple() | set() | frozenset() if depth < DEPTH_MAX:
            return [_masked(each, depth + 1) for each in value]
        case _:
            return mask(str(value))


def _masked_number(value: int) -> object:
    return MASK if find_card_number(str(value)) else value


def _naming(process: str) -> Processor:
    def add_process(_logger: object, _method: str, event: EventDict) -> EventDict:
        event["process"] = process
        return event

    return add_process


def _as_json(_logger: object, _method: str, event: EventDict) -> bytes:
    # Time, level and event first: a person reads the start of the line.
    first = {name: event.pop(name) for name in ("timestamp", "level", "event") if name in event}
    return msgspec.json.encode({**first, **event})


def _console() -> structlog.dev.ConsoleRenderer:
    return structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback)


def _route_standard_logging(level: int, shared: list[Processor], *, json: bool) -> None:
    render: Callable[..., Any] = (lambda *args: _as_json(*args).decode()) if json else _console()
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[structlog.stdlib.add_logger_name, structlog.stdlib.ExtraAdder(), *shared],
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, render],
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter)
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level)
    for name, floor in LIBRARY_LEVELS.items():
        logging.getLogger(name).setLevel(max(level, floor))
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):
        logging.getLogger(name).handlers = []
        logging.getLogger(name).propagate = True
    logging.captureWarnings(capture=True)
