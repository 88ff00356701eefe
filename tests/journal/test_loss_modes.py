"""DESIGN section 6: what each mode does when the spool cannot take an intent or an outcome, and what then stands in the log."""

import contextlib
import gc
import logging
import os
import random
import time

import pytest
from tests.campaign.losses import FaultyDisk
from tests.journal.homes import (
    an_intent,
    an_outcome,
    drain,
    new_home,
    new_spool,
    now_us,
    of_kind,
    run_python,
    segment_files,
    statuses,
    write_calls,
)

from openrouter_audit.core.entries import CallCost, LogConfig, LogLoss
from openrouter_audit.errors import AuditUnavailable
from openrouter_audit.journal.spool import LostIntent
from openrouter_audit.journal.writer_state import read_counts


@pytest.fixture
def home(tmp_path):
    return new_home(tmp_path)


@pytest.fixture
def disk(home):
    """Healthy until somebody sets `room`, `fails`."""
    faulty = FaultyDisk(home.path)
    faulty.begin(random.Random(1))
    with faulty.mounted():
        yield faulty


def losses(entries):
    return {loss["reason"]: loss["count"] for loss in of_kind(entries, "log.loss")}


# Intents ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["buffer", "strict"])
def test_an_intent_that_cannot_be_written_is_refused_and_is_no_loss(home, disk, mode):
    spool = new_spool(home, mode=mode)
    write_calls(spool, 1)
    disk.room = 0
    with pytest.raises(AuditUnavailable):
        spool.write(an_intent())
    disk.room = None
    spool.end(closing=True)

    assert {} == losses(drain(home))


def test_best_effort_goes_on_and_counts_the_intent_and_its_outcome(home, disk):
    """
    Two calls while the disk is full, one of which never ends; then there is room again.
    """
    spool = new_spool(home, mode="best_effort")
    ids = write_calls(spool, 1)
    disk.room = 0
    intents = [an_intent(), an_intent()]
    tokens = [spool.write(intent) for intent in intents]
    assert [LostIntent, LostIntent] == [type(token) for token in tokens]
    disk.room = None
    assert None is spool.write(an_outcome(intents[0]), follows=tokens[0])
    ids += write_calls(spool, 1)
    spool.end(closing=True)
    entries = drain(home)

    assert {"disk": 2, "no_intent": 1} == losses(entries)
    assert ids == list(statuses(entries)), "and no outcome stands there without its intent"
    assert {"best_effort"} == {entry["mode"] for entry in of_kind(entries, "log.opened")}


def test_best_effort_on_a_disk_that_is_full_from_the_start_counts_in_memory(home, disk):
    """No page can be made, so the count waits for the first one that can."""
    spool = new_spool(home, mode="best_effort")
    disk.room = 0
    for _ in range(5):
        spool.write(an_intent())
    assert ([], 5) == (list(home.state_dir.iterdir()), spool._uncounted.total)
    disk.room = None
    write_calls(spool, 1)

    assert 0 == spool._uncounted.total
    spool.end(closing=True)
    assert {"disk": 5} == losses(drain(home))


def test_best_effort_gives_the_reserve_up_for_a_place_to_count(home, disk):
    """An earlier process left one. Killed right after, the count is there."""
    new_spool(home)._reserve.ensure()
    disk.room = 0
    spool = new_spool(home, mode="best_effort", reserve_bytes=0)
    spool.write(an_intent())
    assert 0 == spool._uncounted.total
    assert not (home.path / "reserve").exists()
    for segment in list(spool._segments):
        segment.close()
    disk.room = None

    assert {"disk": 1} == losses(drain(home))


def test_best_effort_at_the_bound_counts_as_full(home):
    spool = new_spool(home, mode="best_effort", max_bytes=6000)
    lost = sum(isinstance(spool.write(an_intent()), LostIntent) for _ in range(50))
    spool.end(closing=True)

    assert 10 < lost < 50
    assert {"full": lost} == losses(drain(home))


def test_best_effort_starts_on_a_full_home_and_counts_there(home):
    """Another process filled it: this one can write nothing, but for the page of its count."""
    other = new_spool(home, max_bytes=10**6)
    write_calls(other, 20)
    spool = new_spool(home, mode="best_effort", max_bytes=5000)
    for _ in range(3):
        assert isinstance(spool.write(an_intent()), LostIntent)
    spool.end(closing=True)

    assert {"full": 3} == losses(drain(home))


