"""Ctrl-C and SIGTERM, noted rather than suffered, so that a stop is orderly wherever it arrives."""

import contextlib
import select
import signal
import socket
from collections.abc import Iterator
from types import FrameType


class StopSignals:
    """While `caught()`, notes requests to stop and wakes `wait()`, also when a child dies."""

    def __init__(self) -> None:
        self.requested = False
        self.hurried = False
        self._interrupting = False
        self._reading, self._writing = socket.socketpair()

    @contextlib.contextmanager
    def caught(self) -> Iterator[None]:
        """Take over SIGINT, SIGTERM, SIGHUP (the terminal is closed) and SIGCHLD; give them back at the end."""
        for end in (self._reading, self._writing):
            end.settimeout(0)
        handled = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD)
        before = {each: signal.signal(each, self._note) for each in handled}
        wakeup_before = signal.set_wakeup_fd(self._writing.fileno(), warn_on_full_buffer=False)
        try:
            yield
        finally:
            signal.set_wakeup_fd(wakeup_before)
            for each, handler in before.items():
                signal.signal(each, handler)
            self._reading.close()
            self._writing.close()

    @contextlib.contextmanager
    def interrupting(self) -> Iterator[None]:
        """Meanwhile, turn a request to stop into `KeyboardInterrupt`: the block may wait for long."""
        self._interrupting = True
        try:
            if self.requested:
                raise KeyboardInterrupt
            yield
        finally:
            self._interrupting = False

    def wait(self, timeout_s: float) -> None:
        """Return after `timeout_s`, or at once when a signal has come since the last call."""
        if select.select([self._reading], [], [], timeout_s)[0]:
            with contextlib.suppress(BlockingIOError):
                while self._reading.recv(4096):
                    pass

    def _note(self, number: int, _frame: FrameType | None) -> None:
        if number == signal.SIGCHLD:
            return
        # Only a second Ctrl-C hurries: `make` may forward a SIGTERM that has already reached us.
        self.hurried = self.hurried or (self.requested and number == signal.SIGINT)
        self.requested = True
        if self._interrupting:
            self._interrupting = False
            raise KeyboardInterrupt
