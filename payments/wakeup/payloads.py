"""Payloads of notifications: gathered in a bounded set, sent several at a time.

The empty payload means 'anything may have happened'; it stands in wherever the particulars were lost or too many.
"""

from collections.abc import Iterable, Iterator

ANYTHING = ""
SEPARATOR = ","
# PostgreSQL takes 7,999 bytes.
BYTES_MAX = 7_500
# A waiter that got so many particulars looks at everything instead; about 400 kB of ids.
GATHERED_MAX = 10_000


def gather(into: set[str], payloads: Iterable[str]) -> None:
    """Adds payloads; a set that grows too big turns into 'anything'."""
    into.update(payloads)
    if len(into) > GATHERED_MAX:
        into.clear()
        into.add(ANYTHING)


def pack(payloads: Iterable[str]) -> Iterator[str]:
    """Joins payloads to as few notifications as BYTES_MAX allows."""
    packed: list[str] = []
    size = 0
    for payload in sorted(payloads):
        cost = len(payload.encode()) + len(SEPARATOR)
        if packed and size + cost > BYTES_MAX:
            yield SEPARATOR.join(packed)
            packed, size = [], 0
        packed.append(payload)
        size += cost
    if packed:
        yield SEPARATOR.join(packed)


def unpack(notification: str) -> list[str]:
    """What `pack` joined."""
    return notification.split(SEPARATOR)