def test_best_effort_after_close_counts_as_closed(home):
    spool = new_spool(home, mode="best_effort")
    write_calls(spool, 1)
    spool.end(closing=True)
    intent = an_intent()
    token = spool.write(intent)
    spool.write(an_outcome(intent), follows=token)
    del spool
    gc.collect()

    assert {"closed": 1, "no_intent": 1} == losses(drain(home))


def test_best_effort_counts_what_a_fault_kept_from_being_watched(home, disk):
    spool = new_spool(home, mode="best_effort")
    write_calls(spool, 1)
    disk.room = 0
    spool.write(LogLoss(v=1, id="0" * 32, at_us=now_us(), reason="capture_fault", count=1))
    disk.room = None
    spool.end(closing=True)

    assert {"capture_fault": 1} == losses(drain(home))


@pytest.mark.parametrize("mode", ["buffer", "strict", "best_effort"])
def test_a_record_of_no_call_is_refused_in_every_mode(home, disk, mode):
    """Who writes a cost tries again; who is about to show content must not."""
    spool = new_spool(home, mode=mode)
    write_calls(spool, 1)
    disk.room = 0
    with pytest.raises(AuditUnavailable):
        spool.write(CallCost(v=1, id="0" * 32, at_us=now_us(), state="unresolved"))
    disk.room = None
    spool.end(closing=True)

    assert {} == losses(drain(home))


def test_best_effort_says_once_that_calls_go_unrecorded(home, disk, caplog):
    spool = new_spool(home, mode="best_effort")
    for _ in range(2):
        write_calls(spool, 1)
        disk.room = 0
        for _ in range(3):
            spool.write(an_intent())
        disk.room = None
    said = [record.message for record in caplog.records if "go on unrecorded" in record.message]

    assert 2 == len(said)


# Outcomes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["buffer", "strict", "best_effort"])
def test_memory_then_reserve_then_a_count(home, disk, mode):
    """
    The disk is full with many calls under way. A few outcomes fit in memory, some into the space of the reserve, the others are
    counted; the caller never hears of it.
    """
    spool = new_spool(home, mode=mode, backlog_bytes=800, reserve_bytes=16_000, retry_s=None)
    intents = [an_intent() for _ in range(200)]
    tokens = [spool.write(intent) for intent in intents]
    assert (home.path / "reserve").exists()
    disk.room = 0
    for intent, token in zip(intents, tokens, strict=True):
        spool.write(an_outcome(intent), follows=token)
    waiting = spool.waiting
    assert not (home.path / "reserve").exists()
    assert 1 <= waiting <= 5
    del tokens, token
    for segment in list(spool._segments):  # kill -9
        segment.close()
    disk.room = None
    entries = drain(home)
    written = sum(status == "success" for status in statuses(entries).values())

    assert 10 < written < 100
    assert {"disk_and_memory_full": 200 - written - waiting, "process_ended": waiting} == losses(entries)


def test_what_waits_at_close_gets_the_reserve(home, disk):
    spool = new_spool(home, reserve_bytes=40_000, retry_s=None)
    intents = [an_intent() for _ in range(10)]
    tokens = [spool.write(intent) for intent in intents]
    disk.room = 0
    for intent, token in zip(intents, tokens, strict=True):
        spool.write(an_outcome(intent), follows=token)
    assert 10 == spool.waiting
    del tokens, token
    spool.end(closing=True)
    disk.room = None
    entries = drain(home)

    assert {} == losses(entries)
    assert ["success"] * 10 == list(statuses(entries).values())


def test_what_finds_no_place_at_close_is_counted_at_once(home, disk, caplog):
    """
    Not at the end of the process, which may be far off: the segments are given up with what waited.
    """
    spool = new_spool(home, reserve_bytes=0, retry_s=None)
    intents = [an_intent() for _ in range(3)]
    tokens = [spool.write(intent) for intent in intents]
    disk.room = 0
    for intent, token in zip(intents, tokens, strict=True):
        spool.write(an_outcome(intent), follows=token)
    del tokens, token
    spool.end(closing=True)
    disk.room = None

    assert {"process_ended": 3} == losses(drain(home))
    assert ["3 outcomes could not be written; they are counted as lost"] == [r.message for r in caplog.records]


