"""A spool at its edges: records that fit nowhere, files that come and go, counts that no page takes, ends that come twice."""

import errno
import gc
import logging
import os
import random
import time
import weakref

import msgspec
import pytest
from tests.campaign.losses import FaultyDisk
from tests.journal.homes import (
    an_intent,
    an_outcome,
    drain,
    new_home,
    new_spool,
    of_kind,
    segment_files,
    statuses,
    write_calls,
)
from tests.journal.test_hostile_frames import finished_segment

from openrouter_audit.core.entries import LogConfig
from openrouter_audit.errors import AuditUnavailable, HomeError, SpoolError
from openrouter_audit.journal import backlog as backlog_module
from openrouter_audit.journal import drain as drain_module
from openrouter_audit.journal import spool as spool_module
from openrouter_audit.journal.backlog import Backlog
from openrouter_audit.journal.drain import SpoolReader, count_waiting
from openrouter_audit.journal.home import Home, Lease
from openrouter_audit.journal.keys import load_keys
from openrouter_audit.journal.reserve import Reserve
from openrouter_audit.journal.segments import HEADER_BYTES, MAX_FRAME_BYTES
from openrouter_audit.journal.sqlite import SqliteJournal
from openrouter_audit.journal.writer_state import _MAX_FAILED, WriterState, read_counts


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


# Writing ----------------------------------------------------------------------------------------------------------------


def test_an_outcome_that_fits_no_frame_is_lost_and_counted_as_that(home):
    """Its vocabulary cannot be applied, so it cannot be made smaller; waiting would not make it so either."""
    spool = new_spool(home)
    intent = an_intent()
    token = spool.write(intent)
    assert None is spool.write(an_outcome(intent, id="x" * 2 * MAX_FRAME_BYTES), follows=token)
    assert 0 == spool.waiting
    spool.end(closing=True)
    del spool, token
    entries = drain(home)

    assert {"too_large": 1} == losses(entries)
    assert {intent.id: "unknown"} == statuses(entries)


def test_an_intent_that_fits_no_frame_is_refused_and_is_no_loss(home):
    """Nothing is sent, so nothing is missing: neither the record nor its number."""
    spool = new_spool(home)
    with pytest.raises(AuditUnavailable) as refused:
        spool.write(an_intent(id="x" * 2 * MAX_FRAME_BYTES))
    write_calls(spool, 1)
    spool.end(closing=True)
    del spool

    assert "frame_too_large" == refused.value.reason
    assert {} == losses(drain(home))


def test_a_recorder_that_ends_twice_says_so_once(home):
    spool = new_spool(home)
    write_calls(spool, 1)
    spool.end(closing=True)
    spool.end(closing=True)
    del spool

    assert 1 == len(of_kind(drain(home), "log.closed"))


def test_a_token_of_another_process_is_not_synced(home):
    """It speaks for its own process; nothing of ours waits for the disk, and nothing is raised."""
    spool = new_spool(home, mode="strict")
    token = spool.write(an_intent())
    token.pid += 1
    spool.sync(token)
    spool.sync(None)
    token.pid -= 1
    spool.sync(token)


def test_a_segment_that_is_closed_cannot_be_synced(home):
    """There is no descriptor any more: whoever waits for the disk hears that, and not that all is well."""
    spool = new_spool(home, mode="strict")
    token = spool.write(an_intent())
    token.close()
    with pytest.raises(ValueError, match="descriptor"):
        token.sync()


def test_the_size_of_a_segment_that_is_just_removed_counts_nothing(home):
    path = home.spool_dir / "gone"
    path.write_bytes(b"something")
    with os.scandir(home.spool_dir) as entries:
        found = [entry for entry in entries if entry.name == "gone"]
    path.unlink()

    assert [0] == [spool_module._size_of(entry) for entry in found]


def test_a_page_has_room_for_so_many_failures_and_no_more(tmp_path):
    """A segment takes nothing more after the first; what other threads were writing then is noted too."""
    state = WriterState(tmp_path / "page")
    for seq in range(_MAX_FAILED + 5):
        state.acknowledge(seq)
        state.fail(seq)

    assert set(range(_MAX_FAILED)) == read_counts(tmp_path / "page").failed


