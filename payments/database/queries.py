"""SQL lives in sql/queries, as named and commented queries; this module hands them out by name.

A file holds blocks that begin with `-- name: <name>`; the comment lines below the name say what the query is for.
"""

import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from types import MappingProxyType

_PACKAGE = Path(__file__).resolve().parent.parent
# Beside the package in a checkout, inside it in an installed wheel.
SQL_DIRECTORY = _PACKAGE / "sql" if (_PACKAGE / "sql").is_dir() else _PACKAGE.parent / "sql"

_NAME = re.compile(r"^-- name: (?P<name>[a-z_]+)$", re.MULTILINE)


@cache
def load_queries(room: str) -> Mapping[str, bytes]:
    """The queries of sql/queries/<room>.sql by name, as bytes for psycopg (parameters are %(name)s)."""
    text = (SQL_DIRECTORY / "queries" / f"{room}.sql").read_text(encoding="utf-8")
    marks = list(_NAME.finditer(text))
    ends = [mark.start() for mark in marks[1:]] + [len(text)]
    queries: dict[str, bytes] = {}
    for mark, end in zip(marks, ends, strict=True):
        if mark["name"] in queries:
            raise ValueError(f"sql/queries/{room}.sql names {mark['name']} twice")
        queries[mark["name"]] = text[mark.end() : end].strip().removesuffix(";").encode()
    return MappingProxyType(queries)


def rooms() -> list[str]:
    """The names of all query files, for tests that prepare every query against the schema."""
    return sorted(path.stem for path in (SQL_DIRECTORY / "queries").glob("*.sql"))
