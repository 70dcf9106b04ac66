"""A child process that cannot outlive its parent, even when the parent is killed with SIGKILL (Linux)."""

import ctypes
import os
import signal
import sys
import threading
from collections.abc import Callable

PR_SET_PDEATHSIG = 1  # <linux/prctl.h>


def bind_to_parent(death_signal: signal.Signals) -> Callable[[], None] | None:
    """Return a `preexec_fn` that makes the kernel send `death_signal` to the child when its parent dies.

    None where the kernel cannot (not Linux), or off the main thread: the kernel watches the *thread* that forked, and a
    worker thread that merely ends would take the child with it. Leftovers are then stopped at the next start.
    """
    if not sys.platform.startswith("linux") or threading.current_thread() is not threading.main_thread():
        return None
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    parent = os.getpid()

    def bind() -> None:
        prctl(PR_SET_PDEATHSIG, int(death_signal), 0, 0, 0)
        if os.getppid() != parent:  # it died between fork and prctl: nobody will send the signal
            os._exit(1)

    return bind
