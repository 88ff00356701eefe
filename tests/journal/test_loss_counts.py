"""The page of a writer: counted exactly by any number of threads and finalisers, read back after any end."""

import os
import sys
import threading
import time

import pytest
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

from openrouter_audit.errors import SpoolError
from openrouter_audit.journal.writer_state import LOSS_REASONS, STATE_BYTES, LossCounts, WriterState, read_counts


@pytest.fixture
def home(tmp_path):
    return new_home(tmp_path)


@pytest.fixture
def hasty():
    """Threads are interrupted as often as the interpreter can."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


def test_threads_that_count_at_once_lose_no_count(tmp_path, hasty):
    """Eight threads count in memory while a ninth pours it into a page: nothing is missing, nothing is there twice."""
    state, memory = WriterState(tmp_path / "page"), LossCounts()
    over = threading.Event()

    def count() -> None:
        for number in range(500):
            memory.lose(LOSS_REASONS[number % 2], 1 + number)
            state.lose("no_intent", 1 + number)

    def pour() -> None:
        while not over.is_set():
            memory.pour_into(state)

    threads = [threading.Thread(target=count) for _ in range(8)]
    pouring = threading.Thread(target=pour)
    for thread in (pouring, *threads):
        thread.start()
    for thread in threads:
        thread.join()
    over.set()
    pouring.join()
    memory.pour_into(state)
    losses = read_counts(tmp_path / "page").losses

    assert {"disk_and_memory_full": 2000, "process_ended": 2000, "no_intent": 4000} == {
        reason: loss.count for reason, loss in losses.items()
    }
    assert (1, 500) == (losses["no_intent"].from_us, losses["no_intent"].until_us)
    assert 0 == memory.total


def test_a_finaliser_may_count_inside_a_count():
    """It comes between any two steps of the outer one, which it must not wait for, and whose count it must not undo."""
    counts, inside = LossCounts(), []
    before = sys.gettrace()  # that of a tool which measures coverage

    def between_steps(frame, event, _argument):
        if frame.f_code is LossCounts._add.__code__:
            frame.f_trace_opcodes = True
            if event == "opcode":
                sys.settrace(None)
                inside.append(1)
                counts.lose("no_intent", 5)
                sys.settrace(between_steps)
        return between_steps

    sys.settrace(between_steps)
    try:
        counts.lose("disk", 5)
    finally:
        sys.settrace(before)
    assert 30 < len(inside)
    assert 1 + len(inside) == counts.total


def test_more_threads_than_slots_are_all_counted():
    """Whoever finds no free slot leaves the count for the next."""
    counts = LossCounts()
    slots = [counts._free.pop() for _ in range(len(counts._free))]
    counts.lose("disk", 1)
    counts._free.extend(slots)
    counts.lose("full", 2, 3)

    assert 4 == counts.total


def test_a_page_is_one_page_and_what_is_none_is_not_read(tmp_path):
    path = tmp_path / "page"
    state = WriterState(path)
    state.acknowledge(6)
    state.fail(7)
    assert STATE_BYTES == path.stat().st_size
    assert (7, frozenset({7}), 0, 0) == (
        (counts := read_counts(path)).acknowledged,
        counts.failed,
        counts.lost,
        counts.waiting,
    )

    path.write_bytes(path.read_bytes()[:100])
    assert None is read_counts(path)
    assert None is read_counts(tmp_path / "none")


def test_a_damaged_page_stops_no_drain(home):
    """Numbers that nobody ever counted to: the segment is finished, with a loss as large as an entry can say."""
    spool = new_spool(home)
    ids = write_calls(spool, 2)
    (page,) = home.state_dir.iterdir()
    spool.end(closing=True)
    page.write_bytes(page.read_bytes()[:8] + b"\xff" * (STATE_BYTES - 8))
    entries = drain(home)

    assert ids == list(statuses(entries))
    assert {2**53 - 1} == {loss["count"] for loss in of_kind(entries, "log.loss") if loss["reason"] != "missing_tail"}
    assert [] == segment_files(home)


def test_what_waits_is_told_apart_from_what_is_lost(tmp_path):
    state = WriterState(tmp_path / "page")
    for _ in range(3):
        state.wait(1)
    state.written_after_all(2)
    state.lose("disk_and_memory_full", 3)
    counts = read_counts(tmp_path / "page")

    assert (2, 1) == (counts.waiting, counts.lost)


def test_a_frame_that_was_refused_is_no_loss_though_others_follow_it(home, monkeypatch):
    """
    One thread's frame is cut short and its call is refused; another thread, who had the segment already, writes after it.
    """
    spool = new_spool(home)
    segment = spool.write(an_intent())
    real = os.writev
    monkeypatch.setattr(os, "writev", lambda fd, buffers: os.write(fd, b"".join(buffers)[:40]))
    with pytest.raises(SpoolError):
        segment.append(b"x")
    monkeypatch.setattr(os, "writev", real)
    intent = an_intent()
    segment.append(b"\x93" + _encoded(intent) + b"\xc0\xc0")
    spool.write(an_outcome(intent), follows=segment)
    del segment
    spool.end(closing=True)
    entries = drain(home)

    assert [] == of_kind(entries, "log.loss")
    assert "success" == statuses(entries)[intent.id]


def _encoded(facts) -> bytes:
    import msgspec

    return msgspec.msgpack.encode(facts)


def test_a_cut_file_is_a_loss_of_as_many_as_were_acknowledged(home):
    spool = new_spool(home)
    segment = spool.write(an_intent())
    whole = segment_files(home)[0].stat().st_size
    for _ in range(4):
        spool.write(an_intent())
    os.truncate(segment_files(home)[0], whole + 3)
    del segment
    spool.end(closing=True)
    os.truncate(segment_files(home)[0], whole + 3)

    assert [("missing_tail", 5)] == [(loss["reason"], loss["count"]) for loss in of_kind(drain(home), "log.loss")]


def test_a_frame_that_became_unreadable_is_not_also_a_loss(home):
    """
    The outcome waited in memory, and the frame it got at last is damaged: it is told once, as unreadable.
    """
    spool = new_spool(home, retry_s=None)
    intent = an_intent()
    token = spool.write(intent)
    real = os.writev

    def full(*_):
        raise OSError(28, "No space left on device")

    os.writev = full
    try:
        spool.write(an_outcome(intent), follows=token)
    finally:
        os.writev = real
    assert 1 == spool.waiting
    assert 0 == spool.retry_backlog()
    newest = spool._newest[0][1]
    path = home.spool_dir / f"{newest.name}.seg"
    with path.open("r+b") as file:
        file.seek(-5, os.SEEK_END)
        file.write(b"\0\0\0\0")
    del token, newest
    spool.end(closing=False)
    entries = drain(home)

    assert 1 == len(of_kind(entries, "log.unreadable"))
    assert [] == of_kind(entries, "log.loss")


def test_windows_are_those_of_each_reason(home):
    before = time.time_ns() // 1000
    spool = new_spool(home)
    token = spool.write(an_intent())
    token.state.lose("too_large", before + 5)
    token.state.lose("too_large", before + 9)
    token.state.lose("disk", before + 7)
    del token
    spool.end(closing=True)
    losses = {
        loss["reason"]: (loss["count"], loss["from_us"], loss["until_us"]) for loss in of_kind(drain(home), "log.loss")
    }

    assert {"too_large": (2, before + 5, before + 9), "disk": (1, before + 7, before + 7)} == losses
