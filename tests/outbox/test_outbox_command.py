import json
import os
import subprocess
import sys

from payments.outbox.asyncapi import document
from tests.development.databases import Database
from tests.relay.outbox_rows import insert_lone_event


def outbox(database: Database, *words: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "DATABASE_URL": database.admin_dsn(), "COLUMNS": "150"}
    command = [sys.executable, "-m", "payments", "outbox", *words]
    return subprocess.run(command, env=env, capture_output=True, text=True, check=False)


def test_status_tells_what_each_queue_is_owed(database: Database) -> None:
    assert outbox(database, "status").returncode == 0
    with database.connect() as admin:
        row = insert_lone_event(admin, "refund-requested")
        answer = outbox(database, "status", "--json")
        lanes = {lane["queue"]: lane for lane in json.loads(answer.stdout)}
        assert answer.returncode == 0
        assert {queue: lane["waiting"] for queue, lane in lanes.items() if lane["waiting"]} == {"refund_requested": 1}
        assert not lanes["refund_requested"]["late"]
        admin.execute("set session_replication_role = replica")  # the outbox is append-only, also for an administrator
        day = "now() - interval '1 day 2 s'"
        admin.execute(f"update payments.outbox set occurred_at = {day} where outbox_id = %s", (row,))
    late = outbox(database, "status")
    assert late.returncode == 1
    assert "late" in next(line for line in late.stdout.splitlines() if "refund_requested" in line)


def test_asyncapi_prints_the_document(database: Database) -> None:
    assert json.loads(outbox(database, "asyncapi").stdout) == document()
