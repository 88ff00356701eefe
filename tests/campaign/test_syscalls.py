"""
A fault at every system call: the process goes on, refuses in words, or dies, and nothing acknowledged is lost or doubled.

`SYSCALL_SEED` and `SYSCALL_POINTS` choose another sample (0 points: all there are). Here are also, one by one, the faults that
the sweep found.
"""

import fcntl
import json
import os
import random
import shutil
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import apsw
import pytest
from tests.campaign.results import ROOT, Result, recorded
from tests.campaign.syscalls import BROKEN, Point, check_durability, sample
from tests.journal.homes import check_log, drain, new_home, new_spool, statuses, write_calls

from openrouter_audit.errors import CommitUnknown, HomeError, JournalUnavailable
from openrouter_audit.journal import sqlite
from openrouter_audit.journal.files import write_whole
from openrouter_audit.journal.home import Lease
from openrouter_audit.journal.sequencer import Sequencer
from openrouter_audit.journal.sqlite import SqliteJournal, open_connection

CI_POINTS = 300
LONG_POINTS = 4000
PARTS = 2
"""Processes that share the points: what a point takes is mostly waiting for another process."""
WHAT = {
    "strace": "each system call of each operation fails, fails for good, or is the last: strace",
    "shim": "the same by a shim: lost, done and yet failed, short writes, kills before, in and after a call",
}


def sweep(tool, *, points):
    seed = int(os.environ.get("SYSCALL_SEED", random.randrange(2**32)))
    points = int(os.environ.get("SYSCALL_POINTS", points))
    print(f"SYSCALL_SEED={seed} SYSCALL_POINTS={points}")
    again = f"SYSCALL_SEED={seed} SYSCALL_POINTS={points} python3 dev.py test tests/campaign/test_syscalls.py -k {tool}"
    with recorded(
        Result(campaign=f"2-syscalls-{tool}", what=WHAT[tool], unit="points", seed=seed, again=again)
    ) as result:
        command = [sys.executable, "-W", "error", "-m", "tests.campaign.syscalls", tool]
        command += ["--seed", str(seed), "--points", str(points), "--parts", str(PARTS)]

        def part(number):
            done = subprocess.run(
                [*command, "--part", str(number)], capture_output=True, text=True, cwd=ROOT, check=False
            )
            assert 0 == done.returncode, done.stderr
            return [json.loads(line) for line in done.stdout.splitlines()]

        with ThreadPoolExecutor(PARTS) as pool:
            parts = list(pool.map(part, range(PARTS)))
        existing = parts[0][0]["points"]
        played = [line for lines in parts for line in lines[1:]]

        result.points = len(played)
        broken = [(kind, line["point"], text) for line in played for kind, text in line["broken"]]
        result.broken = {kind: sum(kind == one for one, _, _ in broken) for kind in BROKEN}
        ends = Counter(line["end"] for line in played)
        result.figures = {
            "points there are": f"{existing:,}",
            "reached": f"{sum(line['came'] for line in played):,}",
            **{f"processes {end}": f"{count:,}" for end, count in sorted(ends.items())},
        }
        print_counts(played)
    assert len(played) == min(points or existing, existing)
    assert sum(line["came"] for line in played) > 0.9 * len(played)
    assert [] == broken


def print_counts(played):
    """For each operation: how many points at which call."""
    counts = {}
    for line in played:
        operation, call, _, _ = line["point"].split("/")
        counts.setdefault(operation, Counter())[call] += 1
    for operation, calls in sorted(counts.items()):
        print(f"{operation}: " + ", ".join(f"{call} {count}" for call, count in sorted(calls.items())))


@pytest.fixture
def strace():
    """A system without strace has not been swept, and that is said; where the project is tested for everybody it fails."""
    if shutil.which("strace") is None:
        lacking = "strace is not installed (apt-get install strace)"
    elif subprocess.run(["strace", "-o", os.devnull, "true"], check=False, capture_output=True).returncode:
        lacking = "strace may not trace here"
    else:
        return
    if os.environ.get("CI") and sys.platform == "linux":
        pytest.fail(lacking)
    pytest.skip(f"THE SWEEP OF SYSTEM CALLS WAS NOT MADE: {lacking}; the shim's was")


def test_a_fault_at_any_system_call_loses_and_doubles_nothing_by_strace(strace):
    sweep("strace", points=CI_POINTS)


def test_a_fault_at_any_system_call_loses_and_doubles_nothing_by_shim():
    sweep("shim", points=CI_POINTS)


@pytest.mark.long
@pytest.mark.parametrize("tool", ["strace", "shim"])
def test_thousands_of_faults(tool, request):
    if tool == "strace":
        request.getfixturevalue("strace")
    sweep(tool, points=LONG_POINTS)


