"""What is told to PostgreSQL, to see that no secret is among it."""

from typing import Any

import psycopg
import pytest
from psycopg import sql


def listen_to_statements(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """From now on, every statement of this process with its values, as the server's log would have it."""
    told: list[str] = []
    execute = psycopg.Cursor.execute

    def listening(cursor: Any, query: Any, *args: Any, **options: Any) -> Any:
        told.append(f"{query.as_string(cursor) if isinstance(query, sql.Composable) else query} {args}")
        return execute(cursor, query, *args, **options)

    monkeypatch.setattr(psycopg.Cursor, "execute", listening)
    return told
