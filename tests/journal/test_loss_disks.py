"""
Disks that are really full, really read-only and really refuse: tmpfs of 8 MiB in a mount namespace of its own, the home of a plain
user, a limit on file sizes.

Each test is a process that mounts, fills and records, and prints what it saw; the namespace ends with it, and with the namespace the
mounts. Where nobody may mount the tests are skipped, loudly; on CI as root that is a failure.
"""

import functools
import json
import os
import shutil
import subprocess
import sys
import tempfile

import pytest

PRELUDE = """
import errno, json, logging, os, shutil, subprocess, sys
from pathlib import Path
from openrouter_audit import AuditLog
from openrouter_audit.core.entries import Private
from openrouter_audit.errors import AuditUnavailable, FlushTimeout
from openrouter_audit.journal.home import Home
from openrouter_audit.journal.spool import LostIntent
from tests.journal.homes import an_intent, an_outcome, check_log, drain, new_spool, of_kind, statuses, write_calls

folder = Path(sys.argv[1])
home = folder / "home"

def mount(point):
    point.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "none", point], check=True)

def fill(point):
    with (point / "filling").open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError as error:
            assert error.errno == errno.ENOSPC

def losses(entries):
    return {loss["reason"]: loss["count"] for loss in of_kind(entries, "log.loss")}

def say(**what):
    print(json.dumps(what))
"""


@functools.cache
def why_not_mount() -> str | None:
    if shutil.which("unshare") is None or sys.platform != "linux":
        return "no unshare here"
    tried = subprocess.run(
        ["unshare", "-m", "mount", "-t", "tmpfs", "none", "/mnt"], capture_output=True, text=True, check=False
    )
    return None if tried.returncode == 0 else f"mounting is not permitted here: {tried.stderr.strip()}"