def test_settings_that_no_disk_takes_are_due_again(home, disk, monkeypatch):
    """The first frame of a segment is written, the settings behind it are not: the segment is taken back, and they are said later."""
    settings = LogConfig(
        v=1, id="ab" * 16, at_us=1, policy="cd" * 32, mode="buffer", content_mode="none", enrich_scope="own"
    )
    spool = new_spool(home, settings=settings)
    written = 0

    def second_fails(descriptor, buffers):
        nonlocal written
        written += 1
        if written == 2:
            raise OSError(errno.EIO, "Input/output error")
        return real(descriptor, buffers)

    real = os.writev
    monkeypatch.setattr(os, "writev", second_fails)
    with pytest.raises(AuditUnavailable):
        spool.write(an_intent())
    assert [] == segment_files(home)
    assert [] == list(home.state_dir.iterdir())

    write_calls(spool, 1)
    spool.end(closing=True)
    del spool
    entries = drain(home)
    assert (1, {}) == (len(of_kind(entries, "log.config")), losses(entries))


@pytest.mark.parametrize("heals", [True, False])
def test_counts_that_no_page_took_are_said_at_the_end(home, disk, heals, caplog):
    """A disk that takes nothing from the start: in a page where it heals before the end, else at least in the log of the program."""
    caplog.set_level(logging.WARNING)
    spool = new_spool(home, mode="best_effort", retry_s=None)
    disk.fails = 1.0
    token = spool.write(an_intent())
    spool.write(an_outcome(an_intent()), follows=token)
    disk.fails = 0.0 if heals else 1.0
    spool.end(closing=True)
    disk.fails = 0.0
    said = "2 records were lost, and no disk takes that count" in caplog.text
    del spool, token
    gc.collect()
    entries = drain(home)

    assert said is not heals
    assert ({"disk": 1, "no_intent": 1} if heals else {}) == losses(entries)


def test_a_closed_recorder_makes_a_segment_for_an_outcome_whose_own_takes_nothing(home, disk):
    """The segment of its intent has failed; what belongs to a call under way is taken all the same, and nothing after it."""
    spool = new_spool(home)
    intent = an_intent()
    token = spool.write(intent)
    spool.end(closing=True)
    token.failed = True
    spool.write(an_outcome(intent), follows=token)
    assert not spool.has_written
    with pytest.raises(AuditUnavailable):
        spool.write(an_intent())
    del spool, token
    entries = drain(home)

    assert {intent.id: "success"} == statuses(entries)
    assert {} == losses(entries)


# What waits -------------------------------------------------------------------------------------------------------------


class Waiter:
    """Stands for a spool: so many rounds something waits, then nothing."""

    def __init__(self, backlog, rounds):
        self.backlog, self.rounds = backlog, rounds

    def retry(self):
        self.rounds -= 1
        if self.rounds == 0:
            self.backlog.clear()
        return max(self.rounds, 0)


def test_the_thread_that_tries_again_ends_when_nothing_waits():
    """And leaves the token, so that the next record that waits has a thread again."""
    backlog = Backlog()
    backlog.append(None)
    waiter = Waiter(backlog, 3)
    backlog._thread_due.clear()
    backlog._retry_until_written(weakref.WeakMethod(waiter.retry), 0.0, os.getpid())

    assert (0, [True]) == (waiter.rounds, list(backlog._thread_due))


def test_the_thread_that_tries_again_goes_on_for_what_came_while_it_was_ending():
    """All was written, and then something waits again before the thread is gone: it takes the token back."""
    backlog = Backlog()

    class Late:
        tried = 0

        def retry(self):
            self.tried += 1
            if self.tried == 1:
                backlog.append(None)  # after the count that is returned
                return 0
            backlog.clear()
            return 0

    late = Late()
    backlog._thread_due.clear()
    backlog._retry_until_written(weakref.WeakMethod(late.retry), 0.0, os.getpid())

    assert (2, [True]) == (late.tried, list(backlog._thread_due))


def test_the_thread_that_tries_again_ends_with_its_recorder_and_in_a_child():
    backlog = Backlog()
    backlog._thread_due.clear()
    waiter = Waiter(backlog, 5)
    gone = weakref.WeakMethod(waiter.retry)
    backlog._retry_until_written(gone, 0.0, os.getpid() + 1)
    assert 5 == waiter.rounds
    del waiter
    gc.collect()
    backlog._retry_until_written(gone, 0.0, os.getpid())

    assert [] == list(backlog._thread_due)