# The sweep itself ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("events", "found"),
    [
        ([("write", "a", True), ("sync", "a", True), ("sent", "a", True)], []),
        ([("write", "a", True), ("sent", "a", True)], ["sent before durable"]),
        (
            [("write", "a", True), ("sync", "a", True), ("write", "a", True), ("sent", "a", True)],
            ["sent before durable"],
        ),
        ([("write", "a", True), ("sync", "b", True), ("sent", "a", True)], ["sent before durable"]),
        ([("write", "a", True), ("sync", "a", False), ("write", "b", True)], []),
        ([("write", "a", True), ("sync", "a", False), ("write", "a", True)], ["written after a failed sync"]),
        (
            [("write", "a", True), ("sync", "a", False), ("sync", "a", True), ("sent", "a", True)],
            ["sent before durable"],
        ),
    ],
)
def test_a_call_is_sent_when_its_segment_is_synced_and_a_failed_sync_retires_it(events, found):
    """
    A second sync that succeeds proves nothing: the kernel may have dropped the pages with the first.
    """
    assert found == [kind for kind, _ in check_durability(events)]


def test_a_sample_is_the_same_for_its_seed_and_meets_every_call_of_every_operation_first():
    points = [Point(o, c, n, f) for o in "ab" for c in "xyz" for n in range(1, 20) for f in ("EIO", "KILL")]
    chosen = sample(points, 12, 7)

    assert sample(points[::-1], 12, 7) == chosen != sample(points, 12, 8)
    assert 12 == len({(point.operation, point.call, point.fault) for point in chosen})
    assert sorted(points) == sorted(sample(points, 0, 7))


# What it found ---------------------------------------------------------------------------------------------------


@pytest.fixture
def home(tmp_path):
    return new_home(tmp_path)


def test_a_disk_that_takes_files_in_parts_makes_a_whole_home(tmp_path, monkeypatch):
    """
    Keys, policy and head were once written with whatever the disk took of them at first, and a home with half a key in it
    could never be opened again.
    """
    write = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: write(descriptor, data[: max(1, len(data) // 2)]))
    write_whole(tmp_path / "file", b"0123456789" * 100)
    home = new_home(tmp_path)
    monkeypatch.undo()

    assert b"0123456789" * 100 == (tmp_path / "file").read_bytes()
    write_calls(new_spool(home), 1)
    assert 1 == len(statuses(drain(home)))


@pytest.mark.parametrize("function", ["ftruncate", "pwrite"])
def test_a_full_disk_that_cannot_tell_who_has_the_lease_does_not_lock_it_for_ever(home, monkeypatch, function):
    def refuses(*_):
        raise OSError(28, "No space left on device")

    lease = Lease(home.lease_path)
    monkeypatch.setattr(os, function, refuses)
    assert lease.acquire()
    lease.release()
    assert Lease(home.lease_path).acquire()


def test_a_lease_that_cannot_be_asked_for_is_a_declared_error_and_leaves_no_lock(home, monkeypatch):
    def refuses(*_):
        raise OSError(37, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuses)
    with pytest.raises(HomeError):
        Lease(home.lease_path).acquire()
    monkeypatch.undo()
    assert Lease(home.lease_path).acquire()


def test_a_database_that_could_only_be_opened_for_reading_is_not_kept(home, monkeypatch):
    """
    When the first open fails SQLite takes a descriptor for reading, which would serve a sequencer for the rest of its life.
    """
    connect = apsw.Connection
    monkeypatch.setattr(sqlite.apsw, "Connection", lambda path, flags: connect(path, flags=apsw.SQLITE_OPEN_READONLY))
    with pytest.raises(JournalUnavailable):
        open_connection(home.journal_path)


def test_a_journal_that_cannot_be_read_says_so(home):
    journal = SqliteJournal.open(home.journal_path, read_only=True)
    journal.close()
    for read in (
        journal.head,
        journal.positions,
        journal.last_kept_us,
        lambda: list(journal.entries()),
        lambda: list(journal.tiles()),
        lambda: journal.tile(0, 0),
        lambda: journal.open_calls("a"),
        lambda: journal.rewritten("a"),
    ):
        with pytest.raises(JournalUnavailable):
            read()


def test_a_spool_that_cannot_be_read_is_a_declared_error_and_drained_later(home):
    write_calls(new_spool(home), 2)
    sequencer = Sequencer(home)
    aside = home.spool_dir.rename(home.path / "aside")
    with pytest.raises(JournalUnavailable):
        sequencer.drain()
    aside.rename(home.spool_dir)
    sequencer.drain()
    sequencer.close()

    assert 2 == len(statuses(check_log(home)))


def test_a_sequencer_that_cannot_look_after_an_unknown_commit_looks_later(home, monkeypatch):
    """
    COMMIT fails, and so does opening the file again: once the sequencer then had no journal for the rest of its life.
    """
    write_calls(new_spool(home), 2)
    sequencer = Sequencer(home)

    def unknown(*_):
        raise CommitUnknown("no answer")

    def gone(*_, **__):
        raise JournalUnavailable("journal.db cannot be opened")

    monkeypatch.setattr(SqliteJournal, "commit", unknown)
    with pytest.raises(CommitUnknown):
        sequencer.drain()
    monkeypatch.setattr(SqliteJournal, "open", gone)
    with pytest.raises(JournalUnavailable):
        sequencer.drain()
    monkeypatch.undo()
    sequencer.drain()
    sequencer.close()

    assert 2 == len(statuses(check_log(home)))
