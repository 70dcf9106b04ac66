"""Every order through the real database: two recorders at once, and real processes killed while they record."""

import asyncio
import json
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from payments.domain.identifiers import new_id
from tests.development.databases import Database
from tests.domain.stripe_lives import Life, Word, lives, possible_order
from tests.inbox.conftest import ROLE, Desk
from tests.inbox.rows import insert_life, insert_word

ONCE = ("payment-succeeded", "payment-failed", "payment-voided", "payment-expired")
ROOT = Path(__file__).parents[2]
LIVES = 60


def draw_lives(number: int) -> list[Life]:
    """Some lives, the same ones for each number."""
    found: list[Life] = []

    @seed(number)
    @settings(
        max_examples=LIVES,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(st.data())
    def collect(data: st.DataObject) -> None:
        found.append(data.draw(lives(new_id(), f"pi_{len(found)}")))

    collect()
    return found


def words_of(life: Life, chance: random.Random) -> list[Word]:
    """All words, each up to three times, in any order that is possible."""
    copies = [word for word in life.words for _ in range(chance.randint(1, 3))]
    chance.shuffle(copies)
    return possible_order(copies)


def assert_books_are_right(conn: Any, expected: dict[UUID, Life]) -> None:
    found = conn.execute(
        """
        select p.payment_id, p.status, array(
          select event_type from payments.outbox where aggregate_id = p.payment_id order by sequence
        ) from payments.payments p
        """
    ).fetchall()
    assert len(found) == len(expected)
    for payment_id, status, events in found:
        assert status == expected[payment_id].ends_as, expected[payment_id]
        for name in ONCE:
            assert events.count(name) == (f"payment-{status.lower()}" == name)
    assert conn.execute("select * from payments.imbalances where kind not like '%_unowned'").fetchall() == []
    assert conn.execute("select error from payments.dead_letters").fetchall() == []


@pytest.mark.anyio
@pytest.mark.every_postgres
async def test_two_recorders_and_any_order_end_as_what_is_true(desk: Desk) -> None:
    chance = random.Random(1)
    expected = {insert_life(desk.admin, life): life for life in draw_lives(1)}
    piles = {payment_id: words_of(life, chance) for payment_id, life in expected.items()}
    desk.truth.intents = {life.snapshots[-1]["id"]: life.snapshots[-1] for life in expected.values()}
    recorders = [desk.recorder, desk.another_recorder()]
    while any(piles.values()):
        for payment_id, words in piles.items():
            for word in words[:2]:
                insert_word(desk.admin, word, payment_id, len(words))
            del words[:2]
        await asyncio.gather(*(recorder.run_once() for recorder in recorders))
    await asyncio.gather(*(desk.settle(recorder) for recorder in recorders))
    assert_books_are_right(desk.admin, expected)


@contextmanager
def recording(database: Database) -> Iterator[subprocess.Popen[bytes]]:
    environment = {"STRIPE_TIMEOUT_S": "0.1", "PAYMENTS_POLL_INTERVAL_MS": "20"}
    command = [sys.executable, "-m", "tests.inbox.recorder_process", database.dsn(ROLE), json.dumps(environment)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            yield process
        finally:
            process.kill()


def test_recorders_killed_at_any_moment_lose_and_double_nothing(
    database: Database, eventually: Callable[..., Any]
) -> None:
    chance = random.Random(2)
    with database.connect() as admin:
        expected = {insert_life(admin, life): life for life in draw_lives(2)}
        admin.execute("create table public.truth (object_id text primary key, object jsonb not null)")
        admin.execute("grant select on public.truth to payments_worker")
        words: list[tuple[int, UUID, Word]] = []
        for payment_id, life in expected.items():
            last = life.snapshots[-1]
            admin.execute("insert into public.truth values (%s, %s)", (last["id"], json.dumps(last)))
            words += [(number, payment_id, word) for number, word in enumerate(words_of(life, chance))]
        words.sort(key=lambda entry: entry[0])  # payments mixed, each one's own order kept

        def count_done() -> int:
            query = "select count(*) from payments.inbox where processed_at is not null"
            row: Any = admin.execute(query).fetchone()
            return int(row[0])

        def is_done() -> bool:
            admin.execute("update payments.inbox set next_attempt_at = now() where next_attempt_at > now()")
            return not admin.execute("select from payments.inbox where processed_at is null limit 1").fetchall()

        with recording(database):
            for begin in range(0, len(words), 60):
                with recording(database) as victim:
                    before = count_done()
                    for number, payment_id, word in words[begin : begin + 60]:
                        insert_word(admin, word, payment_id, number)
                    eventually(lambda before=before: count_done() > before)
                    time.sleep(chance.uniform(0, 0.03))
                    victim.kill()
            eventually(is_done, deadline_s=30)
        assert_books_are_right(admin, expected)
