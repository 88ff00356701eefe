"""celery's prefork pool, whose workers are replaced after two tasks; tasks come over a broker of files."""

from __future__ import annotations

import json
import signal
import subprocess
import sys

import pytest
from tests.cli.programs import CALL, a_desk

TASKS = f"""{CALL}
import celery
folder = os.getcwd()
app = celery.Celery("tasks", broker="filesystem://", backend=f"file://{{folder}}/results")
app.conf.update(
    broker_transport_options={{
        "data_folder_in": f"{{folder}}/queue", "data_folder_out": f"{{folder}}/queue", "control_folder": f"{{folder}}/control",
    }},
    worker_max_tasks_per_child=2,
)

@app.task
def ask():
    call()
    return os.getpid()
"""
CUSTOMER = "import json, tasks; print(json.dumps([r.get(timeout=100) for r in [tasks.ask.delay() for _ in range(8)]]))"
POOL = (
    "worker",
    "--pool",
    "prefork",
    "--concurrency",
    "2",
    "--loglevel",
    "WARNING",
    "--without-gossip",
    "--without-mingle",
)


@pytest.fixture
def desk(tmp_path):
    with a_desk(tmp_path) as desk:
        yield desk


def test_tasks_of_workers_that_are_replaced_are_recorded(desk):
    """
    A worker ends without a word, by `os._exit`; the pool puts another one in its place.
    """
    for name in ("results", "queue", "control"):
        (desk.folder / name).mkdir()
    desk.write("tasks.py", TASKS)
    workers = desk.start(sys.executable, "-m", "celery", "--app", "tasks", *POOL)
    customer = subprocess.run(
        [sys.executable, "-c", CUSTOMER], cwd=desk.folder, env=desk.environment, capture_output=True, text=True, check=False, timeout=120
    )  # fmt: skip
    workers.send_signal(signal.SIGTERM)
    out, err = workers.communicate(timeout=120)

    assert 0 == customer.returncode, customer.stderr + out + err
    pids = json.loads(customer.stdout)
    assert len(set(pids)) >= 4, "no worker was replaced"
    assert workers.pid not in pids
    assert 0 == workers.returncode, err
    desk.check(8)