def test_where_no_thread_is_to_be_had_the_next_record_asks_again(monkeypatch):
    def none(*_):
        raise RuntimeError("can't start new thread")

    backlog = Backlog()
    waiter = Waiter(backlog, 1)
    with monkeypatch.context() as patch:
        patch.setattr(backlog_module._thread, "start_new_thread", none)
        backlog.retry_in_background(weakref.WeakMethod(waiter.retry), every_s=0.0)
    assert [True] == list(backlog._thread_due)

    backlog._thread_due.clear()
    backlog.retry_in_background(weakref.WeakMethod(waiter.retry), every_s=0.0)  # one runs already
    assert [] == list(backlog._thread_due)


def test_a_reserve_is_no_larger_than_what_is_there(tmp_path):
    """A folder that is gone has none to give, and none is made where the disk has no room for it."""
    reserve = Reserve(tmp_path / "gone" / "reserve", 4096)
    reserve.ensure()
    assert (0, False) == (reserve.bytes, reserve.free())

    greedy = Reserve(tmp_path / "reserve", 2**60)
    greedy.ensure()
    assert [] == list(tmp_path.iterdir())


# Reading ----------------------------------------------------------------------------------------------------------------


def test_a_frame_whose_write_was_reported_as_failed_and_is_whole_is_one_entry(home, monkeypatch):
    """The disk took it and said no: the frame that replaces it names it, and only one of the two counts."""
    spool = new_spool(home)
    write_calls(spool, 1)
    intent = an_intent()
    token = spool.write(intent)
    real = os.writev

    def kept(descriptor, buffers):
        real(descriptor, buffers)
        monkeypatch.setattr(os, "writev", real)
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "writev", kept)
    spool.write(an_outcome(intent), follows=token)
    spool.end(closing=True)
    del spool, token
    entries = drain(home)

    assert 2 == len(segment_files(home)) or [] == segment_files(home)
    assert 1 == [entry["id"] for entry in of_kind(entries, "call.outcome")].count(intent.id)
    assert {} == losses(entries)


@pytest.mark.parametrize(
    "facts",
    [
        {"kind": "call.intent", "at_us": 2**60},
        {"kind": "call.intent", "id": "not an id"},
        {"kind": "log.successor", "former": "x", "reason": "damaged", "kept_size": 2**60, "kept_root": "ab" * 32},
    ],
)
def test_facts_no_entry_can_have_make_a_frame_unreadable(home, facts):
    """Whoever may seal may write them; the frame becomes a record of itself, and the drain goes on."""
    base = {"v": 1, "id": "ab" * 16, "at_us": 1, "group": "ab" * 16, "attempt": 1, "endpoint": "chat", "method": "POST"}
    finished_segment(home, msgspec.msgpack.encode((base | facts, None, None)))
    (unreadable,) = of_kind(drain(home), "log.unreadable")

    assert "facts" == unreadable["reason"]
    assert 1 == len(list(home.quarantine_dir.iterdir()))


def test_names_of_replaced_frames_that_are_none_are_passed_over(home):
    """The record itself is whole: it is an entry, and replaces nothing."""
    intent = an_intent()
    facts = {"kind": "call.intent", "model": "x" * 500} | {
        name: getattr(intent, name) for name in ("v", "id", "at_us", "group", "attempt", "endpoint", "method")
    }
    finished_segment(home, msgspec.msgpack.encode((facts, {"user": 7}, [["not", "names"], 9])))

    assert [intent.id] == [entry["id"] for entry in of_kind(drain(home), "call.intent")]


def reader_of(home):
    return SpoolReader(home.spool_dir, home.state_dir, load_keys(home.keys_dir).sealing)


def test_a_file_that_became_shorter_while_it_was_read_is_looked_at_again(home):
    """Its size was taken, then it was cut: what is there is read at the next look."""
    spool = new_spool(home)
    write_calls(spool, 3)
    (path,) = segment_files(home)
    reader = reader_of(home)
    (((source, size),),) = reader.look({})
    assert 7 == sum(1 for _ in source.read(0, size))
    os.truncate(path, size - 10)
    assert [] == list(source.read(0, size))
    assert 6 == sum(1 for _ in source.read(0, size - 10))
    source.close()
    source.close()
    reader.close()


