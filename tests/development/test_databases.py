"""The shared fixtures themselves: servers, fresh databases, waiting."""

from collections.abc import Awaitable, Callable

import pytest

from tests.development.databases import Database


@pytest.mark.every_postgres
def test_empty_database_is_empty_and_answers(empty_database: Database) -> None:
    with empty_database.connect() as conn:
        assert conn.execute("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'").fetchone() == (0,)


def test_eventually_returns_what_became_true(eventually: Callable[..., object]) -> None:
    numbers = iter([0, 0, 7])
    assert eventually(lambda: next(numbers)) == 7


def test_eventually_raises_with_the_last_value(eventually: Callable[..., object]) -> None:
    with pytest.raises(AssertionError, match="last value was 0"):
        eventually(lambda: 0, deadline_s=0.05)


@pytest.mark.anyio
async def test_eventually_async_awaits_its_predicate(eventually_async: Callable[..., Awaitable[object]]) -> None:
    async def three() -> int:
        return 3

    assert await eventually_async(three) == 3
