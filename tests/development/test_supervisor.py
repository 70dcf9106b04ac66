"""`payments up` keeps everything running, stops in order, and clears up after its own sudden death.

The processes are small stand-ins; PostgreSQL, the sandbox and the supervisor are real, and killed for real.
"""

import contextlib
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import textwrap
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import psycopg
import pytest

from payments.development import child
from payments.development.dev_env import read_dev_env
from payments.development.free_port import pick_free_port
from payments.development.procfile import default_procfile
from payments.errors import DataDirectoryInUse, PortTaken
from payments.settings import SETTINGS
from tests.development.databases import Database

Wait = Callable[..., object]
START_DEADLINE_S = 60.0
STAND_IN = """
    import http.server, os, signal, sys, time
    name = sys.argv[1]
    open(f"{name}.environment", "w").write("\\n".join(f"{key}={value}" for key, value in os.environ.items()))
    signal.signal(signal.SIGTERM, signal.SIG_IGN if "stubborn" in sys.argv else lambda *_: sys.exit(0))
    class Ready(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()
        def log_message(self, *_):
            pass
    if name == "api":
        http.server.ThreadingHTTPServer((os.environ["HOST"], int(os.environ["PORT"])), Ready).serve_forever()
    while True:
        time.sleep(60)
"""


def clean_environment(**values: str) -> dict[str, str]:
    """Our environment without the developer's own settings, and with `values`."""
    ours = {f"{setting.name}{suffix}" for setting in SETTINGS for suffix in ("", "_FILE")}
    return {name: value for name, value in os.environ.items() if name not in ours} | values


class Up:
    """One `payments up` in a directory of its own."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.data_dir = directory / ".payments"
        self.port = pick_free_port("127.0.0.1")
        self.process: subprocess.Popen[bytes] | None = None
        (directory / "stand_in.py").write_text(textwrap.dedent(STAND_IN))
        self.write_procfile()

    def write_procfile(self, worker: str = "") -> None:
        lines = [f"{name}: {sys.executable} stand_in.py {name}" for name in ("api", "relay", "worker")]
        (self.directory / "Procfile").write_text("\n".join(lines) + f" {worker}\n")

    def start(self, *options: str, **environment: str) -> None:
        command = [sys.executable, "-m", "payments", "up", "--procfile", "Procfile", *options]
        surroundings = clean_environment(**{"PORT": str(self.port), "PAYMENTS_SHUTDOWN_GRACE_S": "1", **environment})
        with (self.directory / "output").open("ab") as output:
            self.process = subprocess.Popen(
                command, cwd=self.directory, env=surroundings, stdout=output, stderr=subprocess.STDOUT
            )

    def wait_ready(self, wait: Wait) -> dict[str, str]:
        def ready_or_dead() -> dict[str, str]:
            assert self.process
            assert self.process.poll() is None, self.output()
            return read_dev_env(self.data_dir)

        values = wait(ready_or_dead, START_DEADLINE_S)
        assert isinstance(values, dict)
        return values

    def stop(self, stop_signal: signal.Signals = signal.SIGTERM) -> int:
        assert self.process
        self.process.send_signal(stop_signal)
        return self.process.wait(30)

    def output(self) -> str:
        return (self.directory / "output").read_text()

    def pids(self) -> dict[str, int]:
        found = {}
        for path in (self.data_dir / "run").glob("*.pid"):
            with contextlib.suppress(OSError):
                found[path.stem] = int(path.read_text())
        return found


def is_gone(pid: int) -> bool:
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


@pytest.fixture(scope="module")
def directory() -> Iterator[Path]:
    # Not pytest's tmp_path: its parents are closed to others, and as root PostgreSQL runs as another user.
    with tempfile.TemporaryDirectory(prefix="payments-up-", ignore_cleanup_errors=True) as home:
        yield Path(home)


@pytest.fixture
def up(directory: Path, eventually: Wait) -> Iterator[Up]:
    """A `payments up` not yet started; its PostgreSQL is kept from test to test, as a developer's is."""
    subject = Up(directory)
    yield subject
    (directory / "output").unlink(missing_ok=True)
    if subject.process is not None and subject.process.poll() is None:
        subject.stop()
    left = [
        process.pid for process in psutil.process_iter(["cmdline"]) if str(directory) in str(process.info["cmdline"])
    ]
    assert not left, f"processes outlived `payments up`: {left}"


