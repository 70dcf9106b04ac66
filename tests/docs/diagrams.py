"""The diagrams of docs/life-of-a-payment.md, drawn from the state machines in the code.

`python -m tests.docs.diagrams` draws them anew.
"""

import re
from collections.abc import Iterable, Mapping
from enum import StrEnum
from pathlib import Path
from typing import TypeVar

from payments.domain.refunds import REFUND_TRANSITIONS, RefundStatus
from payments.domain.states import TRANSITIONS, EventType, PaymentStatus

PAGE = Path(__file__).parents[2] / "docs" / "life-of-a-payment.md"
BLOCK = re.compile(r"<!-- drawn from the code: (?P<name>[a-z, ]+) -->\n(?P<picture>```mermaid\n.*?```\n)", re.DOTALL)

_S = PaymentStatus
# One picture of all ways would be a ball of wool: until Stripe has said yes or no, and what is wished after that.
_BEGINNING = (_S.REQUESTED, _S.ACTION_REQUIRED, _S.PROCESSING)
_AFTERWARDS = (_S.AUTHORIZED, _S.CAPTURING, _S.VOIDING)

State = TypeVar("State", bound=StrEnum)


def diagrams() -> dict[str, str]:
    """Each picture by the name that stands above it on the page."""
    return {
        "the beginning": _draw(TRANSITIONS, _BEGINNING, _S.REQUESTED),
        "hold, capture and void": _draw(TRANSITIONS, _AFTERWARDS, None),
        "refunds": _draw(REFUND_TRANSITIONS, RefundStatus, RefundStatus.REQUESTED),
    }


def drawn() -> dict[str, str]:
    """Each picture as it stands on the page."""
    return {match["name"]: match["picture"] for match in BLOCK.finditer(PAGE.read_text(encoding="utf-8"))}


def _draw(ways: Mapping[State, Mapping[State, EventType | None]], froms: Iterable[State], start: State | None) -> str:
    lines = ["```mermaid", "stateDiagram-v2", "    direction LR"]
    if start is not None:
        lines.append(f"    [*] --> {start}")
    reached: dict[State, None] = {}
    for old in froms:
        for new, event in ways[old].items():
            lines.append(f"    {old} --> {new}" + (f": {event}" if event else ""))
            reached[new] = None
    lines += [f"    {end} --> [*]" for end in reached if not ways[end]]
    return "\n".join([*lines, "```", ""])


def main() -> None:
    """Draw every picture of the page anew."""
    pictures = diagrams()
    text = PAGE.read_text(encoding="utf-8")

    def redrawn(match: re.Match[str]) -> str:
        return match.group().replace(match["picture"], pictures[match["name"]])

    PAGE.write_text(BLOCK.sub(redrawn, text), encoding="utf-8")


if __name__ == "__main__":
    main()
