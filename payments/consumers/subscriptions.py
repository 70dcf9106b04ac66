"""What a consumer may be called, hear, and start from; and whether it can be added. Pure."""

import re
from collections.abc import Sequence
from datetime import datetime
from typing import Literal

import msgspec

from payments.domain.moments import parse_moment
from payments.domain.states import EventType
from payments.outbox.asyncapi import QUEUES

NAME = re.compile(r"[a-z][a-z0-9_]{0,46}")
ROUTING_KEYS = tuple(event.routing_key for event in EventType)
# Read by the worker alone: a second reader would take commands away from it.
SERVICE_QUEUES = frozenset(queue for queue in QUEUES if queue.endswith("_requested"))
# There from the start, and part of the agreement with Ordering: never dropped.
LASTING_QUEUES = frozenset(QUEUES)
PATTERN_CHARACTERS_MAX = 255  # pgmq's

_PATTERN = re.compile(r"[a-zA-Z0-9._*#-]+")
_AMISS = re.compile(r"^\.|\.$|\.\.|\*\*|##|\*#|#\*")

Start = datetime | Literal["now", "beginning"]


class Found(msgspec.Struct, frozen=True):
    """What the database knows under a consumer's name.

    `role_exists` in the whole server; `role_reads`: it is this database's. `taken`: relations its queue would need.
    """

    has_lane: bool
    patterns: tuple[str, ...]
    role: str
    role_exists: bool
    role_reads: bool
    taken: tuple[str, ...]


class Refusal(msgspec.Struct, frozen=True):
    """Why a wish cannot be granted, and what to do instead."""

    why: str
    advice: str


def parse_name(text: str) -> str:
    """A consumer's name, which is its queue's too. Raises ValueError."""
    if not NAME.fullmatch(text):
        raise ValueError(f"{text!r} must match ^{NAME.pattern}$")
    return text


def parse_patterns(text: str) -> tuple[str, ...]:
    """Routing keys or pgmq's topic patterns with commas between; each must match an event. Raises ValueError."""
    patterns = tuple(dict.fromkeys(part.strip() for part in text.split(",")))
    unknown = [pattern for pattern in patterns if not matching(pattern)]
    if unknown:
        raise ValueError(
            f"no event matches {', '.join(map(repr, unknown))}; there are {', '.join(ROUTING_KEYS)} "
            "(* stands for one word, # for any number of them)"
        )
    return patterns


def matching(pattern: str) -> list[str]:
    """The routing keys that pgmq would send to a queue bound with this pattern; none for one that it refuses."""
    if len(pattern) > PATTERN_CHARACTERS_MAX or not _PATTERN.fullmatch(pattern) or _AMISS.search(pattern):
        return []
    compiled = re.compile(pattern.replace(".", r"\.").replace("*", "[^.]+").replace("#", ".*"))
    return [key for key in ROUTING_KEYS if compiled.fullmatch(key)]


def parse_start(text: str) -> Start:
    """`now`, `beginning` or an RFC 3339 time with its zone. Raises ValueError."""
    match text:
        case "now" | "beginning":
            return text
        case _:
            try:
                return parse_moment(text)
            except ValueError:
                raise ValueError(
                    f"{text!r} must be now, beginning, or a time with its zone: 2026-01-31T12:00:00Z"
                ) from None


def decide_addition(
    name: str, found: Found, patterns: Sequence[str] | None, start: Start | None, now: datetime
) -> Literal["queue_and_role", "role"] | Refusal:
    """What `add` has to make: a queue and its reading role, or a role for a queue that is there already."""
    if name in SERVICE_QUEUES:
        return Refusal(f"{name} is read by the service itself.", "Choose another name, and bind it to the same event.")
    refusal = _refuse_second_role(name, found)
    if refusal is not None:
        return refusal
    if not found.has_lane:
        return _refuse_queue(name, found, patterns, start, now) or "queue_and_role"
    if patterns is not None or start is not None:
        return Refusal(
            f"The queue {name} exists already, bound to {_said(found.patterns)}; it is not bound anew.",
            f"`payments consumers add {name}`, without --events and --from, gives it a reading role.",
        )
    return "role"


def _refuse_second_role(name: str, found: Found) -> Refusal | None:
    if found.role_reads:
        return Refusal(
            f"The consumer {name} exists already: {found.role} reads the queue (bound to {_said(found.patterns)}).",
            f"Its password is kept nowhere; `payments consumers password {name}` gives it a new one.",
        )
    if found.role_exists:
        return Refusal(
            f"The server has a role {found.role} already, which does not read here: another database's, perhaps.",
            "Roles belong to the whole server. Choose another name, or drop the role if nobody needs it.",
        )
    return None


def _refuse_queue(
    name: str, found: Found, patterns: Sequence[str] | None, start: Start | None, now: datetime
) -> Refusal | None:
    if patterns is None:
        return Refusal(f"There is no queue {name} yet.", f"Say what it shall hear: --events {ROUTING_KEYS[0]}")
    if found.taken:
        taken = ", ".join(found.taken)
        return Refusal(f"The queue {name} needs what is taken in schema pgmq: {taken}.", "Choose another name.")
    if isinstance(start, datetime) and start > now:
        return Refusal(f"{start.isoformat()} lies in the future.", "Start from now, or from a time that has passed.")
    return None


def decide_removal(name: str, found: Found, *, keep_queue: bool) -> Refusal | None:
    """Whether a consumer can go; None: it can."""
    if name in SERVICE_QUEUES:
        return Refusal(f"{name} is read by the service itself.", "It cannot be removed.")
    if not found.has_lane and not found.role_reads:
        return Refusal(f"There is no consumer {name}.", "`payments consumers list` names them.")
    if name in LASTING_QUEUES and not keep_queue:
        return Refusal(
            f"The queue {name} belongs to the service.",
            "`--keep-queue` takes away its reading role and keeps the queue.",
        )
    return None


def decide_new_password(name: str, found: Found) -> Refusal | None:
    """Whether there is a role that can get one; None: there is."""
    if not found.role_reads:
        return Refusal(f"No role reads a queue {name}.", "`payments consumers list` names the consumers.")
    return None


def _said(patterns: Sequence[str]) -> str:
    return ", ".join(patterns) or "no event"
