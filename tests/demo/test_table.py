"""The table that the demo ends in can be read on the narrowest of usual terminals."""

from types import SimpleNamespace
from typing import Any, cast

from rich.console import Console

from payments.commands.demo import _table
from payments.demo.checkouts import KINDS, Outcome


def test_table_shows_every_sum_whole_in_80_columns() -> None:
    payment = {"paymentId": "p1", "status": "ACTION_REQUIRED", "amountAuthorized": 22_222_221, "amountCaptured": 9}
    intent = {"metadata": {"paymentId": "p1"}, "amount_authorized": 33_333_332, "amount_captured": 10}
    outcomes = [cast("Outcome", SimpleNamespace(kind=kind, payment=payment)) for kind in KINDS]
    ledger: dict[str, Any] = {"payment_intents": [intent]}
    console = Console(width=80)
    with console.capture() as capture:
        console.print(_table(outcomes, ledger))
    assert capture.get().count("22222212") == capture.get().count("33333322") == len(KINDS)
    assert "…" not in capture.get()
