"""What a teller keeps of the answers to its wishes."""

import asyncio
import random
from typing import Any, cast

from soak.lives import LIVES, Teller, Told, Wish
from soak.system import System

LIFE = next(life for life in LIVES if life.name == "capture against void")
NO = (409, {"code": "not_capturable"})


class Answering:
    """A system that gives these answers, one after the other."""

    def __init__(self, *answers: tuple[int, Any]) -> None:
        self.answers = list(answers)
        self.keys: list[str] = []
        self.problems: list[str] = []

    async def api(self, _method: str, _path: str, _body: Any, headers: dict[str, str]) -> tuple[int, Any]:
        self.keys.append(headers["Idempotency-Key"])
        return self.answers.pop(0)

    def problem(self, text: str) -> None:
        self.problems.append(text)


class Twice(random.Random):
    """Everything is asked twice."""

    def random(self) -> float:
        return 0.0


def ask(system: Answering, what: str, body: dict[str, Any] | None = None) -> Told:
    told: dict[str, Told] = {}
    teller = Teller(cast("System", system), LIFE, Twice(), told)
    teller.begin(LIFE, {"amount": 1_000, "currency": "EUR"}, "p")
    first = system.answers[0]
    assert asyncio.run(teller.ask(what, body)) == first
    assert len(set(system.keys)) == 1
    return told["p"]


def test_accepted_capture_is_kept_with_its_amount() -> None:
    system = Answering((202, {"version": 3}), (202, {"version": 3}))
    assert set(ask(system, "capture", {"amount": 500}).captures) == {500}
    assert set(ask(Answering((202, {}), (202, {})), "capture").captures) == {1_000}
    assert system.problems == []


def test_wish_that_is_granted_when_asked_again_is_kept() -> None:
    system = Answering(NO, (202, {}))
    assert ask(system, "capture").captures == [1_000]
    told = ask(Answering(NO, (202, {})), "void")
    assert told.is_voided
    assert told.may_end == {"VOIDED"}
    assert ask(Answering(NO, (201, {"refundId": "r", "amount": 7})), "refunds").refunds == [Wish("r", 7)]
    assert system.problems == []


def test_refused_wish_narrows_the_ends() -> None:
    told = ask(Answering(NO, NO), "void")
    assert told.may_end == set()
    told.hear("capture", {}, 202, {})
    assert told.may_end == {"SUCCEEDED"}


def test_acceptance_is_repeated_word_by_word() -> None:
    for again in ((202, {"version": 4}), NO):
        system = Answering((202, {"version": 3}), again)
        ask(system, "capture")
        assert len(system.problems) == 1
    two = Answering((201, {"refundId": "r", "amount": 7}), (201, {"refundId": "r2", "amount": 7}))
    assert ask(two, "refunds").refunds == [Wish("r", 7), Wish("r2", 7)]
    assert len(two.problems) == 1


def test_other_answers_are_told_of() -> None:
    system = Answering(*[(404, {"code": "payment_not_found"})] * 2)
    ask(system, "void")
    assert len(system.problems) == 2
