"""A Stripe that outlives two installations: one that is lost, and the one that is restored from its backup."""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from tests.conftest import wait_until
from tests.scenarios.stripe import Stripe
from tests.scenarios.world import World
from tests.system.running import PROCESSES, System, free_port, payments_up, surroundings

KEY, SECRET = "sk_test_twolives0", "whsec_twolives0"


class OneStripe:
    """The sandbox as a process of its own, which tells whoever listens on `api_port`."""

    def __init__(self, home: Path) -> None:
        self.api_port = free_port()
        self.base = f"http://127.0.0.1:{free_port()}"
        options = {
            "--port": self.base.rpartition(":")[2],
            "--state": str(home / "sandbox.db"),
            "--webhook-url": f"http://127.0.0.1:{self.api_port}/webhooks/stripe",
            "--webhook-secret": SECRET,
            "--api-key": KEY,
        }
        words = [word for option in options.items() for word in option]
        self.process = subprocess.Popen([sys.executable, "-m", "stripe_sandbox", *words], stdout=subprocess.DEVNULL)
        wait_until(self._is_up)
        self.steering = Stripe(self.base, KEY)
        self.steering.reset_steering()

    def _is_up(self) -> bool:
        try:
            return httpx.get(f"{self.base}/_sandbox/health").status_code == 200
        except httpx.TransportError:
            return False

    @property
    def settings(self) -> dict[str, str]:
        """What an installation needs to know of it."""
        return {
            "STRIPE_API_BASE": self.base,
            "STRIPE_API_KEY": KEY,
            "STRIPE_WEBHOOK_SECRETS": SECRET,
            "PORT": str(self.api_port),
            "PAYMENTS_EVENTS_BACKFILL_S": "86400",  # nothing but the look at Stripe after a restore asks for events
        }

    @contextmanager
    def installation(self, *arguments: str, **settings: str) -> Iterator[World]:
        """A whole system that works with this Stripe; every book of its counts, from the first payment on."""
        with payments_up(*arguments, **self.settings, **settings) as system:
            world = World(system, self.steering)
            world.count_everything()
            yield world

    @contextmanager
    def worker(self, system: System, dsn: str) -> Iterator[None]:
        """A worker for an installation that was started without one."""
        environment = surroundings() | self.settings | {"DATABASE_URL": dsn}
        with system.output.open("ab") as sink:
            process = subprocess.Popen([sys.executable, "-m", "payments", "worker"], env=environment, stderr=sink)
        try:
            yield
        finally:
            process.terminate()
            process.wait(30)


def lose(system: System) -> None:
    """The machine is gone: nothing is finished, and nothing of it runs any more."""
    system.up.kill()  # first, or it would put others in their place
    system.up.wait()
    pids = [pid for name in PROCESSES if (pid := system.pid(name)) is not None]
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGQUIT if pid == system.pid("postgres") else signal.SIGKILL)
    wait_until(lambda: not any(is_running(pid) for pid in pids))


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@contextmanager
def one_stripe() -> Iterator[OneStripe]:
    with tempfile.TemporaryDirectory(prefix="payments-stripe-") as home:
        stripe = OneStripe(Path(home))
        try:
            yield stripe
        finally:
            stripe.steering.http.close()
            stripe.process.kill()
            stripe.process.wait()