def test_up_is_ready_tells_how_to_use_it_and_stops_in_order(up: Up, eventually: Wait) -> None:
    up.start("--copies", "2")
    values = up.wait_ready(eventually)
    pids = up.pids()
    assert set(pids) == {"postgres", "sandbox", "api", "relay", "relay.2", "worker", "worker.2"}
    assert set(values) == {"API_URL", "API_KEY", "DATABASE_URL", "STRIPE_API_BASE", "STRIPE_WEBHOOK_SECRETS"}
    for secret in ("dev.env", "sandbox/api.key", "sandbox/webhook.secret"):
        assert stat.S_IMODE((up.data_dir / secret).stat().st_mode) == 0o600
    with psycopg.connect(values["DATABASE_URL"]) as conn:
        assert conn.execute("SELECT count(*) FROM payments.payments").fetchone() == (0,)
    with urllib.request.urlopen(f"{values['STRIPE_API_BASE']}/_sandbox/ledger") as answer:
        assert answer.status == 200
    eventually(lambda: "Ready." in up.output())
    assert values["API_KEY"] in up.output()
    assert up.stop(signal.SIGINT) == 0
    assert all(is_gone(pid) for pid in pids.values())
    assert up.pids() == {}
    assert read_dev_env(up.data_dir) == {}


def test_up_gives_each_process_its_own_login_and_the_sandbox(up: Up, eventually: Wait) -> None:
    up.start()
    values = up.wait_ready(eventually)
    for name in ("api", "relay", "worker"):
        lines = (up.directory / f"{name}.environment").read_text().splitlines()
        given = dict(line.split("=", 1) for line in lines if "=" in line)
        assert given["STRIPE_API_BASE"] == values["STRIPE_API_BASE"]
        assert given["STRIPE_API_KEY"].startswith("sk_test_")
        with psycopg.connect(given["DATABASE_URL"]) as conn:
            assert conn.execute("SELECT session_user::text").fetchone() == (f"payments_{name}",)


def test_up_asks_its_own_processes_past_any_proxy(up: Up, eventually: Wait) -> None:
    up.start(http_proxy="http://127.0.0.1:1", no_proxy="", NO_PROXY="")
    up.wait_ready(eventually)


@pytest.mark.parametrize("name", ["api", "worker", "sandbox", "postgres"])
def test_up_restarts_a_killed_process_within_a_second(up: Up, eventually: Wait, name: str) -> None:
    up.start()
    values = up.wait_ready(eventually)
    first = up.pids()[name]
    for _ in range(2):  # the second death comes soon after the start, and must not wait longer
        before = up.pids()[name]
        os.kill(before, signal.SIGKILL)
        killed_at = time.monotonic()
        eventually(lambda before=before: up.pids().get(name) not in {None, before})
        assert time.monotonic() - killed_at < 1.5  # the promise is one second; the rest is for a busy machine
    assert is_gone(first)

    def database_answers() -> bool:
        with contextlib.suppress(psycopg.OperationalError), psycopg.connect(values["DATABASE_URL"]) as conn:
            return conn.execute("SELECT 1").fetchone() == (1,)
        return False

    eventually(database_answers)


def test_up_ends_a_process_that_ignores_sigterm(up: Up, eventually: Wait) -> None:
    up.write_procfile(worker="stubborn")
    up.start()
    up.wait_ready(eventually)
    worker = up.pids()["worker"]
    assert up.stop() == 0
    assert is_gone(worker)


def test_up_hurries_at_the_second_ctrl_c(up: Up, eventually: Wait) -> None:
    up.write_procfile(worker="stubborn")
    up.start(PAYMENTS_SHUTDOWN_GRACE_S="300")
    up.wait_ready(eventually)
    assert up.process
    up.process.send_signal(signal.SIGINT)
    eventually(lambda: "stopping" in up.output())
    assert up.stop(signal.SIGINT) == 0


def test_up_killed_leaves_nothing_that_hinders_the_next_start(up: Up, eventually: Wait) -> None:
    up.write_procfile(worker="stubborn")  # it survives the kernel's SIGTERM: the next start must end it
    up.start()
    up.wait_ready(eventually)
    before = up.pids()
    with psycopg.connect(read_dev_env(up.data_dir)["DATABASE_URL"], autocommit=True) as conn:
        conn.execute("CREATE TABLE public.kept_over_a_crash ()")
    assert up.process
    up.process.kill()
    up.process.wait()
    (up.data_dir / "dev.env").unlink()
    up.start()
    values = up.wait_ready(eventually)
    assert all(is_gone(pid) for pid in before.values())
    with psycopg.connect(values["DATABASE_URL"], autocommit=True) as conn:
        conn.execute("DROP TABLE public.kept_over_a_crash")


