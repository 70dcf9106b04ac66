"""Crash points: where a process may be made to die, found in the drivers and not strewn over the product.

Everything a process does to the world passes psycopg's `AsyncConnection.wait` or aiohttp's client, so no commit, no
statement and no call can be without its point. At each, the process appends a line to `journal` in the directory; when
a line of `armed.<kind>` names the point, and this is the n-th time that any process of the kind comes by, it dies.

A point is a text: what is done, and the moment. `commit worker.find_call+…` is the commit of a transaction of just
these named queries (`none`: found nothing), or one statement in autocommit: `before` it is sent, `after` it is done.
`statement …` in a transaction has `before` only: to die after it is to die before the next. A call to Stripe is
`before`, `sent` (Stripe may execute it, nothing is read), `answered` (the head is read), `half` (a part of the body),
`read`.
"""

import asyncio
import os
import re
import signal
import sys
from collections.abc import Generator
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

PACKAGE = f"{os.sep}payments{os.sep}"
_ID = re.compile(r"/[a-z]+_(?:[a-z]+_)*[A-Za-z0-9]{8,}")
_QUEUE = re.compile(r'"pgmq"\."q_\w+"')
# What leaves the database as it is, or says what is said by a statement or a commit as well.
_HARMLESS = frozenset(
    {
        "BaseTransaction._enter_gen",
        "BaseTransaction._exit_gen",  # with an error: it rolls back
        "BaseConnection._rollback_gen",
        "BaseConnection._set_isolation_level_gen",
        "BasePipeline._enter_gen",
        "BasePipeline._sync_gen",
        "BasePipeline._exit_gen",
        "notifies",
    }
)