def test_what_waits_is_counted_when_the_interpreter_ends(home):
    run_python(
        """
import os, sys
from openrouter_audit import AuditLog
from tests.journal.homes import an_intent, an_outcome
audit = AuditLog.open(sys.argv[1], enrich=False, sequencer=False)
audit._spool._reserve.free()
intents = [an_intent() for _ in range(4)]
tokens = [audit.write(intent) for intent in intents]
def full(*_): raise OSError(28, "No space left on device")
os.writev = full
for intent, token in zip(intents, tokens):
    audit.write(an_outcome(intent), follows=token)
""",
        home.path,
    )
    entries = drain(home)

    assert {"process_ended": 4} == losses(entries)
    assert ["unknown"] * 4 == list(statuses(entries).values())


def test_what_waited_and_was_written_is_no_loss_though_the_process_is_killed_right_then(home):
    """
    Killed in the write that took the waiting record: before it was noted that nothing waits any more.
    """
    run_python(
        """
import os, signal, sys
from pathlib import Path
from openrouter_audit.journal.home import Home
from tests.journal.homes import an_intent, an_outcome, new_spool
spool = new_spool(Home(Path(sys.argv[1])), retry_s=None)
intent = an_intent()
token = spool.write(intent)
real = os.writev
def full(*_): raise OSError(28, "No space left on device")
os.writev = full
spool.write(an_outcome(intent), follows=token)
assert spool.waiting == 1
def last(descriptor, buffers):
    written = real(descriptor, buffers)
    if len(b"".join(buffers)) < 700 and os.fstat(descriptor).st_size > 900:  # not the first frame of the segment
        os.kill(os.getpid(), signal.SIGKILL)
    return written
os.writev = last
spool.retry_backlog()
raise SystemExit("not killed")
""",
        home.path,
        check=False,
    )
    entries = drain(home)

    assert ["success"] == list(statuses(entries).values())
    assert {} == losses(entries)


def test_an_idle_process_writes_what_waits_when_there_is_room(home, disk):
    """No later record comes to its help, and nobody asks for a flush."""
    spool = new_spool(home, retry_s=0.01)
    intent = an_intent()
    token = spool.write(intent)
    disk.room = 0
    spool.write(an_outcome(intent), follows=token)
    assert 1 == spool.waiting
    disk.room = None
    deadline = time.monotonic() + 30
    while (spool.waiting or not spool._backlog._thread_due) and time.monotonic() < deadline:
        time.sleep(0.005)
    del token
    spool.end(closing=True)

    assert "success" == statuses(drain(home))[intent.id]


def test_a_child_does_not_count_what_waits_in_its_parent(home):
    """The parent's outcome waits while it forks; child and parent end, and it is told once."""
    run_python(
        """
import os, sys
from pathlib import Path
from openrouter_audit.journal.home import Home
from tests.journal.homes import an_intent, an_outcome, new_spool, write_calls
spool = new_spool(Home(Path(sys.argv[1])), retry_s=None, reserve_bytes=0)
intent = an_intent()
token = spool.write(intent)
real = os.writev
def full(*_): raise OSError(28, "No space left on device")
os.writev = full
spool.write(an_outcome(intent), follows=token)
pid = os.fork()
if pid == 0:
    os.writev = real
    write_calls(spool, 1)
    assert spool.waiting == 0
    spool.end(closing=True)
    os._exit(0)
assert os.waitpid(pid, 0)[1] == 0
spool.end(closing=True)
""",
        home.path,
    )
    entries = drain(home)

    assert {"process_ended": 1} == losses(entries)
    assert ["success", "unknown"] == sorted(statuses(entries).values())


# The reserve --------------------------------------------------------------------------------------------------------


def test_the_reserve_is_real_blocks_made_once(home):
    spool = new_spool(home)
    write_calls(spool, 1)
    reserve = home.path / "reserve"
    status = reserve.stat()
    assert (4 * 1024 * 1024, 0o600) == (status.st_size, status.st_mode & 0o777)
    assert status.st_blocks * 512 >= status.st_size
    write_calls(new_spool(home), 1)

    assert status.st_ino == reserve.stat().st_ino


def test_no_reserve_is_made_where_it_would_take_the_last_room(home, disk):
    disk.room = 30_000
    spool = new_spool(home, reserve_bytes=40_000)
    write_calls(spool, 2)

    assert [] == list(home.path.glob("reserve*"))


def test_a_reserve_that_was_given_up_is_left_alone_for_a_while(home, monkeypatch):
    """Else a process under a quota would take back at once what it has just given."""
    spool = new_spool(home, rotate_bytes=1)
    write_calls(spool, 1)
    assert spool._reserve.free()
    write_calls(spool, 3)
    assert not (home.path / "reserve").exists()

    later = time.monotonic() + 3600
    monkeypatch.setattr(time, "monotonic", lambda: later)
    write_calls(spool, 3)
    assert (home.path / "reserve").exists()


