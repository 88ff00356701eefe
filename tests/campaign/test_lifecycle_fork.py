"""
Forks at every point of a write, by whoever forks: see lifecycle_fork_points for what is done and what must hold.

CI takes a random line of each stretch of lines; the long campaign takes every line, and every third bytecode.
`FORK_SEED` repeats a run.
"""

from __future__ import annotations

import json
import signal
import sys

import pytest
from tests.campaign.lifecycle_tools import (
    Acknowledgements,
    acknowledged_calls,
    assert_whole,
    output_of,
    prove,
    python,
    seed_of,
)
from tests.campaign.results import Result, recorded
from tests.journal.homes import drain, new_home, statuses


def fork_everywhere(tmp_path, *, grain: str, every: int, campaign: str) -> None:
    seed = seed_of("FORK_SEED")
    home = new_home(tmp_path)
    result = Result(
        campaign=campaign,
        what=f"fork at a {grain} of a write: by a handler that ends, or goes on, or by another thread",
        unit="forks",
        broken={"campaigns that did not end": 1},
        seed=seed,
        again=f"FORK_SEED={seed} python3 dev.py test tests/campaign/test_lifecycle_fork.py",
    )
    with recorded(result):
        process = python(
            "from tests.campaign.lifecycle_fork_points import *; import sys\n"
            "print(json.dumps(main(Home(Path(sys.argv[1])), sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))))",
            home.path, grain, every, seed,
        )  # fmt: skip
        found = json.loads(output_of(process, timeout=3600).splitlines()[-1])
        result.points, result.broken = found["points"], found["broken"]
        result.figures = {"entries": f"{found['entries']:,}"}
        print(found["points"], found["broken"])
        assert {name: 0 for name in result.broken} == result.broken, json.dumps(found["where"], indent=1)
    assert result.points > 100


def test_a_fork_at_any_line_of_a_write_loses_and_doubles_nothing(tmp_path):
    fork_everywhere(tmp_path, grain="line", every=6, campaign="5-fork-lines")


@pytest.mark.long
def test_a_fork_at_every_line(tmp_path):
    fork_everywhere(tmp_path, grain="line", every=1, campaign="5-fork-lines-long")


@pytest.mark.long
def test_a_fork_at_every_third_bytecode(tmp_path):
    fork_everywhere(tmp_path, grain="opcode", every=3, campaign="5-fork-bytecodes-long")


def test_forks_among_threads_that_write_lose_and_double_nothing(tmp_path):
    """
    Four threads write and rotate without a pause; children and grandchildren are forked all the while, and write too.
    """
    seed = seed_of("FORK_SEED")
    home = new_home(tmp_path)
    acknowledge = Acknowledgements(tmp_path / "acknowledged")
    process = python(
        """
import faulthandler, os, random, signal, sys, threading
from pathlib import Path
from openrouter_audit.journal.home import Home
from tests.campaign.lifecycle_tools import Acknowledgements, acknowledged_calls
from tests.journal.homes import new_spool
faulthandler.register(signal.SIGALRM, chain=True)
rng = random.Random(int(sys.argv[3]))
acknowledge = Acknowledgements(Path(sys.argv[2]))
spool = new_spool(Home(Path(sys.argv[1])), rotate_bytes=5000)
stop = threading.Event()
def write():
    while not stop.is_set():
        acknowledged_calls(spool, 1, acknowledge)
threads = [threading.Thread(target=write) for _ in range(4)]
for thread in threads: thread.start()
def descend(depth):
    pid = os.fork()
    if pid == 0:
        code = 1
        signal.alarm(120)  # a child has none of its parent's
        try:
            acknowledged_calls(spool, rng.randrange(4), acknowledge)
            if depth:
                code = descend(depth - 1)
            else:
                code = 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
codes = {descend(rng.randrange(2)) for _ in range(60)}
stop.set()
for thread in threads: thread.join()
sys.exit(max(codes))
""",
        home.path,
        acknowledge._path,
        seed,
    )
    output_of(process, timeout=300)
    assert_whole(prove(home, acknowledge.read()))


def test_a_fork_while_another_thread_makes_the_first_segment_leaves_a_child_that_can_make_one(tmp_path):
    """
    The first cipher of a process imports modules. A module that is half imported when the process forks stays locked in the
    child, where the thread that would finish it is not: the child would wait for ever in its first write.
    """
    home = new_home(tmp_path)
    acknowledge = Acknowledgements(tmp_path / "acknowledged")
    process = python(
        """
import faulthandler, os, signal, sys, threading
from pathlib import Path
from openrouter_audit.journal.home import Home
from tests.campaign.lifecycle_tools import Acknowledgements, acknowledged_calls
from tests.journal.homes import new_spool
faulthandler.register(signal.SIGALRM, chain=True)
importing, forked = threading.Event(), threading.Event()
class Slow:
    def find_spec(self, name, path, target=None):
        if not importing.is_set():
            importing.set()
            forked.wait(1)  # the fork is to wait for us; one that does not comes in here
sys.meta_path.insert(0, Slow())
acknowledge = Acknowledgements(Path(sys.argv[2]))
spool = new_spool(Home(Path(sys.argv[1])))
def write():
    acknowledged_calls(spool, 1, acknowledge)
    importing.set()  # a cryptography that imports nothing is welcome
thread = threading.Thread(target=write)
thread.start()
importing.wait()
child = os.fork()
if child == 0:
    signal.alarm(60)
    acknowledged_calls(spool, 1, acknowledge)
    os._exit(0)
forked.set()
thread.join()
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
""",
        home.path,
        acknowledge._path,
    )
    output_of(process)
    proof = prove(home, acknowledge.read())
    assert_whole(proof)
    assert {"success": 2} == dict(proof.ends)