class Points:
    """The points of this process, and how it dies."""

    def __init__(self, kind: str, home: str) -> None:
        self._kind = kind
        self._home = home
        self._journal = os.open(f"{home}/journal", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        self._sites: set[tuple[CodeType, int, bool]] = set()
        self._armed_as = (0, 0)
        self._armed: dict[str, list[tuple[str, int]]] = {}

    def hit(self, what: str, moment: str) -> None:
        """The process is here; it may be the last it does."""
        point = f"{what} {moment}"
        lines = "".join(f"site\t{site}\n" for site in self._new_sites(what, moment))
        os.write(self._journal, f"{lines}{self._kind}\t{point}\n".encode())
        self._read_armed()
        for token, nth in self._armed.get(point, ()):
            if self._count(token) == nth:
                self._die(token, point)

    def _new_sites(self, what: str, moment: str) -> list[str]:
        """The lines of the product that lead here, for the check that none has been left out."""
        commits = what.startswith("commit ") and moment == "after"
        found = []
        frame: FrameType | None = sys._getframe(2)
        while frame is not None:
            site = (frame.f_code, frame.f_lineno, commits)
            if site not in self._sites:
                self._sites.add(site)
                name = frame.f_code.co_filename
                if PACKAGE in name:
                    place = f"payments/{name.rpartition(PACKAGE)[2]}:{frame.f_lineno}"
                    found.append(f"{'commit' if commits else 'passed'} {place}")
            frame = frame.f_back
        return found

    def _read_armed(self) -> None:
        path = f"{self._home}/armed.{self._kind}"
        try:
            status = os.stat(path)
        except FileNotFoundError:
            self._armed = {}
            return
        if (status.st_ino, status.st_mtime_ns) == self._armed_as:
            return
        self._armed_as, self._armed = (status.st_ino, status.st_mtime_ns), {}
        for line in Path(path).read_text(encoding="utf-8").splitlines():
            token, point, nth = line.split("\t")
            self._armed.setdefault(point, []).append((token, int(nth)))

    def _count(self, token: str) -> int:
        """How often processes of this kind came by since it was armed: appends are one after the other."""
        counter = os.open(f"{self._home}/count.{token}", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        os.write(counter, b".")
        position = os.lseek(counter, 0, os.SEEK_CUR)
        os.close(counter)
        return position

    def _die(self, token: str, point: str) -> None:
        try:
            marker = os.open(f"{self._home}/fired.{token}", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        except FileExistsError:
            return
        os.write(marker, f"{os.getpid()} {self._kind} {point}\n".encode())
        os.kill(os.getpid(), signal.SIGKILL)


def install(kind: str, home: str) -> None:
    """Puts points into psycopg and aiohttp, as this process will use them."""
    points = Points(kind, home)
    _install_in_psycopg(points)
    if kind == "worker":
        _install_in_aiohttp(points)
    else:
        sys.modules["aiohttp"] = None  # who never calls Stripe needs no client


def _install_in_psycopg(points: Points) -> None:
    from psycopg import AsyncConnection
    from psycopg.pq import TransactionStatus

    wait = AsyncConnection.wait
    named = _Names()

    async def at_points(self: Any, generator: Generator[Any, Any, Any], *args: Any, **options: Any) -> Any:
        step = generator.gi_code.co_qualname.rpartition(".<")[0] or generator.gi_code.co_qualname
        values = generator.gi_frame.f_locals
        is_open = self.pgconn.transaction_status != TransactionStatus.IDLE
        if step == "BaseTransaction._enter_gen" and not is_open:
            self.crash_path = []
        what = ""
        if step == "BaseCursor._execute_gen":
            what = named(values["query"])
            if is_open:
                points.hit(f"statement {what}", "before")
                result = await wait(self, generator, *args, **options)
                self.crash_path.append(what + _emptiness(values["self"].pgresult))
                return result
        elif step == "BaseConnection._commit_gen" or (step == "BaseTransaction._exit_gen" and not values["exc_val"]):
            what = "+".join(dict.fromkeys(self.crash_path)) if is_open else ""
            is_open = False
        elif step not in _HARMLESS:
            what = f"unknown {step}"
        if is_open or not what:
            return await wait(self, generator, *args, **options)
        points.hit(f"commit {what}", "before")
        result = await wait(self, generator, *args, **options)
        points.hit(f"commit {what}", "after")
        return result

    AsyncConnection.wait = at_points


def _emptiness(result: Any) -> str:
    """` none` when a statement found nothing to do: a look in vain is another point than one that finds work."""
    if result is None:  # queued in a pipeline: it is not known yet
        return ""
    is_number = (result.ntuples, result.nfields) == (1, 1)
    found = result.get_value(0, 0) not in {b"0", b"-1"} if is_number else result.ntuples or result.command_tuples
    return "" if found else " none"


class _Names:
    """From a statement's text to its name in sql/queries."""

    def __init__(self) -> None:
        self._known: dict[bytes, str] = {b"": "ping"}

    def __call__(self, query: Any) -> str:
        if len(self._known) == 1:
            self._load()
        text = query if isinstance(query, bytes) else _text(query)
        return self._known.get(text) or self._named_anew(text)

    def _load(self) -> None:
        from psycopg import sql

        from payments.database.queries import load_queries, rooms

        for room in rooms():
            for name, query in load_queries(room).items():
                # As Queue makes it for a queue of its own; other queries may hold braces.
                is_made = room == "queues" and b"{queue}" in query
                text = _text(sql.SQL(query.decode()).format(queue=sql.SQL("{queue}"))) if is_made else query
                known = self._known.get(text)
                self._known[text] = f"{known}/{room}.{name}" if known else f"{room}.{name}"

    def _named_anew(self, text: bytes) -> str:
        plain = _QUEUE.sub("{queue}", text.decode())
        name = self._known.get(plain.encode()) or (
            "listen" if plain.startswith("listen ") else f"unnamed {plain[:40]!r}"
        )
        self._known[text] = name
        return name


def _text(query: Any) -> bytes:
    return query.encode() if isinstance(query, str) else query.as_bytes(None)


def _install_in_aiohttp(points: Points) -> None:
    import aiohttp
    from aiohttp.streams import StreamReader

    request, start = aiohttp.ClientSession._request, aiohttp.ClientResponse.start
    names: dict[int, str] = {}

    class Body(StreamReader):
        """The body of an answer; every way of reading it comes by here."""

        __slots__ = ()

        def _read_nowait_chunk(self, n: int) -> bytes:
            chunk = super()._read_nowait_chunk(n)
            what = names.get(id(self), "")
            points.hit(what, "half")
            if self.at_eof():
                points.hit(what, "read")
            return chunk

    async def at_points(self: Any, method: str, url: Any, *args: Any, **options: Any) -> Any:
        points.hit(_call(method, str(url)), "before")
        return await request(self, method, url, *args, **options)

    async def start_at_points(self: Any, connection: Any) -> Any:
        what = _call(self.method, str(self.url))
        if self._writer is not None:
            await asyncio.wait({self._writer})
        points.hit(what, "sent")
        await start(self, connection)
        points.hit(what, "answered")
        if type(self.content) is StreamReader:
            self.content.__class__ = Body
            names[id(self.content)] = what
        return self

    aiohttp.ClientSession._request = at_points
    aiohttp.ClientResponse.start = start_at_points


def _call(method: str, url: str) -> str:
    path = "/" + url.partition("://")[2].partition("/")[2].partition("?")[0]
    return f"call {method.upper()} {_ID.sub('/{id}', path)}"