# The bound ----------------------------------------------------------------------------------------------------------


def test_the_marks_of_the_bound(home, caplog):
    """
    One warning for each rise over a tenth, bodies left out from a half on, refusal at the whole.
    """
    caplog.set_level(logging.WARNING, "openrouter_audit")
    spool = new_spool(home, max_bytes=64_000)

    def fill(share: float) -> None:
        while sum(path.stat().st_size for path in segment_files(home)) < share * 64_000:
            write_calls(spool, 1)

    def warnings() -> int:
        return sum("bytes wait to be sequenced" in record.message for record in caplog.records)

    fill(0.05)
    assert (0, False) == (warnings(), spool.drops_bodies)
    fill(0.3)
    assert (1, False) == (warnings(), spool.drops_bodies)
    fill(0.75)
    assert (1, True) == (warnings(), spool.drops_bodies)
    with pytest.raises(AuditUnavailable) as refused:
        fill(2)
    assert "full" == refused.value.reason

    drain(home)
    fill(0.1)
    assert (1, False) == (warnings(), spool.drops_bodies)
    fill(0.4)
    assert 2 == warnings()


@pytest.mark.parametrize("mode", ["buffer", "best_effort"])
def test_nobody_drains_for_hours_and_the_bound_holds(home, monkeypatch, mode):
    """
    Segments are made by the hour; the home stays below its bound but for what one segment holds; later all is there or counted.
    """
    spool = new_spool(home, mode=mode, max_bytes=100_000)
    hour = [time.monotonic()]
    monkeypatch.setattr(time, "monotonic", lambda: hour[0])
    ids, refused, lost = [], 0, 0
    for number in range(400):
        hour[0] += 600
        intent = an_intent()
        try:
            token = spool.write(intent)
        except AuditUnavailable:
            refused += 1
            continue
        lost += isinstance(token, LostIntent)
        spool.write(an_outcome(intent), follows=token)
        if not isinstance(token, LostIntent):
            ids.append(intent.id)
        del token
        if number % 50 == 0:
            used = sum(path.stat().st_size for path in segment_files(home))
            assert used < 100_000 + 100_000 // 16 + 2_000
    monkeypatch.undo()
    assert 12 < len(segment_files(home))
    drain(home)
    assert 0 == spool.retry_backlog()
    ids += write_calls(spool, 5)
    spool.end(closing=True)
    entries = drain(home)

    assert set(ids) == set(statuses(entries))
    assert {"success"} == set(statuses(entries).values())
    if mode == "buffer":
        assert 100 < refused
        assert {} == losses(entries)
    else:
        assert {"full": lost, "no_intent": lost} == losses(entries)
        assert 100 < lost


def test_a_full_home_does_not_keep_the_sequencer_from_starting(home):
    """
    It is the one who makes room: a process whose first segment is refused must start it all the same.
    """
    write_calls(new_spool(home), 30)
    started = []
    spool = new_spool(home, max_bytes=5_000, on_process_start=lambda: started.append(1))
    for _ in range(3):
        with pytest.raises(AuditUnavailable):
            spool.write(an_intent())

    assert [1] == started


def test_settings_that_could_not_be_said_at_first_are_said_later(home, disk):
    settings = LogConfig(
        v=1, id="0" * 32, at_us=0, policy="a" * 64, mode="buffer", content_mode="none", enrich_scope="all"
    )
    spool = new_spool(home, settings=settings)
    for room in (0, 5_000):  # the second is enough for the page and the first frame
        disk.room = room
        with contextlib.suppress(AuditUnavailable):
            spool.write(an_intent())
    disk.room = None
    write_calls(spool, 1)
    spool.end(closing=True)

    assert 1 == len(of_kind(drain(home), "log.config"))


def test_the_page_of_a_living_process_tells_what_waits(home, disk):
    spool = new_spool(home, retry_s=None)
    intent = an_intent()
    token = spool.write(intent)
    disk.room = 0
    spool.write(an_outcome(intent), follows=token)

    counts = read_counts(home.state_dir / token.name)
    assert (1, 0) == (counts.waiting, counts.lost)
    disk.room = None
    spool.retry_backlog()
    assert 0 == read_counts(home.state_dir / token.name).waiting
    assert os.getpid() == token.pid