def test_a_beginning_that_nobody_ended_is_removed_after_a_while(home):
    """Its maker died before it had a name. A young one may still get it."""
    old, young = home.spool_dir / ("ab" * 16 + ".new"), home.spool_dir / ("cd" * 16 + ".new")
    for path in (old, young):
        path.write_bytes(bytes(HEADER_BYTES))
    os.utime(old, (0, time.time() - drain_module._STALE_PARTIAL_S - 60))
    reader = reader_of(home)
    assert [] == reader.look({})
    reader.close()

    assert [young] == list(home.spool_dir.iterdir())


def test_a_segment_that_goes_while_the_folder_is_listed_is_passed_over(home):
    reader = reader_of(home)
    assert None is reader._open("ab" * 16 + ".seg")
    (home.spool_dir / ("cd" * 16 + ".seg")).mkdir()
    assert None is reader._open("cd" * 16 + ".seg")
    reader.close()


def test_a_segment_that_cannot_be_read_leaves_no_descriptor_behind(home, monkeypatch):
    spool = new_spool(home)
    write_calls(spool, 1)
    (path,) = segment_files(home)
    reader = reader_of(home)

    def broken(*_):
        raise OSError(errno.EIO, "Input/output error")

    before = len(os.listdir("/dev/fd"))
    with monkeypatch.context() as patch:
        patch.setattr(os, "pread", broken)
        with pytest.raises(OSError, match="Input/output"):
            reader._open(path.name)
    assert before == len(os.listdir("/dev/fd"))
    reader.close()


def test_waiting_frames_are_counted_without_a_key(home):
    """None of a segment that is final, none of one that was read, none of what is no segment."""
    spool = new_spool(home)
    write_calls(spool, 2)
    assert 5 == count_waiting(home.spool_dir, {})
    drain(home)
    (home.spool_dir / "folder.seg").mkdir()
    (home.spool_dir / "garbage.seg").write_bytes(b"something")
    with SqliteJournal.open(home.journal_path, read_only=True) as journal:
        positions = journal.positions()
    assert 0 == count_waiting(home.spool_dir, positions)
    (path,) = [path for path in segment_files(home) if path.stem in positions]
    data = path.read_bytes()
    spool.end(closing=True)
    del spool
    drain(home)
    path.write_bytes(data)
    with SqliteJournal.open(home.journal_path, read_only=True) as journal:
        assert 0 == count_waiting(home.spool_dir, journal.positions())


# The home ---------------------------------------------------------------------------------------------------------------


def test_a_home_is_found_by_argument_environment_and_custom(tmp_path, monkeypatch):
    monkeypatch.delenv("OPENROUTER_AUDIT_HOME", raising=False)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert tmp_path / "openrouter-audit" == Home.locate().path
    monkeypatch.delenv("XDG_DATA_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert tmp_path / ".local/share/openrouter-audit" == Home.locate().path
    monkeypatch.setenv("OPENROUTER_AUDIT_HOME", str(tmp_path / "own"))
    assert tmp_path / "own" == Home.locate().path
    assert tmp_path / "given" == Home.locate(tmp_path / "given").path


def test_a_home_with_a_foreign_file_in_the_place_of_its_journal_says_so(tmp_path):
    home = Home(tmp_path / "home")
    home.path.mkdir()
    home.journal_path.write_bytes(b"SQLite format 3\0" + b"\xff" * 5_000)
    with pytest.raises(HomeError, match="cannot be used"):
        home.ensure()


def test_a_home_that_a_crash_left_half_made_is_made_whole_under_the_same_policy(tmp_path):
    """The policy was written, the journal not: nobody pins another key afterwards."""
    home = new_home(tmp_path)
    policy, keys = home.policy_path.read_bytes(), load_keys(home.keys_dir).origin
    for path in home.path.glob("*.db*"):
        path.unlink()
    home.head_path.unlink()
    (home.keys_dir / "log-leftover").write_text("no key")
    home.ensure()

    assert (policy, keys) == (home.policy_path.read_bytes(), load_keys(home.keys_dir).origin)
    drain(home)


def test_a_lease_that_cannot_be_asked_for_says_why(tmp_path):
    lease = Lease(tmp_path / "gone" / "lease")
    with pytest.raises(HomeError, match="the lease cannot be taken: No such file"):
        lease.acquire()
    assert not lease.held


def test_a_spool_error_names_its_reason(home):
    spool = new_spool(home)
    token = spool.write(an_intent())
    with pytest.raises(SpoolError) as caught:
        token.append(bytes(2 * MAX_FRAME_BYTES))
    assert "frame_too_large" == caught.value.reason
    token.append(b"\x93\x80\xc0\xc0")
