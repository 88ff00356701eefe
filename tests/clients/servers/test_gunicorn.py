"""gunicorn --preload: the application is loaded in a master, which forks the workers that serve."""

from __future__ import annotations

import os
import re
import signal
import sys
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import pytest
from tests.cli.programs import CALL, a_desk

APPLICATION = f"""{CALL}
call()  # while the application is loaded: in the master

def application(environ, start_response):
    call()
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [str(os.getpid()).encode()]
"""
OPTIONS = ("--preload", "--workers", "2", "--bind", "127.0.0.1:0", "--no-control-socket")


@pytest.fixture
def desk(tmp_path):
    with a_desk(tmp_path) as desk:
        yield desk


def start(desk, *options):
    """The master, and a function that asks it one thing; gives the worker's pid."""
    desk.write("app.py", APPLICATION)
    master = desk.start(sys.executable, "-m", "gunicorn", *OPTIONS, *options, "app:application")
    said = ""
    while not (found := re.search(r"Listening at: (http://127.0.0.1:\d+)", said)):
        line = master.stderr.readline()
        assert line, said
        said += line

    def ask(_=None):
        with urllib.request.urlopen(found[1], timeout=60) as answer:
            return int(answer.read())

    return master, ask


def end(master):
    master.send_signal(signal.SIGTERM)
    _, rest = master.communicate(timeout=120)
    assert 0 == master.returncode, rest


def test_master_and_workers_that_are_replaced_are_recorded(desk):
    """
    The master makes a call before it forks; each worker leaves after five requests.
    """
    master, ask = start(desk, "--max-requests", "5")
    with ThreadPoolExecutor(4) as threads:
        pids = set(threads.map(ask, range(24)))
    end(master)

    assert len(pids) > 2, "no worker was replaced"
    assert master.pid not in pids
    desk.check(1 + 24)


def test_a_worker_that_is_killed_and_its_successor_are_recorded(desk):
    master, ask = start(desk)
    victim = ask()
    os.kill(victim, signal.SIGKILL)
    deadline = time.monotonic() + 60
    others = {ask_again(ask, deadline) for _ in range(4)}
    end(master)

    assert victim not in others
    desk.check(1 + 1 + 4)


def ask_again(ask, deadline):
    """A request may go to the worker that is being killed."""
    while True:
        try:
            return ask()
        except OSError:
            assert time.monotonic() < deadline
            time.sleep(0.1)
