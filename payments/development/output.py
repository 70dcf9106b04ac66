"""The children's output on one terminal: whole lines, each with its process's name before it."""

import os
import sys
import threading
from typing import IO

LINE_BYTES_MAX = 65_536  # a line without end must not fill our memory
NAME_WIDTH = 9
COLOURS = ("36", "33", "32", "35", "34", "96", "93", "92", "95", "94")


class Output:
    """Writes lines of many processes to one stream, never mixing two lines."""

    def __init__(self, stream: IO[str] = sys.stdout, *, colour: bool) -> None:
        self._stream = stream
        self._colour = colour
        self._lock = threading.Lock()
        self._names: list[str] = []
        self._closed = False

    def pipe(self, name: str) -> int:
        """Return a descriptor for a child to write to; the caller closes its own copy once the child has it."""
        reading, writing = os.pipe()
        # One thread a pipe, ending with the child: a slow terminal then holds up that child alone, not the supervisor.
        threading.Thread(target=self._forward, args=(reading, name), name=f"output of {name}", daemon=True).start()
        return writing

    def say(self, name: str, text: str) -> None:
        """Write `text` as lines of the process `name`."""
        before = self._prefix(name)
        self._write("".join(f"{before}{line}\n" for line in text.splitlines()))

    def print(self, text: str) -> None:
        """Write `text` as it stands."""
        self._write(f"{text}\n")

    def _write(self, text: str) -> None:
        with self._lock:
            if self._closed:
                return
            try:
                self._stream.write(text)
                self._stream.flush()
            except OSError:
                self._closed = True  # the terminal is gone; the children must still be read, or they would block

    def _forward(self, descriptor: int, name: str) -> None:
        with os.fdopen(descriptor, "rb") as pipe:
            while line := pipe.readline(LINE_BYTES_MAX):
                self.say(name, line.decode(errors="replace").rstrip("\n"))

    def _prefix(self, name: str) -> str:
        plain = f"{name:<{NAME_WIDTH}} | "
        if not self._colour:
            return plain
        if name not in self._names:
            self._names.append(name)
        return f"\x1b[{COLOURS[self._names.index(name) % len(COLOURS)]}m{plain}\x1b[0m"