def test_a_child_keeps_no_hold_on_what_its_parent_was_sequencing(tmp_path):
    """
    A parent has locked the segment of a dead writer, to sequence it, when it forks and is killed. The child lives on, and yet
    the next sequencer sees that segment finished.
    """
    home = new_home(tmp_path)
    writer = python(
        """
import os, sys
from pathlib import Path
from openrouter_audit.journal.home import Home
from tests.journal.homes import an_intent, new_spool
intent = an_intent()
token = new_spool(Home(Path(sys.argv[1]))).write(intent)
print(intent.id, flush=True)
os._exit(0)
""",
        home.path,
    )
    orphan = output_of(writer).strip()
    parent = python(
        """
import os, signal, sys, threading, time
from pathlib import Path
from openrouter_audit.journal.followers import SequencerWorker
from openrouter_audit.journal.home import Home
from openrouter_audit.journal.sqlite import SqliteJournal
reached = threading.Event()
def stand(*_):
    reached.set()
    time.sleep(3600)
SqliteJournal.commit = stand
worker = SequencerWorker(Home(Path(sys.argv[1])), lambda _: None)
worker.start()
reached.wait()
child = os.fork()
if child == 0:
    time.sleep(3600)
print(child, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
""",
        home.path,
    )
    child = int(parent.stdout.readline())
    try:
        output_of_dead(parent)
        assert "unknown" == statuses(drain(home))[orphan]
    finally:
        import os

        os.kill(child, signal.SIGKILL)


def output_of_dead(process) -> None:
    """Its end, without waiting for its pipes: a child that lives has them too."""
    assert -signal.SIGKILL == process.wait(60)
    for pipe in (process.stdin, process.stdout, process.stderr):
        pipe.close()


@pytest.mark.skipif(sys.platform == "win32", reason="no fork there")
def test_a_child_takes_no_lease_of_its_parent_along(tmp_path):
    """
    Another thread of the parent is taking the lease, at each line of that, when the parent forks: the child gets no copy.
    """
    home = new_home(tmp_path)
    process = python(
        """
import os, sys, threading
from pathlib import Path
from openrouter_audit.journal import followers
from openrouter_audit.journal.home import Home
home = Home(Path(sys.argv[1]))
points = 0
while True:
    points += 1
    worker = followers.SequencerWorker(home, lambda _: None)
    stands, go, seen = threading.Event(), threading.Event(), 0
    def trace(frame, event, _):
        global seen
        if not frame.f_code.co_filename.endswith(("home.py", "forks.py")):
            return None
        if event == "line":
            seen += 1
            if seen == points and not frame.f_code.co_filename.endswith("forks.py"):
                stands.set()
                go.wait()
        return trace
    def take():
        sys.settrace(trace)
        assert worker._lease.acquire()
        sys.settrace(None)
        stands.set()
    thread = threading.Thread(target=take)
    thread.start()
    stands.wait()
    locked = seen == points
    # A line inside the guarded part cannot be forked at: the fork waits until it is over.
    threading.Timer(0.05, go.set).start()
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(write)
        os.read(read, 1)  # lives until its parent has given the lease up
        code = 0 if worker._lease.acquire() else 1
        os._exit(code)
    go.set()
    thread.join()
    worker._lease.release()
    os.close(write)
    assert 0 == os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), f"line {points}: the child holds its parent's lease"
    os.close(read)
    if seen < points:
        break
print(points)
""",
        home.path,
    )
    assert 8 < int(output_of(process))


def test_a_child_of_a_thread_that_writes_records_before_it_ends(tmp_path):
    """
    A pool's thread forks while it holds an open call of its own; both sides end properly, by sys.exit and by os._exit.
    """
    home = new_home(tmp_path)
    acknowledge = Acknowledgements(tmp_path / "acknowledged")
    process = python(
        """
import os, sys, threading
from pathlib import Path
from openrouter_audit import AuditLog
from tests.campaign.lifecycle_tools import Acknowledgements, acknowledged_calls
from tests.journal.homes import an_intent, an_outcome
audit = AuditLog.open(sys.argv[1], enrich=False)
acknowledge = Acknowledgements(Path(sys.argv[2]))
def run(number):
    intent = an_intent()
    token = audit.write(intent)
    acknowledge.say("i", intent)
    child = os.fork()
    if child == 0:
        audit.write(an_outcome(intent, status="error"), follows=token)
        acknowledged_calls(audit, 2, acknowledge)
        if number % 2:
            audit.flush(60)
        os._exit(0)
    assert 0 == os.waitpid(child, 0)[1]
    outcome = an_outcome(intent)
    audit.write(outcome, follows=token)
    acknowledge.say("o", outcome)
threads = [threading.Thread(target=run, args=(number,)) for number in range(6)]
for thread in threads: thread.start()
for thread in threads: thread.join()
""",
        home.path,
        acknowledge._path,
    )
    output_of(process)
    proof = prove(home, acknowledge.read())
    assert_whole(proof)
    assert {"success": 18} == dict(proof.ends)


def test_acknowledgements_are_compared(tmp_path):
    """
    The proof can fail: a record that was acknowledged and is not there is seen.
    """
    home = new_home(tmp_path)
    acknowledge = Acknowledgements(tmp_path / "acknowledged")

    class Nowhere:
        def write(self, facts: object, *, follows: object = None) -> None: ...

    acknowledged_calls(Nowhere(), 2, acknowledge)
    assert 4 == prove(home, acknowledge.read()).broken["acknowledged lost"]
