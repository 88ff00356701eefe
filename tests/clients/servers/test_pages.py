"""The pages of docs/how-to/clients about servers and notebooks: their programs are served, asked and ended as a reader does it."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import time
import urllib.request

import pytest
from jupyter_client.blocking import BlockingKernelClient
from tests.clients.pages import at_emulator, environment_of, programs_of, python, recorded, text_of
from tests.docs.pages import blocks

from openrouter_audit.journal.home import Home
from openrouter_audit.testing import FakeOpenRouter

BILLING = {"team": "billing"}


@pytest.fixture
def fake():
    with FakeOpenRouter(seed=23) as fake:
        yield fake


@pytest.fixture
def home(tmp_path):
    return Home(tmp_path / "home")


@pytest.fixture
def start(tmp_path):
    """Start a module of Python's environment in the test's folder; what a failed test leaves is killed."""
    started = []

    def start(environment, *words):
        process = subprocess.Popen(
            [sys.executable, "-m", *words],
            cwd=tmp_path,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
            process.communicate()


def command_of(name: str) -> list[str]:
    """What a page says to start: the one block that is in no language."""
    ((_, command),) = [(language, body) for language, body in blocks(text_of(name)) if not language]
    return shlex.split(command)


def test_gunicorn_serves_the_application_of_its_page(tmp_path, fake, home, start):
    environment = environment_of(fake.port, home)
    (program,) = programs_of("gunicorn")
    (tmp_path / "app.py").write_text(at_emulator(program, environment))
    master = start(environment, *command_of("gunicorn"), "--bind", "127.0.0.1:0", "--no-control-socket")
    said = ""
    while not (found := re.search(r"Listening at: (http://127.0.0.1:\d+)", said)):
        line = master.stderr.readline()
        assert line, said
        said += line
    for user in ("alice", "bob", "alice"):
        with urllib.request.urlopen(urllib.request.Request(found[1], headers={"X-User": user}), timeout=60) as answer:
            assert answer.read()
    master.send_signal(signal.SIGTERM)
    _, rest = master.communicate(timeout=120)
    assert 0 == master.returncode, rest

    calls, rows = recorded(home, fake, environment)
    assert ["success"] * 3 == [call.status for call in calls]
    assert [("alice", BILLING), ("bob", BILLING), ("alice", BILLING)] == [(row["user_id"], row["tags"]) for row in rows]


def test_celery_does_the_task_of_its_page(tmp_path, fake, home, start):
    """Over a broker of files, whose two folders are one here."""
    (tmp_path / "data_in").mkdir()
    (tmp_path / "data_out").symlink_to("data_in")
    (tmp_path / "results").mkdir()
    environment = environment_of(fake.port, home) | {
        "CELERY_BROKER_URL": "filesystem://",
        "CELERY_RESULT_BACKEND": f"file://{tmp_path}/results",
    }
    (program,) = programs_of("celery")
    (tmp_path / "tasks.py").write_text(at_emulator(program, environment))
    workers = start(environment, *command_of("celery"), "--without-gossip", "--without-mingle")
    customer = "import tasks; print([task.get(timeout=100) for task in map(tasks.ask.delay, ['alice', 'bob'])])"
    asked = python(tmp_path, environment, "-c", customer)
    workers.send_signal(signal.SIGTERM)
    out, err = workers.communicate(timeout=120)
    assert 0 == asked.returncode, asked.stderr + out + err
    assert 0 == workers.returncode, err

    calls, rows = recorded(home, fake, environment)
    assert ["success"] * 2 == [call.status for call in calls]
    assert [("alice", BILLING), ("bob", BILLING)] == sorted((row["user_id"], row["tags"]) for row in rows)


def test_a_notebook_runs_the_cells_of_its_page(tmp_path, fake, home, start):
    environment = environment_of(fake.port, home)
    connection = tmp_path / "kernel.json"
    kernel = start(environment, "ipykernel_launcher", "-f", os.fspath(connection))
    deadline = time.monotonic() + 60
    while not (connection.exists() and connection.read_text().endswith("}")):
        assert kernel.poll() is None, kernel.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    notebook = BlockingKernelClient(connection_file=os.fspath(connection))
    notebook.load_connection_file()
    notebook.start_channels()
    printed = []
    try:
        notebook.wait_for_ready(timeout=60)
        first, second = programs_of("notebooks")
        for cell in (at_emulator(first, environment), second):
            reply = notebook.execute_interactive(
                cell, timeout=60, output_hook=lambda message: printed.append(message["content"].get("text", ""))
            )
            assert "ok" == reply["content"]["status"], reply
        notebook.shutdown(reply=True, timeout=60)
    finally:
        notebook.stop_channels()
        out, err = kernel.communicate(timeout=60)
    assert 0 == kernel.returncode, out + err

    calls, rows = recorded(home, fake, environment)
    assert [("success", None), ("success", True)] == [(call.status, call.intent.get("stream")) for call in calls]
    assert [("alice", BILLING)] * 2 == [(row["user_id"], row["tags"]) for row in rows]
    receipts = re.findall(r"Receipt\((\w+), attempt 1, success\)", "".join(printed))
    assert [call.intent["id"] for call in calls] == receipts
