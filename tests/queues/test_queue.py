"""Leases and fences on a real pgmq queue, beside pgmq's own functions."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar
from uuid import UUID

import msgspec
import psycopg
import pytest

from payments.database.connections import Pool, open_pool, transaction
from payments.queues.queue import SWEEP_EVERY_S, Leased, Queue
from tests.database.rows import insert_payment
from tests.development.databases import Database

T = TypeVar("T")
NAME = "payment_requested"
LEASE_S = 30.0

pytestmark = pytest.mark.every_postgres


def run(database: Database, do: Callable[[Pool], Awaitable[T]]) -> T:
    async def main() -> T:
        async with open_pool(database.dsn("payments_worker"), "payments_worker", 4) as pool:
            return await do(pool)

    return asyncio.run(main())


def send(database: Database, count: int, delay_s: int = 0) -> list[int]:
    query = (
        "select pgmq.send_batch(%s, array(select jsonb_build_object('n', n) from generate_series(1, %s) n), "
        "array(select jsonb_build_object('ce-id', 'event ' || n) from generate_series(1, %s) n), %s)"
    )
    with database.connect() as conn:
        return [row[0] for row in conn.execute(query, (NAME, count, count, delay_s))]


def rows(database: Database, query: str, *values: Any) -> list[tuple[Any, ...]]:
    with database.connect() as conn:
        return conn.execute(query, values).fetchall()


async def lease(pool: Pool, queue: Queue, quantity: int) -> list[Leased]:
    async with transaction(pool) as conn:
        return await queue.lease(conn, quantity)


async def lease_soon(pool: Pool, queue: Queue, quantity: int) -> list[Leased]:
    """The next leases, at the latest when the sweep comes round."""
    end = time.monotonic() + SWEEP_EVERY_S + 5
    while not (leases := await lease(pool, queue, quantity)):
        assert time.monotonic() < end, "no sweep found it"
        await asyncio.sleep(0.02)
    return leases


async def ack(pool: Pool, queue: Queue, leases: list[Leased]) -> set[int]:
    async with transaction(pool) as conn:
        return await queue.ack(conn, leases)


def test_queue_leases_no_more_than_asked_and_nothing_twice(database: Database) -> None:
    send(database, 5)

    async def main(pool: Pool) -> None:
        one, other = Queue(NAME, LEASE_S), Queue(NAME, LEASE_S)
        async with transaction(pool) as conn:
            assert await one.count_due(conn, 3) == 3
            assert await one.count_due(conn, 9) == 5
        first, second = await lease(pool, one, 3), await lease(pool, other, 3)
        assert [len(first), len(second)] == [3, 2]
        assert {each.msg_id for each in first}.isdisjoint(each.msg_id for each in second)
        assert {each.read_ct for each in first + second} == {1}
        assert first[0].message == {"n": first[0].msg_id}
        assert await lease(pool, one, 3) == []
        async with transaction(pool) as conn:
            assert await one.count_due(conn, 9) == 0

    run(database, main)


def test_queue_leases_side_by_side_without_waiting(database: Database) -> None:
    send(database, 40)

    async def main(pool: Pool) -> None:
        taken = await asyncio.gather(*(lease(pool, Queue(NAME, LEASE_S), 10) for _ in range(4)))
        ids = [each.msg_id for leases in taken for each in leases]
        assert len(ids) == len(set(ids))

    run(database, main)


def test_queue_lease_ends_no_later_here_than_in_the_database(database: Database) -> None:
    send(database, 1)

    async def main(pool: Pool) -> None:
        (held,) = await lease(pool, Queue(NAME, LEASE_S), 1)
        (row,) = rows(database, "select extract(epoch from vt - clock_timestamp()) from pgmq.q_payment_requested")
        assert held.ends_at - time.monotonic() <= float(row[0]) + 0.1
        assert held.ends_at - time.monotonic() > LEASE_S - 5

    run(database, main)


def test_queue_leases_what_its_count_has_found_by_looking_at_all(database: Database) -> None:
    """What became due below its floor, put back by hand: a count alone must not use up the look."""
    first, *_ = send(database, 3)
    now = 1_000.0

    async def main(pool: Pool) -> None:
        nonlocal now
        queue = Queue(NAME, LEASE_S, clock=lambda: now)
        assert len(await lease(pool, queue, 3)) == 3
        with database.connect() as conn:
            conn.execute("select pgmq.set_vt(%s, %s, 0)", (NAME, first))
            conn.execute("update pgmq.q_payment_requested set vt = vt - interval '1 day' where msg_id = %s", (first,))
        now += SWEEP_EVERY_S + 1
        async with transaction(pool) as conn:
            assert await queue.count_due(conn, 3) == 1
            assert [each.msg_id for each in await queue.lease(conn, 3)] == [first]

    run(database, main)


def test_queue_counts_a_lease_from_before_it_asks_for_it(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """However slow the database is: nobody may believe to hold a command longer than the others are told."""
    send(database, 2)
    now = 1_000.0

    async def main(pool: Pool) -> None:
        (slowly,) = await lease(pool, Queue(NAME, LEASE_S, clock=iter(range(1_000, 2_000)).__next__), 1)
        assert slowly.ends_at == 1_000 + LEASE_S
        queue = Queue(NAME, LEASE_S, clock=lambda: now)
        (held,) = await lease(pool, queue, 1)
        assert held.ends_at == now + LEASE_S
        postpone = queue.postpone

        async def postpone_slowly(*asked: Any) -> set[int]:
            nonlocal now
            now += 10
            return await postpone(*asked)

        monkeypatch.setattr(queue, "postpone", postpone_slowly)
        async with transaction(pool) as conn:
            (extended,) = await queue.extend(conn, [held])
        assert (now, extended.ends_at) == (1_010.0, 1_000.0 + LEASE_S)

    run(database, main)


def test_queue_refuses_whoever_lost_the_lease(database: Database) -> None:
    send(database, 1)

    async def main(pool: Pool) -> None:
        queue = Queue(NAME, 0.0)  # a lease that runs out at once
        (stale,) = await lease(pool, queue, 1)
        (held,) = await lease(pool, Queue(NAME, LEASE_S), 1)
        assert held.read_ct == stale.read_ct + 1
        async with transaction(pool) as conn:
            assert await queue.ack(conn, [stale]) == set()
            assert await queue.extend(conn, [stale]) == []
            assert await queue.postpone(conn, [stale], [0.0]) == set()
            assert not await queue.postpone_faulty(conn, stale, 0.0)
            assert not await queue.dead_letter(conn, stale, None, "stale")
        assert rows(database, "select * from payments.dead_letters") == []
        assert await ack(pool, queue, [held]) == {held.msg_id}
        assert await ack(pool, queue, [held]) == set()

    run(database, main)


def test_queue_acknowledges_in_batches_only_what_still_holds(database: Database) -> None:
    send(database, 6)

    async def main(pool: Pool) -> None:
        queue = Queue(NAME, LEASE_S)
        leases = await lease(pool, queue, 6)
        lost = [msgspec.structs.replace(each, read_ct=each.read_ct - 1) for each in leases[::2]]
        assert await ack(pool, queue, lost + leases[1::2]) == {each.msg_id for each in leases[1::2]}
        assert len(rows(database, "select from pgmq.q_payment_requested")) == 3

    run(database, main)


def test_queue_extends_and_hands_back(database: Database) -> None:
    send(database, 2)

    async def main(pool: Pool) -> None:
        queue = Queue(NAME, LEASE_S)
        kept, returned = await lease(pool, queue, 2)
        async with transaction(pool) as conn:
            (extended,) = await queue.extend(conn, [kept])
            assert await queue.postpone(conn, [returned], [0.0]) == {returned.msg_id}
        assert extended.ends_at >= kept.ends_at
        assert (extended.msg_id, extended.read_ct) == (kept.msg_id, kept.read_ct)
        again = await lease_soon(pool, queue, 2)
        assert [(each.msg_id, each.read_ct) for each in again] == [(returned.msg_id, 2)]
        assert again[0].faults == 0

    run(database, main)


def test_queue_counts_faults_in_the_message(database: Database) -> None:
    send(database, 1)
    with database.connect() as conn:
        conn.execute("select pgmq.send(%s, '{}', '7'::jsonb)", (NAME,))  # headers that nobody should send

    async def main(pool: Pool) -> None:
        queue = Queue(NAME, LEASE_S)
        leases: list[Leased] = []
        for faults in range(3):
            leases = await lease_soon(pool, queue, 2)
            if len(leases) == 1:
                leases += await lease_soon(pool, queue, 2)
            assert {each.faults for each in leases} == {faults}
            async with transaction(pool) as conn:
                for each in leases:
                    assert await queue.postpone_faulty(conn, each, 0.0)
        assert leases[0].headers.get("ce-id", "event 1") == "event 1"

    run(database, main)


def test_queue_moves_the_dead_to_their_letters(database: Database) -> None:
    send(database, 1)
    with database.connect() as conn:
        payment_id: UUID = insert_payment(conn)
        conn.execute("select pgmq.send(%s, null::jsonb)", (NAME,))

    async def main(pool: Pool) -> None:
        queue = Queue(NAME, LEASE_S)
        first, second = await lease(pool, queue, 2)
        async with transaction(pool) as conn:
            assert await queue.dead_letter(conn, first, payment_id, "why")
            assert await queue.dead_letter(conn, second, None, "no message")

    run(database, main)
    query = "select origin, message_id, payment_id, payload, attempts, error from payments.dead_letters order by 2 desc"
    assert rows(database, query) == [
        (f"queue:{NAME}", "event 1", payment_id, {"n": 1}, 1, "why"),
        (f"queue:{NAME}", "2", None, None, 1, "no message"),
    ]
    assert rows(database, "select * from pgmq.q_payment_requested") == []


def test_queue_message_that_dies_again_opens_its_letter_again(database: Database) -> None:
    async def die(pool: Pool) -> None:
        queue = Queue(NAME, LEASE_S)
        (held,) = await lease(pool, queue, 1)
        async with transaction(pool) as conn:
            assert await queue.dead_letter(conn, held, None, "again")

    send(database, 1)
    run(database, die)
    with database.connect() as conn:
        conn.execute("update payments.dead_letters set resolved_at = now(), resolution = 'redriven'")
    send(database, 1)
    run(database, die)
    assert rows(database, "select resolved_at, resolution, error from payments.dead_letters") == [(None, None, "again")]


def test_queue_finds_what_lies_below_its_floor(database: Database) -> None:
    """A late commit, or a vt set into the past: the sweep finds them within about a second."""

    async def main(pool: Pool) -> None:
        queue = Queue(NAME, LEASE_S)
        with database.connect(autocommit=False) as late:
            late.execute("select pgmq.send(%s, '{}')", (NAME,))
            await asyncio.sleep(0.4)  # beyond the trail of the floor
            send(database, 1)
            (seen,) = await lease(pool, queue, 9)
            late.commit()
        (found,) = await lease_soon(pool, queue, 9)
        assert found.msg_id < seen.msg_id
        async with transaction(pool) as conn:
            await queue.postpone(conn, [found], [-600.0])
        (again,) = await lease_soon(pool, queue, 9)
        assert (again.msg_id, again.read_ct) == (found.msg_id, found.read_ct + 1)

    run(database, main)


def test_queue_works_beside_pgmqs_own_functions(database: Database) -> None:
    send(database, 3)

    async def main(pool: Pool) -> None:
        queue = Queue(NAME, LEASE_S)
        (held,) = await lease(pool, queue, 1)
        ((theirs,),) = rows(database, "select msg_id from pgmq.read(%s, 30, 1)", NAME)
        assert theirs != held.msg_id
        rows(database, "select pgmq.archive(%s, %s)", NAME, theirs)
        rows(database, "select pgmq.set_vt(%s, %s, 0)", NAME, held.msg_id)
        ((again,),) = rows(database, "select msg_id from pgmq.read(%s, 30, 1)", NAME)
        assert again == held.msg_id
        assert await ack(pool, queue, [held]) == set()  # read by somebody else since
        (left,) = await lease(pool, queue, 9)
        assert await ack(pool, queue, [left]) == {left.msg_id}

    run(database, main)


def test_queue_keeps_its_plans_when_an_empty_queue_fills(database: Database) -> None:
    """Plans are cached after a few runs; those made on the empty queue must serve the full one, without scanning it."""
    scans = "select coalesce(seq_scan, 0) from pg_stat_all_tables where relid = 'pgmq.q_payment_requested'::regclass"

    async def use(pool: Pool, queue: Queue) -> int:
        async with transaction(pool) as conn:
            await queue.count_due(conn, 10)
            leases = await queue.lease(conn, 10)
            await queue.extend(conn, leases)
            await queue.ack(conn, leases[:5])
            await queue.postpone(conn, leases[5:], [600.0] * len(leases[5:]))
            await conn.execute("select pg_stat_force_next_flush()")
            return len(leases)

    async def main() -> None:
        async with open_pool(database.dsn("payments_worker"), "payments_worker", 1) as pool:
            queue = Queue(NAME, LEASE_S)
            for _ in range(12):
                assert await use(pool, queue) == 0
            send(database, 20_000, delay_s=600)
            send(database, 30)
            before = rows(database, scans)
            assert [await use(pool, queue) for _ in range(4)] == [10, 10, 10, 0]
            assert rows(database, scans) == before

    asyncio.run(main())


def test_queue_lease_waits_for_nobodys_lock(database: Database) -> None:
    first, second = send(database, 2)

    async def main(pool: Pool) -> None:
        with database.connect(autocommit=False) as other:
            other.execute("select from pgmq.q_payment_requested where msg_id = %s for update", (first,))
            assert [each.msg_id for each in await lease(pool, Queue(NAME, LEASE_S), 9)] == [second]

    run(database, main)


def test_queue_of_another_name_cannot_be_reached(database: Database) -> None:
    async def main(pool: Pool) -> None:
        with pytest.raises(psycopg.errors.UndefinedTable):
            await lease(pool, Queue('x"; drop table payments.payments; --', LEASE_S), 1)
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            await lease(pool, Queue("ordering", LEASE_S), 1)

    run(database, main)
    assert rows(database, "select count(*) from payments.payments") == [(0,)]