@pytest.fixture
def on_small_disk(tmp_path):
    """Run code where it may mount; its last line of output."""
    reason = why_not_mount()
    if reason is not None:
        if os.environ.get("CI") and os.geteuid() == 0:
            pytest.fail(f"real full disks were not tried: {reason}")
        pytest.skip(f"REAL FULL DISKS WERE NOT TRIED: {reason}")

    def run(code: str, *arguments: str) -> dict:
        command = ["unshare", "-m", sys.executable, "-W", "error", "-c", PRELUDE + code, str(tmp_path), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
        assert 0 == done.returncode, done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    return run


@pytest.mark.parametrize("mode", ["buffer", "strict", "best_effort"])
def test_a_full_disk_under_the_whole_home(on_small_disk, mode):
    """
    Calls are under way when the disk fills. New ones are refused, or lost; the outcomes wait, get the reserve when the process
    ends, and nothing is lost that the mode did not let go.
    """
    seen = on_small_disk(
        """
mode = sys.argv[2]
mount(home)
audit = AuditLog.open(home, mode=mode, sequencer=False, enrich=False)
calls = [an_intent() for _ in range(200)]
tokens = [audit.write(call) for call in calls]
fill(home)
while True:  # what is left of the segment's last page
    try:
        if isinstance(audit.write(an_intent()), LostIntent):
            break
    except AuditUnavailable:
        break
refused, lost = 0, 1 if mode == "best_effort" else 0
for _ in range(20):
    try:
        lost += isinstance(audit.write(an_intent()), LostIntent)
    except AuditUnavailable:
        refused += 1
for call, token in zip(calls, tokens):
    audit.write(an_outcome(call), follows=token)
waited = audit._spool.waiting
reserve = (home / "reserve").exists()
del token, tokens
audit.close()
(home / "filling").unlink()
entries = drain(Home(home))
ended = statuses(entries)
say(refused=refused, lost=lost, waited=waited, reserve=[reserve, (home / "reserve").exists()], losses=losses(entries),
    ended=sorted({ended[call.id] for call in calls}))
""",
        mode,
    )
    assert ["success"] == seen["ended"]
    assert 150 < seen["waited"]
    assert [True, False] == seen["reserve"]
    if mode == "best_effort":
        assert (0, {"disk": seen["lost"]}) == (seen["refused"], seen["losses"])
        assert 21 == seen["lost"]
    else:
        assert (20, {}) == (seen["refused"], seen["losses"])


def test_a_full_disk_without_a_reserve_counts_what_it_cannot_take(on_small_disk):
    """The page of the writer was made before; `kill -9` comes right after."""
    seen = on_small_disk(
        """
mount(home)
made = Home(home)
made.ensure()
pid = os.fork()
if pid == 0:
    spool = new_spool(made, backlog_bytes=20_000, reserve_bytes=0)
    calls = [an_intent() for _ in range(500)]
    tokens = [spool.write(call) for call in calls]
    fill(home)
    for call, token in zip(calls, tokens):
        spool.write(an_outcome(call), follows=token)
    os.kill(os.getpid(), 9)
os.waitpid(pid, 0)
(home / "filling").unlink()
entries = drain(made)
ended = list(statuses(entries).values())
say(losses=losses(entries), success=ended.count("success"), unknown=ended.count("unknown"))
"""
    )
    assert 500 == seen["success"] + seen["unknown"]
    assert seen["unknown"] == sum(seen["losses"].values())
    assert {"disk_and_memory_full", "process_ended"} == set(seen["losses"])


@pytest.mark.parametrize("name", ["journal.db", "vault.db", "reports.db"])
def test_a_full_disk_under_one_database_costs_no_call_and_no_record(on_small_disk, name):
    """
    Only the local spool may refuse a call. What is spooled is committed, and reported, when there is room again.
    """
    seen = on_small_disk(
        """
name = sys.argv[2]
small = folder / "small"
mount(small)
Home(home).ensure()
AuditLog.open(home, enrich=False).close()
from openrouter_audit.reports.projection import Projection
Projection.open(home / "journal.db", home / "reports.db").close()
for path in home.glob(name + "*"):
    shutil.move(path, small / path.name)
(home / name).symlink_to(small / name)
audit = AuditLog.open(home, enrich=False)
said = []
logging.getLogger("openrouter_audit").addHandler(
    type("Kept", (logging.Handler,), {"emit": lambda _, record: said.append(record.getMessage())})()
)

def write(count):
    for _ in range(count):
        call = an_intent()
        token = audit.write(call, Private(user=f"user {call.id}", commitment_key=os.urandom(32)))
        audit.write(an_outcome(call), follows=token)
        ids.append(call.id)

ids = []
write(5)
audit.flush(timeout=60)
fill(small)
for _ in range(20):  # the database may have room in its own file
    write(200)
    try:
        audit.flush(timeout=1)
    except FlushTimeout:
        if any("full" in each for each in said):
            break
write(5)
(small / "filling").unlink()
audit.flush(timeout=60)
audit.close()
entries = check_log(Home(home))
from openrouter_audit.reports.tables.sqlite import SqliteReports
with SqliteReports.open(home / "reports.db", read_only=True) as reports:
    reported = reports.count()
say(said=said, calls=len(ids), whole=sorted(statuses(entries)) == sorted(ids), reported=reported, losses=losses(entries))
""",
        name,
    )
    assert any("full" in said for said in seen["said"]), seen["said"]
    assert seen["whole"]
    assert seen["calls"] == seen["reported"]
    assert {} == seen["losses"]


@pytest.mark.parametrize("mode", ["buffer", "strict", "best_effort"])
def test_a_home_that_is_mounted_read_only(on_small_disk, mode):
    """
    It became so under a running program. `best_effort` goes on, counts in the page it has, and the page survives.
    """
    seen = on_small_disk(
        """
mode = sys.argv[2]
mount(home)
audit = AuditLog.open(home, mode=mode, sequencer=False, enrich=False)
call = an_intent()
token = audit.write(call)
for segment in list(audit._spool._segments):
    segment.failed = True  # a file that is open for writing cannot be made read-only under it: it is full, or an hour old
keep = os.open(home / "spool" / (token.name + ".seg"), os.O_RDONLY)
import ctypes
MS_RDONLY, MS_REMOUNT, MS_BIND = 1, 32, 4096
subprocess.run(["mount", "--bind", home, home], check=True)
subprocess.run(["mount", "-o", "remount,ro,bind", home], check=True)
refused = lost = 0
for _ in range(3):
    try:
        lost += isinstance(audit._spool.write(an_intent()), LostIntent)
    except AuditUnavailable:
        refused += 1
say(refused=refused, lost=lost)
""",
        mode,
    )
    assert ({"refused": 0, "lost": 3} if mode == "best_effort" else {"refused": 3, "lost": 0}) == seen


AS_A_PLAIN_USER = """
import os, sys
import logging, tempfile
from pathlib import Path
from openrouter_audit.errors import AuditUnavailable
from openrouter_audit.journal.home import Home
from openrouter_audit.journal.spool import LostIntent
from tests.journal.homes import an_intent, new_spool, write_calls
with tempfile.TemporaryDirectory() as first:  # loads all that it takes: the checkout may be closed to others
    Home(Path(first) / "home").ensure()
    write_calls(new_spool(Home(Path(first) / "home")), 1)
os.setgroups([])
os.setgid(65534)
os.setuid(65534)
home = Home(Path(sys.argv[1]) / "home")
home.ensure()
write_calls(new_spool(home), 1)
for path in (home.spool_dir, home.state_dir, home.path):
    path.chmod(0o500)
for mode in ("buffer", "strict"):
    try:
        new_spool(home, mode=mode).write(an_intent())
    except AuditUnavailable as error:
        assert error.reason == "write", error.reason
    else:
        raise SystemExit("written")
spool = new_spool(home, mode="best_effort")
said = []
logging.getLogger("openrouter_audit").addHandler(type("Kept", (logging.Handler,), {"emit": lambda _, r: said.append(r.getMessage())})())
for _ in range(3):
    assert isinstance(spool.write(an_intent()), LostIntent)
spool.end(closing=True)
assert said[-1] == "3 records were lost, and no disk takes that count", said
"""


def test_a_home_that_a_plain_user_may_only_read():
    """Without a page there is no entry; then the logger says what is lost, and how many."""
    if os.geteuid() != 0:
        pytest.skip("only root can become a plain user")
    with tempfile.TemporaryDirectory() as folder:  # not pytest's, whose parents are closed to others
        os.chown(folder, 65534, 65534)
        done = subprocess.run(
            [sys.executable, "-c", AS_A_PLAIN_USER, folder], capture_output=True, text=True, check=False, timeout=60
        )
    assert 0 == done.returncode, done.stderr


def test_a_limit_on_file_sizes_cuts_frames_and_loses_nothing(tmp_path):
    """
    The kernel writes what fits, then answers EFBIG: frames are written again elsewhere until no segment can even begin.
    """
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            PRELUDE
            + """
import resource, signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
made = Home(home)
made.ensure()
spool = new_spool(made, mode="best_effort", reserve_bytes=0, retry_s=None)
calls = [an_intent() for _ in range(10)]
tokens = [spool.write(call) for call in calls]
resource.setrlimit(resource.RLIMIT_FSIZE, (6_001, resource.RLIM_INFINITY))
ids = write_calls(spool, 50)
cut = len(list(made.spool_dir.glob("*.seg")))
resource.setrlimit(resource.RLIMIT_FSIZE, (50, resource.RLIM_INFINITY))
lost = sum(isinstance(spool.write(an_intent()), LostIntent) for _ in range(5))
for call, token in zip(calls, tokens):
    spool.write(an_outcome(call), follows=token)
waited = spool.waiting
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
del token, tokens
spool.end(closing=True)
entries = drain(made)
ended = statuses(entries)
say(cut=cut, lost=lost, waited=waited, losses=losses(entries), whole=set(ids) | {call.id for call in calls} == set(ended),
    ended=sorted(set(ended.values())))
""",
            str(tmp_path),
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert 0 == done.returncode, done.stderr
    seen = json.loads(done.stdout.splitlines()[-1])

    assert 3 < seen["cut"]
    assert (5, 10) == (seen["lost"], seen["waited"])
    assert {"disk": 5} == seen["losses"]
    assert (True, ["success"]) == (seen["whole"], seen["ended"])
