"""Processes that become two: who speaks for a call, and whose lock lives on."""

import os
import signal
import time

from tests.journal.homes import (
    an_intent,
    an_outcome,
    drain,
    new_home,
    new_spool,
    of_kind,
    run_python,
    statuses,
    write_calls,
)


def test_a_child_opens_a_segment_of_its_own_and_is_mute_for_what_the_parent_began(tmp_path):
    home = new_home(tmp_path)
    spool = new_spool(home)
    intent = an_intent()
    token = spool.write(intent)
    child = os.fork()
    if child == 0:
        ok = spool.write(an_outcome(intent, status="error"), follows=token) is None
        write_calls(spool, 3)
        os._exit(0 if ok else 1)
    assert 0 == os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert intent.id not in statuses(drain(home))

    spool.write(an_outcome(intent), follows=token)
    entries = drain(home)
    assert "success" == statuses(entries)[intent.id]
    assert 4 == len(statuses(entries))
    assert 2 == len({entry["process"] for entry in of_kind(entries, "log.opened")})


def test_a_child_does_not_keep_the_lock_of_a_parent_that_was_killed(tmp_path):
    """
    The parent dies with an open intent, its child lives on and records: the intent is swept all the same.
    """
    home = new_home(tmp_path)
    done = run_python(
        """
import os, signal, sys, time
from pathlib import Path
from openrouter_audit.journal.home import Home
from tests.journal.homes import an_intent, new_spool, write_calls
spool = new_spool(Home(Path(sys.argv[1])))
intent = an_intent()
token = spool.write(intent)
read, write = os.pipe()
child = os.fork()
if child == 0:
    write_calls(spool, 1)
    os.close(1), os.close(2)
    os.write(write, b"x")
    time.sleep(60)
    os._exit(0)
os.read(read, 1)
print(intent.id, child, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
""",
        home.path,
        check=False,
    )
    intent, child = done.stdout.split()
    try:
        found = statuses(drain(home))
        os.kill(int(child), 0)
    finally:
        os.kill(int(child), signal.SIGKILL)

    assert "unknown" == found[intent]
    assert 2 == len(found)
    deadline = time.monotonic() + 5
    while list(home.spool_dir.iterdir()) and time.monotonic() < deadline:
        drain(home)
        time.sleep(0.02)
    assert [] == list(home.spool_dir.iterdir())
    assert [] == list(home.state_dir.iterdir())