def test_leftovers_that_hear_no_signal_are_gone_before_the_next_start(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed is not yet dead: until then a process keeps its port, and the next start would refuse that."""
    monkeypatch.setattr(child, "LEFTOVER_GRACE_S", 0.1)
    large = "import time; ballast = bytearray(100_000_000); print('ready', flush=True); time.sleep(600)"
    environment = clean_environment(**{child.MARK: str(directory)})
    frozen = [
        subprocess.Popen([sys.executable, "-c", large], env=environment, stdout=subprocess.PIPE) for _ in range(4)
    ]
    try:
        for each in frozen:
            assert each.stdout is not None
            assert each.stdout.readline() == b"ready\n"
            each.send_signal(signal.SIGSTOP)
        child.stop_leftover_children(directory)
        assert None not in [each.poll() for each in frozen]
    finally:
        for each in frozen:
            each.kill()
            each.communicate()


def test_up_refuses_a_taken_port_a_used_directory_and_bad_settings_in_plain_words(up: Up, eventually: Wait) -> None:
    up.start()
    up.wait_ready(eventually)

    def refused(**environment: str) -> tuple[int, str]:
        finished = subprocess.run(
            [sys.executable, "-m", "payments", "up"],
            cwd=up.directory,
            env=clean_environment(**environment),
            capture_output=True,
            text=True,
            check=False,
        )
        assert "Traceback" not in finished.stderr
        return finished.returncode, finished.stderr

    code, said = refused(PORT=str(up.port + 1))
    assert (code, "Another `payments up` is running" in said) == (DataDirectoryInUse.exit_code, True)
    code, said = refused(PORT=str(up.port), PAYMENTS_DATA_DIR=str(up.directory / "other"))
    assert (code, "Set PORT to a free port" in said) == (PortTaken.exit_code, True)
    code, said = refused(PORT="none", PAYMENTS_LEASE_S="0")
    assert (code, "PORT must be" in said, "PAYMENTS_LEASE_S must be" in said) == (78, True, True)
    no_directory = up.directory / "a file"
    no_directory.touch()
    for data_dir in (no_directory, no_directory / "below"):
        code, said = refused(PORT=str(up.port + 1), PAYMENTS_DATA_DIR=str(data_dir))
        assert (code, f"PAYMENTS_DATA_DIR names {data_dir}, which cannot be used" in said) == (78, True)
    unreachable = f"postgresql://nobody@127.0.0.1:{pick_free_port('127.0.0.1')}/none"
    other = {"PORT": str(up.port + 1), "PAYMENTS_DATA_DIR": str(up.directory / "other")}
    code, said = refused(DATABASE_URL=unreachable, **other)
    assert (code, "cannot be reached" in said) == (69, True)


def test_up_uses_a_database_and_a_stripe_that_are_given(
    up: Up, eventually: Wait, empty_database: Database, unused_stripe: str
) -> None:
    up.data_dir = up.directory / "given"
    up.start(
        DATABASE_URL=empty_database.admin_dsn(),
        STRIPE_API_KEY="sk_test_given",
        STRIPE_API_BASE=unused_stripe,
        PAYMENTS_DATA_DIR=str(up.data_dir),
    )
    values = up.wait_ready(eventually)
    assert set(up.pids()) == {"api", "relay", "worker"}
    assert values["DATABASE_URL"] == empty_database.admin_dsn()
    assert values["STRIPE_API_BASE"] == unused_stripe


@pytest.fixture
def unused_stripe() -> str:
    return "http://127.0.0.1:9"


@pytest.mark.skipif(shutil.which("curl") is None, reason="the printed commands use curl")
def test_up_prints_commands_that_work_with_the_real_processes(up: Up, eventually: Wait) -> None:
    up.start("--procfile", str(default_procfile()))
    up.wait_ready(eventually)
    eventually(lambda: "Ctrl-C stops everything." in up.output())
    shown = up.output().split("Try next, in another terminal:")[1].split("Ctrl-C")[0]
    authorize, read, rest = shown.strip().split("\n\n")
    answers = [subprocess.check_output(["bash", "-c", command], text=True) for command in (authorize, read)]
    payment = json.loads(answers[0])
    assert (payment["status"], payment["amount"]) == ("SUCCEEDED", 1999)
    assert [item["paymentId"] for item in json.loads(answers[1])["items"]] == [payment["paymentId"]]
    sql = rest.split("\n")[1]
    assert payment["paymentId"] in subprocess.check_output(["bash", "-c", sql], text=True)
